"""What the methods of the trait return, checked before anything is done with it.

Python lets a method return anything. What makes no sense is said where it is made, with the method's name, and
not by whatever fails on it later.
"""

from __future__ import annotations

import inspect
import os
import reprlib
from collections.abc import Mapping
from operator import index
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vhost_user.backend.backend import VhostUserBackend

FEATURE_BITS = 64
LARGEST_SIZE = (1 << 64) - 1


def whole_number(value: object) -> int | None:
    """The number, if ``value`` is a whole one: an int or what can be used as one.

    A bool is none: True where a number is due is a slip.
    """
    if isinstance(value, bool):
        return None
    try:
        return index(value)  # type: ignore[arg-type]  # whether it can is the question
    except TypeError:
        return None


def _named(backend: VhostUserBackend, method: str, value: object) -> str:
    return f"{type(backend).__name__}.{method} returned {reprlib.repr(value)}"


def checked_number(backend: VhostUserBackend, method: str, value: object, meaning: str) -> int:
    """The number that ``method`` returned. TypeError if it is not an int."""
    number = whole_number(value)
    if number is None:
        raise TypeError(f"{_named(backend, method, value)}; it must return {meaning}, an int")
    return number


def checked_bits(backend: VhostUserBackend, method: str, value: object) -> int:
    """The feature bits that ``method`` returned. TypeError, or ValueError if they are not 64 bits."""
    bits = checked_number(backend, method, value, "or-ed feature bits")
    if not 0 <= bits < 1 << FEATURE_BITS:
        raise ValueError(f"{_named(backend, method, bits)}; feature bits are numbers of {FEATURE_BITS} bits")
    return bits


def checked_bytes(backend: VhostUserBackend, method: str, value: Any) -> bytes:
    """The bytes that ``method`` returned. TypeError for anything else, a number or a str among them."""
    try:
        return bytes(memoryview(value))
    except TypeError:
        raise TypeError(f"{_named(backend, method, value)}; it must return bytes") from None


def checked_fd(backend: VhostUserBackend, method: str, value: object) -> int:
    """An open file descriptor that ``method`` returned as a number or as an object with ``fileno()``.

    Raises TypeError for anything else, ValueError when it is not open. It stays whose it is.
    """
    fd = whole_number(value)
    if fd is None:
        fileno = getattr(value, "fileno", None)
        fd = whole_number(fileno()) if callable(fileno) and not isinstance(value, type) else None
    if fd is None:
        raise TypeError(
            f"{_named(backend, method, value)}; it must return a file descriptor or an object that has one"
        )
    try:
        os.fstat(fd)
    except (OSError, OverflowError) as error:
        raise ValueError(f"{_named(backend, method, value)}, which is not an open file descriptor") from error
    return fd


def fd_to_send(backend: VhostUserBackend, method: str, value: object) -> int | None:
    """A file descriptor that the framework sends and closes, or None.

    A number is taken over; of an object with ``fileno()`` a duplicate is sent, and it stays the device's.
    """
    if value is None:
        return None
    fd = checked_fd(backend, method, value)
    return fd if whole_number(value) is not None else os.dup(fd)


def checked_sizes(backend: VhostUserBackend, method: str, value: object) -> dict[int, int]:
    """Sizes of shared memory regions by their ids. TypeError or ValueError for anything else."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{_named(backend, method, value)}; it must return a dict of region ids to sizes")
    sizes: dict[int, int] = {}
    for key, entry in value.items():
        region, size = whole_number(key), whole_number(entry)
        if region is None or size is None:
            raise TypeError(f"{_named(backend, method, value)}; region ids and sizes are ints")
        if not 0 <= region <= 255 or not 0 <= size <= LARGEST_SIZE:
            raise ValueError(
                f"{_named(backend, method, value)}; region ids are 0 to 255, sizes numbers of 64 bits"
            )
        sizes[region] = size
    return sizes


def refuse_coroutines(backend: VhostUserBackend, trait: type) -> None:
    """TypeError if a method of the ``trait`` is a coroutine function: nobody would await what it returns."""
    for name, method in vars(trait).items():
        if name.startswith("_") or not inspect.isfunction(method):
            continue
        if inspect.iscoroutinefunction(getattr(backend, name)):
            raise TypeError(
                f"{type(backend).__name__}.{name} is an async function; the framework calls it from its threads "
                "and awaits nothing"
            )
