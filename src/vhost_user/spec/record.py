"""The base of every structure that has a fixed layout: named fields over one :class:`struct.Struct`."""

import struct
from dataclasses import fields
from typing import Any, ClassVar, Self


class Record:
    """A structure of fixed size: frozen dataclass fields in the order of ``LAYOUT``.

    ``LAYOUT`` says sizes, padding and byte order (``=`` for what travels on the socket, C021; ``<`` for what
    a driver sees). Padding is always written as zeroes (H81). ``SIZE`` is in bytes.
    """

    __slots__ = ()

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=")
    SIZE: ClassVar[int] = 0

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        cls.SIZE = cls.LAYOUT.size

    def pack(self) -> bytes:
        """The bytes of this structure. Raises ValueError when a field does not fit its type."""
        # mypy does not know that every subclass is a dataclass.
        values = [getattr(self, field.name) for field in fields(self)]  # type: ignore[arg-type]
        try:
            return self.LAYOUT.pack(*values)
        except struct.error as error:
            raise ValueError(f"{type(self).__name__}: {error} in {self}") from None

    @classmethod
    def unpack(cls, data: Any) -> Self:
        """Read the structure from ``data`` (any bytes-like object of exactly ``SIZE`` bytes).

        Raises ValueError when the size is another.
        """
        if len(data) != cls.SIZE:
            raise ValueError(f"{cls.__name__} has {cls.SIZE} bytes, not {len(data)}")
        return cls(*cls.LAYOUT.unpack(data))
