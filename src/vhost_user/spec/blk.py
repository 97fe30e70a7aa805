"""Block device, virtio id 2 (virtio 1.4 section 5.2)."""

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import ClassVar

from vhost_user.spec.record import Record

SECTOR_SIZE = 512
"""Bytes of a sector: the unit of every position, whatever ``blk_size`` is."""
ID_SIZE = 20
"""Bytes of the answer to GET_ID; a shorter serial number is filled with zeroes."""


class BlkFeature(IntFlag):
    """Feature bits of the block device."""

    SIZE_MAX = 1 << 1
    SEG_MAX = 1 << 2
    GEOMETRY = 1 << 4
    RO = 1 << 5
    BLK_SIZE = 1 << 6
    FLUSH = 1 << 9
    TOPOLOGY = 1 << 10
    CONFIG_WCE = 1 << 11
    MQ = 1 << 12
    DISCARD = 1 << 13
    WRITE_ZEROES = 1 << 14
    LIFETIME = 1 << 15
    SECURE_ERASE = 1 << 16
    ZONED = 1 << 17


class BlkRequestType(IntEnum):
    """What a request asks for."""

    IN = 0
    OUT = 1
    FLUSH = 4
    GET_ID = 8
    GET_LIFETIME = 10
    DISCARD = 11
    WRITE_ZEROES = 13
    SECURE_ERASE = 14
    ZONE_APPEND = 15
    ZONE_REPORT = 16
    ZONE_OPEN = 18
    ZONE_CLOSE = 20
    ZONE_FINISH = 22
    ZONE_RESET = 24
    ZONE_RESET_ALL = 26


class BlkStatus(IntEnum):
    """The last byte of every request."""

    OK = 0
    IOERR = 1
    UNSUPP = 2
    ZONE_INVALID_COMMAND = 3
    ZONE_UNALIGNED_WRITE = 4
    ZONE_OPEN_RESOURCE = 5
    ZONE_ACTIVE_RESOURCE = 6


class BlkRangeFlag(IntFlag):
    """Flags of a range of DISCARD and WRITE_ZEROES."""

    UNMAP = 1


@dataclass(frozen=True, slots=True)
class BlkHeader(Record):
    """The first 16 bytes of a request; ``sector`` counts units of 512 bytes."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<IIQ")
    type: int
    reserved: int
    sector: int


@dataclass(frozen=True, slots=True)
class BlkRange(Record):
    """One segment of DISCARD, WRITE_ZEROES and SECURE_ERASE, in sectors of 512 bytes."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<QII")
    sector: int
    num_sectors: int
    flags: int


@dataclass(frozen=True, slots=True)
class BlkConfig(Record):
    """Configuration space. ``capacity`` and sector counts in units of 512 bytes, ``blk_size`` in bytes."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<QIIHBBIBBHIBxHIIIIIB3xIIIIIIIIB3x")
    capacity: int
    size_max: int = 0
    seg_max: int = 0
    cylinders: int = 0
    heads: int = 0
    sectors: int = 0
    blk_size: int = SECTOR_SIZE
    physical_block_exp: int = 0
    alignment_offset: int = 0
    min_io_size: int = 0
    opt_io_size: int = 0
    writeback: int = 0
    num_queues: int = 1
    max_discard_sectors: int = 0
    max_discard_seg: int = 0
    discard_sector_alignment: int = 0
    max_write_zeroes_sectors: int = 0
    max_write_zeroes_seg: int = 0
    write_zeroes_may_unmap: int = 0
    max_secure_erase_sectors: int = 0
    max_secure_erase_seg: int = 0
    secure_erase_sector_alignment: int = 0
    zone_sectors: int = 0
    max_open_zones: int = 0
    max_active_zones: int = 0
    max_append_sectors: int = 0
    write_granularity: int = 0
    zone_model: int = 0
