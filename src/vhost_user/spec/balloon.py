"""Memory balloon, virtio id 5 (virtio 1.4 section 5.5)."""

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import ClassVar

from vhost_user.spec.record import Record

INFLATE_QUEUE = 0
DEFLATE_QUEUE = 1
STATS_QUEUE = 2
FREE_PAGE_QUEUE = 3
REPORTING_QUEUE = 4

PAGE_SIZE = 4096
"""Bytes that a page frame number counts, whatever the pages of guest and host."""


class BalloonFeature(IntFlag):
    """Feature bits of the balloon."""

    MUST_TELL_HOST = 1 << 0
    STATS_VQ = 1 << 1
    DEFLATE_ON_OOM = 1 << 2
    FREE_PAGE_HINT = 1 << 3
    PAGE_POISON = 1 << 4
    PAGE_REPORTING = 1 << 5


OPTIONAL_QUEUES = {
    STATS_QUEUE: BalloonFeature.STATS_VQ,
    FREE_PAGE_QUEUE: BalloonFeature.FREE_PAGE_HINT,
    REPORTING_QUEUE: BalloonFeature.PAGE_REPORTING,
}
"""Queues that exist with a feature only."""


def queues_without_gaps(features: int) -> dict[int, int]:
    """What each optional queue is for, by the number that Linux and QEMU's own balloon give it.

    The specification's numbers are fixed. These drivers and devices count the queues that exist.
    """
    existing = [queue for queue, feature in OPTIONAL_QUEUES.items() if features & feature]
    return dict(enumerate(existing, STATS_QUEUE))


class BalloonStat(IntEnum):
    """What a statistic is about. Memory is in bytes. From OOM_KILL on they are Linux's, since 6.12."""

    SWAP_IN = 0
    SWAP_OUT = 1
    MAJFLT = 2
    MINFLT = 3
    MEMFREE = 4
    MEMTOT = 5
    AVAIL = 6
    CACHES = 7
    HTLB_PGALLOC = 8
    HTLB_PGFAIL = 9
    OOM_KILL = 10
    ALLOC_STALL = 11
    ASYNC_SCAN = 12
    DIRECT_SCAN = 13
    ASYNC_RECLAIM = 14
    DIRECT_RECLAIM = 15


class HintCommand(IntEnum):
    """``free_page_hint_cmd_id`` where it is not the number of a round."""

    STOP = 0
    DONE = 1


FIRST_HINT_ROUND = 2


@dataclass(frozen=True, slots=True)
class BalloonConfig(Record):
    """Configuration space; ``num_pages`` and ``actual`` in pages of 4 KiB."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<IIII")
    num_pages: int = 0
    actual: int = 0
    free_page_hint_cmd_id: int = 0
    poison_val: int = 0


ACTUAL_OFFSET = 4
POISON_OFFSET = 12


@dataclass(frozen=True, slots=True)
class BalloonStatistic(Record):
    """One entry of a buffer of the statistics queue."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<HQ")
    tag: int
    val: int


def pack_page_numbers(numbers: list[int]) -> bytes:
    """What a request to inflate or deflate consists of."""
    return struct.pack(f"<{len(numbers)}I", *numbers)


def unpack_page_numbers(data: bytes) -> tuple[int, ...]:
    """The page frame numbers of such a request; what is left at its end is none."""
    count = len(data) // 4
    return struct.unpack_from(f"<{count}I", data)
