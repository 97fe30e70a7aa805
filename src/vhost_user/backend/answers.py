"""What the methods of the trait return, checked before anything is done with it.

Python lets a method return anything. What makes no sense is told with the method's name, and not by what
fails on it later.
"""

from __future__ import annotations

import inspect
import os
import reprlib
from collections.abc import Mapping
from operator import index
from typing import Any

from vhost_user.backend.backend import VhostUserBackend
from vhost_user.spec.features import ProtocolFeature, VirtioFeature

MAX_QUEUES = 256
"""SET_VRING_KICK and its like have eight bits for the index."""
FEATURE_BITS = 64
MAX_SIZE = (1 << 64) - 1


def whole_number(value: object) -> int | None:
    """The number, if ``value`` is a whole one: an int or what can be used as one.

    A bool does not count: True where a number is due is a slip.
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


def checked_regions(backend: VhostUserBackend, method: str, value: object) -> dict[int, int]:
    """Sizes of shared memory regions by their ids. TypeError or ValueError for anything else."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{_named(backend, method, value)}; it must return a dict of region ids to sizes")
    sizes: dict[int, int] = {}
    for key, entry in value.items():
        region, size = whole_number(key), whole_number(entry)
        if region is None or size is None:
            raise TypeError(f"{_named(backend, method, value)}; region ids and sizes are ints")
        if not 0 <= region <= 255 or not 0 <= size <= MAX_SIZE:
            raise ValueError(
                f"{_named(backend, method, value)}; region ids are 0 to 255, sizes numbers of 64 bits"
            )
        sizes[region] = size
    return sizes


def check_kind(backend: VhostUserBackend) -> None:
    """TypeError for what is not a back-end, and for one that is made of coroutines."""
    if isinstance(backend, type):
        raise TypeError(f"{backend.__name__} is a class; the daemon serves an object: {backend.__name__}()")
    if not hasattr(backend, "guard"):
        kind = type(backend).__name__
        raise TypeError(f"{kind} is not a back-end; derive it from VhostUserBackend or Device")
    # Nobody would await what they return.
    for name, method in vars(VhostUserBackend).items():
        if name.startswith("_") or not inspect.isfunction(method):
            continue
        if inspect.iscoroutinefunction(getattr(backend, name)):
            raise TypeError(
                f"{type(backend).__name__}.{name} is an async function; "
                "the framework calls it from its threads and awaits nothing"
            )


def checked_sizes(backend: VhostUserBackend) -> tuple[list[int], Any]:
    """How large the ring of each queue may be, and what ``queues_per_thread`` returned.

    TypeError or ValueError names the method.
    """
    with backend.guard:
        count = checked_number(backend, "num_queues()", backend.num_queues(), "the number of queues")
        if not 1 <= count <= MAX_QUEUES:
            raise ValueError(f"num_queues() returned {count}; it must be 1 to {MAX_QUEUES}")
        sizes = [_checked_size(backend, "max_queue_size()", backend.max_queue_size())] * count
        for queue in range(count):
            method = f"max_queue_size_of({queue})"
            sizes[queue] = _checked_size(backend, method, backend.max_queue_size_of(queue))
        asked = backend.queues_per_thread()
    return sizes, asked


def _checked_size(backend: VhostUserBackend, method: str, answer: object) -> int:
    size = checked_number(backend, method, answer, "the largest ring")
    if not (1 <= size <= 32768 and size & (size - 1) == 0):
        raise ValueError(f"{method} returned {size}; it must be a power of two up to 32768")
    return size


def checked_offer(backend: VhostUserBackend, also: int = 0) -> tuple[int, int]:
    """Features and protocol features, as the back-end offers them at this moment.

    REPLY_ACK is added, and ``also``; without VHOST_USER_F_PROTOCOL_FEATURES there are no protocol features
    (C022).
    TypeError or ValueError names the method.
    """
    with backend.guard:
        features = checked_bits(backend, "features()", backend.features())
        protocol_features = checked_bits(backend, "protocol_features()", backend.protocol_features())
    offers = bool(features & VirtioFeature.PROTOCOL_FEATURES)
    return features, protocol_features | ProtocolFeature.REPLY_ACK | also if offers else 0
