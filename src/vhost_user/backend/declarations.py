"""What a device declares, checked in words: where the class says it, and again when the daemon is made."""

from __future__ import annotations

import dataclasses
import reprlib
import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from vhost_user.backend.shared_memory import SharedMemory
from vhost_user.backend.shared_objects import SharedObjects
from vhost_user.engine.device.header import Header
from vhost_user.spec.features import DeviceId

MAX_BATCH = 64
"""Requests; the engine takes no more at a time."""
MAX_QUEUES = 256
MAX_RING_SIZE = 32768
FEATURE_BITS = 64
MAX_ID = 0xFFFF


@runtime_checkable
class Packed(Protocol):
    """A configuration space as an object: the structs of ``vhost_user.spec`` are such."""

    def pack(self) -> bytes:
        """The bytes the driver reads."""


def type_name(owner: type, declared: object) -> str:
    """The name of the device type that was declared by name or by its virtio id.

    An id that the specification has no name for stays a number, in decimal digits.
    """
    number = declared
    if isinstance(declared, str):
        if not declared.isdecimal():
            return declared
        number = int(declared)
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(
            f"class {owner.__name__}: type is {reprlib.repr(declared)}: give the name of a device type, such "
            'as "rng", or its virtio id, such as 4'
        )
    if not 1 <= number <= MAX_ID:
        raise ValueError(f"class {owner.__name__}: type is {declared}: virtio ids are 1 to {MAX_ID}")
    if number == DeviceId.NINE_P:
        return "9p"
    return DeviceId(number).name.lower() if number in set(DeviceId) else str(int(number))


def check_class(cls: type) -> None:
    """Look at what the class itself declares. TypeError or ValueError names the attribute and the fix.

    What is only known when the device exists (a property, a field of a dataclass) is left for ``check``.
    """
    for name, value in vars(cls).items():
        if name in CHECKS and not hasattr(value, "__get__") and not isinstance(value, dataclasses.Field):
            check(cls, name, value)


def check_all(device: object) -> None:
    """Look at everything that a device declares, as it is now."""
    for name in CHECKS:
        check(type(device), name, getattr(device, name))


def check(owner: type, name: str, value: object) -> None:
    """Look at one declaration. TypeError or ValueError names the class, the attribute and the fix."""
    try:
        CHECKS[name](name, value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"class {owner.__name__}: {error}") from None


def refuse_arguments(cls: type, arguments: Sequence[object], keywords: Mapping[str, object]) -> None:
    """Python itself takes any argument for a class that has ``__new__`` and no ``__init__``: refuse them."""
    receives = getattr(cls, "__init__") is not object.__init__  # noqa: B009  # cls.__init__ is unsound to mypy
    if not receives and (arguments or keywords):
        given = [*map(reprlib.repr, arguments), *keywords]
        raise TypeError(
            f"{cls.__name__} takes no arguments, and was given {', '.join(given)}: it has no __init__ that "
            "would receive them"
        )


def made_header(header: Header | str | type[Any]) -> Header:
    """The header that was declared. ValueError when a reader of the struct module would expect another."""
    if isinstance(header, Header):
        return header
    if not isinstance(header, str):
        return Header(header)
    made = Header(header)
    if header[:1] not in "<=":
        native = struct.calcsize(header)
        if native != made.size:
            raise ValueError(
                f"header {header!r} has {made.size} bytes here, where fields follow each other as in virtio, "
                f"but {native} in the struct module, which has them aligned: write '<{header}' for "
                f"{made.size} bytes, or name the padding with x, as in '<B3xI'"
            )
    return made


# One function for each declaration; it raises what is wrong with the value, without the class.


def _whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        fix = f"{name}={value}, without quotes" if isinstance(value, str) and value.isdecimal() else "an int"
        raise TypeError(f"{name} is {reprlib.repr(value)}: give a whole number, {fix}")
    return value


def _queues(name: str, value: object) -> None:
    if not 1 <= _whole(name, value) <= MAX_QUEUES:
        raise ValueError(f"{name} is {value}: a device has 1 to {MAX_QUEUES} queues")


def _queue_size(name: str, value: object) -> None:
    size = _whole(name, value)
    if not (1 <= size <= MAX_RING_SIZE and size & (size - 1) == 0):
        raise ValueError(f"{name} is {value}: it must be a power of two, 1 to {MAX_RING_SIZE}")


def _bits(name: str, value: object) -> None:
    if not 0 <= _whole(name, value) < 1 << FEATURE_BITS:
        raise ValueError(f"{name} is {value}: feature bits are numbers of {FEATURE_BITS} bits")


def _flag(name: str, value: object) -> None:
    if value not in (False, True):
        raise TypeError(f"{name} is {reprlib.repr(value)}: it is True or False")


def _batch_size(name: str, value: object) -> None:
    if not 1 <= _whole(name, value) <= MAX_BATCH:
        raise ValueError(f"{name} {value} is outside of 1 … {MAX_BATCH}")


def _workers(name: str, value: object) -> None:
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray)):
        for each in value:
            if not isinstance(each, Collection) or isinstance(each, (str, bytes)):
                _whole(f"an element of {name}", each)
    elif _whole(name, value) < 1:
        raise ValueError(f"{name} is {value}: at least one worker is needed")


def _header(name: str, value: object) -> None:
    if value is None:
        return
    if not isinstance(value, (str, Header, type)):
        raise TypeError(
            f"{name} is {reprlib.repr(value)}: give a format as for the struct module, such as '<IIQ', or a "
            "class with such a LAYOUT, as those of vhost_user.spec are"
        )
    made_header(value)


def _config(name: str, value: object) -> None:
    if value is None or isinstance(value, (bytes, bytearray)):
        return
    if isinstance(value, type):
        raise TypeError(f"{name} is the class {value.__name__}: give an object of it, {value.__name__}(…)")
    if not isinstance(value, Packed):
        raise TypeError(
            f"{name} is {reprlib.repr(value)}: give the bytes that the driver reads, as "
            'struct.pack("<HH", 80, 25) makes them, or a struct of vhost_user.spec'
        )


def _config_writable(name: str, value: object) -> None:
    if isinstance(value, range):
        raise TypeError(f"{name} is {value}: give a tuple of ranges, ({value},)")
    if not isinstance(value, Sequence) or not all(isinstance(part, range) for part in value):
        raise TypeError(
            f"{name} is {reprlib.repr(value)}: give ranges of bytes, such as (range(8, 9), range(12, 16))"
        )


def _capability_features(name: str, value: object) -> None:
    if isinstance(value, str):
        raise TypeError(f"{name} is {value!r}: give a list, [{value!r}]")
    if not isinstance(value, Sequence) or not all(isinstance(each, str) for each in value):
        raise TypeError(f'{name} is {reprlib.repr(value)}: give a list of words, such as ["read-only"]')


def _shared_memory(name: str, value: object) -> None:
    if value is not None and not isinstance(value, SharedMemory):
        raise TypeError(
            f"{name} is {reprlib.repr(value)}: declare the sizes of the regions by their ids, as in "
            f"{name} = SharedMemory({{0: 1 << 20}})"
        )


def _shared_objects(name: str, value: object) -> None:
    if value is not None and not isinstance(value, SharedObjects):
        raise TypeError(f"{name} is {reprlib.repr(value)}: write {name} = SharedObjects()")


CHECKS: dict[str, Callable[[str, Any], None]] = {
    "batch_size": _batch_size,
    "capability_features": _capability_features,
    "config": _config,
    "config_writable": _config_writable,
    "device_features": _bits,
    "extra_protocol_features": _bits,
    "header": _header,
    "in_order": _flag,
    "packed": _flag,
    "queue_size": _queue_size,
    "queues": _queues,
    "shared_memory": _shared_memory,
    "shared_objects": _shared_objects,
    "workers": _workers,
}
"""What a class statement may declare besides its type."""
