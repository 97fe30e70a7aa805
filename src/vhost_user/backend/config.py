"""The configuration space of a device as a declared struct (virtio 1.4, 2.5): named fields instead of bytes.

class ConsoleConfig(Config):
    cols = U16(80)
    rows = U16(25)
    max_nr_ports = U32(1)
    emerg_wr = U32(writable=True)

class Console(Device, type="console"):
    config = ConsoleConfig()

    def resize(self, cols, rows):
        with self.config.changing():           # the driver is told once
            self.config.cols, self.config.rows = cols, rows

    def config_written(self, field, old, new): # the driver wrote emerg_wr
        ...
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, overload

from vhost_user.protocol.errors import RequestRefused


@dataclass(frozen=True, slots=True)
class Change:
    """One field that the driver wrote, and what it holds now."""

    name: str
    old: int | bytes
    new: int | bytes


class Field:
    """What all fields have: a place, a size, and whether the driver may write.

    ``at`` is the offset in bytes; by default a field follows the one before it, without padding.
    """

    size: int
    """Bytes."""

    def __init__(self, *, writable: bool, at: int | None) -> None:
        self.writable = writable
        self.at = at
        self.name = ""
        self.offset = 0

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @property
    def end(self) -> int:
        """Offset of the first byte after it."""
        return self.offset + self.size

    def default_bytes(self) -> bytes:
        """What the field holds at first."""
        raise NotImplementedError

    def decode(self, data: bytes) -> Any:
        """Bytes to value."""
        raise NotImplementedError

    def check(self, data: bytes) -> None:
        """Raise ValueError if the driver may not write this."""


class Number(Field):
    """An unsigned number of ``size`` bytes, ``low`` to ``high`` when the driver writes it."""

    def __init__(
        self,
        size: int,
        default: int = 0,
        *,
        writable: bool = False,
        low: int = 0,
        high: int | None = None,
        byteorder: Literal["little", "big"] = "little",
        at: int | None = None,
    ) -> None:
        super().__init__(writable=writable, at=at)
        self.size = size
        self.low = low
        self.high = (1 << 8 * size) - 1 if high is None else high
        self.byteorder: Literal["little", "big"] = byteorder
        self.default = default

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: Config, owner: type) -> int: ...
    def __get__(self, instance: Config | None, owner: type) -> Self | int:
        return self if instance is None else int(instance._value(self))  # noqa: SLF001  # the other half of this class

    def __set__(self, instance: Config, value: int) -> None:
        instance._store(self, self.encode(value))  # noqa: SLF001  # as above

    def default_bytes(self) -> bytes:
        """``default``, encoded."""
        return self.encode(self.default)

    def encode(self, value: int) -> bytes:
        """Value to bytes; ValueError if it does not fit."""
        try:
            return value.to_bytes(self.size, self.byteorder)
        except (AttributeError, OverflowError, TypeError):
            raise ValueError(
                f"{self.name} is {value!r}: it must be a number from 0 to {(1 << 8 * self.size) - 1}"
            ) from None

    def decode(self, data: bytes) -> int:
        """Bytes to number."""
        return int.from_bytes(data, self.byteorder)

    def check(self, data: bytes) -> None:
        """Within ``low`` and ``high``."""
        value = self.decode(data)
        if not self.low <= value <= self.high:
            raise ValueError(f"{self.name} is {value}: it must be {self.low} to {self.high}")


class U8(Number):
    """A byte."""

    def __init__(self, default: int = 0, **options: Any) -> None:
        super().__init__(1, default, **options)


class U16(Number):
    """A 16-bit number, little-endian unless ``byteorder`` says otherwise."""

    def __init__(self, default: int = 0, **options: Any) -> None:
        super().__init__(2, default, **options)


class U32(Number):
    """A 32-bit number, little-endian unless ``byteorder`` says otherwise."""

    def __init__(self, default: int = 0, **options: Any) -> None:
        super().__init__(4, default, **options)


class U64(Number):
    """A 64-bit number, little-endian unless ``byteorder`` says otherwise."""

    def __init__(self, default: int = 0, **options: Any) -> None:
        super().__init__(8, default, **options)


class Bytes(Field):
    """``size`` bytes: a MAC address, a tag. A shorter value is padded with zeros at its end."""

    def __init__(
        self, size: int, default: bytes = b"", *, writable: bool = False, at: int | None = None
    ) -> None:
        super().__init__(writable=writable, at=at)
        self.size = size
        self.default = default

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: Config, owner: type) -> bytes: ...
    def __get__(self, instance: Config | None, owner: type) -> Self | bytes:
        return self if instance is None else bytes(instance._value(self))  # noqa: SLF001  # as above

    def __set__(self, instance: Config, value: bytes) -> None:
        instance._store(self, self.encode(value))  # noqa: SLF001  # as above

    def default_bytes(self) -> bytes:
        """``default``, padded."""
        return self.encode(self.default)

    def encode(self, value: bytes) -> bytes:
        """Padded to ``size``; ValueError if it is longer."""
        if len(value) > self.size:
            raise ValueError(f"{self.name} has {self.size} bytes, not {len(value)}")
        return bytes(value).ljust(self.size, b"\0")

    def decode(self, data: bytes) -> bytes:
        """As they are."""
        return data


class Config:
    """A configuration space: declare its fields in a class, then use them as attributes.

    Values given to the constructor take the place of the fields' defaults. Assigning to a field changes its
    bytes and tells the driver, unless nothing changed (C130); ``changing`` tells it once for several. Each
    device gets a copy of its own, so that a class attribute serves all of them. Safe for threads.

    Raises ValueError for fields that overlap, and for values that do not fit their field.
    """

    _fields: ClassVar[tuple[Field, ...]] = ()  # in the order of their offsets
    _size: ClassVar[int] = 0

    def __init_subclass__(cls) -> None:
        """Give each field its place."""
        super().__init_subclass__()
        fields = list(cls._fields)
        end = cls._size
        for name, field in vars(cls).items():
            if not isinstance(field, Field):
                continue
            if hasattr(Config, name):
                raise ValueError(
                    f"class {cls.__name__}: a field cannot have the name {name!r}, which Config uses itself"
                )
            field.offset = end if field.at is None else field.at
            end = field.end
            for other in fields:
                if field.offset < other.end and other.offset < field.end:
                    raise ValueError(
                        f"class {cls.__name__}: {name} (bytes {field.offset} to {field.end - 1}) "
                        f"overlaps {other.name}"
                    )
            fields.append(field)
        cls._fields = tuple(sorted(fields, key=lambda field: field.offset))
        cls._size = max((field.end for field in fields), default=0)

    def __init__(self, **values: int | bytes) -> None:
        self._lock = threading.RLock()
        self._data = bytearray(self._size)
        self._changed: Callable[[], object] | None = None
        self._depth = 0
        self._pending = False
        for field in self._fields:
            self._data[field.offset : field.end] = field.default_bytes()
        for name, value in values.items():
            if name not in {field.name for field in self._fields}:
                raise TypeError(
                    f"{type(self).__name__} has no field {name!r}; "
                    f"there are {', '.join(field.name for field in self._fields)}"
                )
            setattr(self, name, value)

    def copy(self, changed: Callable[[], object] | None = None) -> Self:
        """The same values in a space of its own; ``changed`` is called when the device changes one."""
        twin = type(self)()
        with self._lock:
            twin._data[:] = self._data  # noqa: SLF001  # of our own class
        twin._changed = changed  # noqa: SLF001  # as above
        return twin

    def pack(self) -> bytes:
        """The bytes that the driver reads."""
        with self._lock:
            return bytes(self._data)

    def _value(self, field: Field) -> Any:
        with self._lock:
            return field.decode(bytes(self._data[field.offset : field.end]))

    def _store(self, field: Field, data: bytes) -> None:
        with self._lock:
            if self._data[field.offset : field.end] == data:
                return
            self._data[field.offset : field.end] = data
            if self._depth:
                self._pending = True
                return
        self._tell()

    @contextmanager
    def changing(self) -> Iterator[Self]:
        """Several changes that belong together: the driver is told once, when the block ends."""
        with self._lock:
            self._depth += 1
        try:
            yield self
        finally:
            with self._lock:
                self._depth -= 1
                tell = self._pending and not self._depth
                if tell:
                    self._pending = False
            if tell:
                self._tell()

    def _tell(self) -> None:
        if self._changed is not None:
            self._changed()

    def write(self, offset: int, data: bytes, *, restore: bool = False) -> list[Change]:
        """The driver writes ``data`` at ``offset`` (C129). Gives the fields that are different now.

        Some front-ends write the whole space to change one field, others byte by byte: read-only bytes may
        be written as they are. With ``restore`` (a migration) read-only fields are written too. Raises
        RequestRefused, with nothing changed, for bytes that are read-only, out of bounds or beyond the end.
        """
        with self._lock:
            if offset < 0 or offset + len(data) > self._size:
                raise RequestRefused(
                    f"bytes {offset} to {offset + len(data)} lie beyond the configuration of {self._size}",
                    rule="C129",
                )
            new = self._data[:]
            new[offset : offset + len(data)] = data
            touched = [
                field for field in self._fields if field.offset < offset + len(data) and offset < field.end
            ]
            if not restore:
                self._check_access(new, offset, len(data), touched)
            changes = []
            for field in touched:
                old, now = bytes(self._data[field.offset : field.end]), bytes(new[field.offset : field.end])
                if old != now:
                    changes.append(Change(field.name, field.decode(old), field.decode(now)))
            self._data[:] = new
        return changes

    def _check_access(self, new: bytearray, offset: int, length: int, touched: list[Field]) -> None:
        writable = [field for field in touched if field.writable]
        open_bytes = {place for field in writable for place in range(field.offset, field.end)}
        here = range(offset, offset + length)
        changed = [place for place in here if new[place] != self._data[place]]
        refused = [place for place in changed if place not in open_bytes] if writable else list(here)
        if refused:
            name = next(
                (field.name for field in self._fields if field.offset <= refused[0] < field.end), "padding"
            )
            raise RequestRefused(f"byte {refused[0]} of the configuration ({name}) is read-only", rule="C129")
        for field in writable:
            if new[field.offset : field.end] != self._data[field.offset : field.end]:
                try:
                    field.check(bytes(new[field.offset : field.end]))
                except ValueError as error:
                    raise RequestRefused(str(error), rule="C129") from None

    def field_bytes(self) -> dict[str, bytes]:
        """The bytes of each field by its name."""
        with self._lock:
            return {field.name: bytes(self._data[field.offset : field.end]) for field in self._fields}

    def describe(self) -> list[tuple[int, int, str, str, int | bytes]]:
        """Offset, size, name, access and value of each field, for listings."""
        return [
            (
                field.offset,
                field.size,
                field.name,
                "read-write" if field.writable else "read-only",
                self._value(field),
            )
            for field in self._fields
        ]

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        values = ", ".join(f"{field.name}={self._value(field)!r}" for field in self._fields)
        return f"{type(self).__name__}({values})"
