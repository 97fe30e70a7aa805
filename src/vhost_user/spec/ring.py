"""Layout of split and packed rings (virtio 1.4 sections 2.7 and 2.8).

Everything is little-endian with VERSION_1. Sizes and alignments are in bytes.
"""

import struct
from enum import IntEnum, IntFlag

MAX_QUEUE_SIZE = 32768
"""Entries of a ring at most; a split ring's size is also a power of two (C070)."""
INDEX_MASK = 0xFFFF
"""Ring indices run freely modulo 65536 (V002)."""

DESCRIPTOR = struct.Struct("<QIHH")
"""Split descriptor: addr, len, flags, next."""
DESCRIPTOR_SIZE = 16
PACKED_DESCRIPTOR = struct.Struct("<QIHH")
"""Packed descriptor: addr, len, id, flags."""
PACKED_DESCRIPTOR_SIZE = 16
USED_ELEMENT = struct.Struct("<II")
"""Element of the split used ring: id, len."""
USED_ELEMENT_SIZE = 8
EVENT_SUPPRESSION = struct.Struct("<HH")
"""Event structure of a packed ring: offset with wrap counter in bit 15, flags."""
EVENT_SUPPRESSION_SIZE = 4

DESCRIPTOR_ALIGNMENT = 16
AVAILABLE_ALIGNMENT = 2
USED_ALIGNMENT = 4
PACKED_EVENT_ALIGNMENT = 4


class DescriptorFlag(IntFlag):
    """Flags of a descriptor; AVAILABLE and USED belong to packed rings (V024)."""

    NEXT = 1
    WRITE = 2
    INDIRECT = 4
    AVAILABLE = 1 << 7
    USED = 1 << 15


class AvailableFlag(IntFlag):
    """Flags of the split available ring (V016)."""

    NO_INTERRUPT = 1


class UsedFlag(IntFlag):
    """Flags of the split used ring (V018)."""

    NO_NOTIFY = 1


class EventFlag(IntEnum):
    """What a packed ring's event structure asks for (V033)."""

    ENABLE = 0
    DISABLE = 1
    DESCRIPTOR = 2


def descriptor_table_size(queue_size: int) -> int:
    """Size of the split descriptor table, and of the packed ring."""
    return DESCRIPTOR_SIZE * queue_size


def available_ring_size(queue_size: int) -> int:
    """Size of the split available ring: flags, idx, ring, used_event (always there, V001)."""
    return 6 + 2 * queue_size


def used_ring_size(queue_size: int) -> int:
    """Size of the split used ring: flags, idx, ring, avail_event (always there, V001)."""
    return 6 + USED_ELEMENT_SIZE * queue_size


PACKED_BASE_INDEX_MASK = 0x7FFF
PACKED_BASE_WRAP = 1 << 15


def pack_base(available: int, *, available_wrap: bool, used: int, used_wrap: bool) -> int:
    """The ``num`` of SET_VRING_BASE and GET_VRING_BASE for a packed ring (C057)."""
    low = (available & PACKED_BASE_INDEX_MASK) | (PACKED_BASE_WRAP if available_wrap else 0)
    high = (used & PACKED_BASE_INDEX_MASK) | (PACKED_BASE_WRAP if used_wrap else 0)
    return low | high << 16


def unpack_base(num: int) -> tuple[int, bool, int, bool]:
    """Available index and wrap counter, used index and wrap counter of a packed ring's ``num`` (C057)."""
    low, high = num & 0xFFFF, num >> 16 & 0xFFFF
    return (
        low & PACKED_BASE_INDEX_MASK,
        bool(low & PACKED_BASE_WRAP),
        high & PACKED_BASE_INDEX_MASK,
        bool(high & PACKED_BASE_WRAP),
    )
