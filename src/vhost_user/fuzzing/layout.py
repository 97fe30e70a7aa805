"""Where things lie in a session's guest memory, and descriptors of both ring formats as bytes."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vhost_user.fuzzing.steps import GUEST, USER, Step
from vhost_user.spec.ring import DESCRIPTOR, EVENT_SUPPRESSION, PACKED_DESCRIPTOR, DescriptorFlag

RING_SPACE: Final = 0x8000
"""Bytes from the rings of one queue to those of the next."""
AVAILABLE: Final = 0x2000
USED: Final = 0x4000
BUFFERS: Final = 0x60000
TABLE: Final = 0x80000
"""Where long indirect tables are."""
INFLIGHT: Final = 0xA0000
"""Where the in-flight area is: in guest memory too, so that it can be written like a ring."""
INFLIGHT_SIZE: Final = 0x8000
SIZE: Final = 16
"""Descriptors in a ring."""


@dataclass(frozen=True, slots=True)
class Area:
    """The three parts of one queue's ring, as offsets in guest memory."""

    queue: int

    @property
    def descriptors(self) -> int:
        """Descriptor table, or the packed ring."""
        return self.queue * RING_SPACE

    @property
    def available(self) -> int:
        """Available ring, or the driver's event structure."""
        return self.descriptors + AVAILABLE

    @property
    def used(self) -> int:
        """Used ring, or the device's event structure."""
        return self.descriptors + USED


def guest(offset: int) -> int:
    """The guest address of an offset in memory."""
    return GUEST + offset


def user(offset: int) -> int:
    """The user address of an offset in memory."""
    return USER + offset


def write(at: int, data: bytes, what: str = "") -> Step:
    """A step that writes to guest memory."""
    return {"op": "write", "at": at, "data": data.hex(), "note": what}


def kick(queue: int = 0, count: int = 1, *, by: str = "eventfd") -> Step:
    """A step that kicks a queue, through its eventfd or (``by`` socket) its socket pair."""
    step: Step = {"op": "kick", "queue": queue, "count": count}
    return step if by == "eventfd" else {**step, "by": by}


def descriptor(
    index: int, address: int, length: int, flags: int, following: int = 0, *, queue: int = 0
) -> Step:
    """A split descriptor; flags and ``following`` as in the specification."""
    data = DESCRIPTOR.pack(address & (1 << 64) - 1, length & 0xFFFFFFFF, flags & 0xFFFF, following & 0xFFFF)
    return write(Area(queue).descriptors + 16 * index, data, f"descriptor {index}")


def packed_descriptor(
    index: int, address: int, length: int, identifier: int, flags: int, *, queue: int = 0
) -> Step:
    """A packed descriptor."""
    data = PACKED_DESCRIPTOR.pack(
        address & (1 << 64) - 1, length & 0xFFFFFFFF, identifier & 0xFFFF, flags & 0xFFFF
    )
    return write(Area(queue).descriptors + 16 * index, data, f"packed descriptor {index}")


def heads(*numbers: int, index: int | None = None, flags: int = 0, queue: int = 0) -> list[Step]:
    """The available ring of a split queue: its entries, then its index (by default their number)."""
    area = Area(queue)
    ring = struct.pack(f"<{len(numbers)}H", *numbers)
    index = len(numbers) if index is None else index
    return [
        write(area.available + 4, ring, "available ring"),
        write(
            area.available, struct.pack("<HH", flags & 0xFFFF, index & 0xFFFF), "available flags and index"
        ),
    ]


def event(offset_wrap: int, flags: int, *, queue: int = 0) -> Step:
    """The driver's event structure of a packed ring."""
    return write(Area(queue).available, EVENT_SUPPRESSION.pack(offset_wrap, flags), "driver event")


def chain(parts: Sequence[tuple[int, int, bool]], *, packed: bool, at: int = 0, queue: int = 0) -> list[Step]:
    """A request of (guest address, length, writable) parts from descriptor ``at``, made available."""
    steps = []
    for number, (address, length, writable) in enumerate(parts):
        flags = (DescriptorFlag.WRITE if writable else 0) | (
            DescriptorFlag.NEXT if number + 1 < len(parts) else 0
        )
        if packed:
            steps.append(
                packed_descriptor(
                    at + number, address, length, at, flags | DescriptorFlag.AVAILABLE, queue=queue
                )
            )
        else:
            steps.append(descriptor(at + number, address, length, flags, at + number + 1, queue=queue))
    if packed:
        return list(reversed(steps))  # the first last: it makes the chain available
    return [*steps, *heads(at, queue=queue)]


def indirect(address: int, length: int, *, packed: bool, flags: int = 0, queue: int = 0) -> list[Step]:
    """A request that is an indirect table, ``length`` bytes at a guest address, made available."""
    flags |= DescriptorFlag.INDIRECT
    if packed:
        return [packed_descriptor(0, address, length, 0, flags | DescriptorFlag.AVAILABLE, queue=queue)]
    return [descriptor(0, address, length, flags, queue=queue), *heads(0, queue=queue)]
