"""The block device as data: feature bits, config space, request header and types (virtio 1.4, 5.2)."""

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import ClassVar, Final

from vhost_user.spec.record import Record

SECTOR_SIZE: Final = 512
"""Bytes in the unit that every sector number and the capacity count, whatever ``blk_size`` says."""

IDENTITY_SIZE: Final = 20
"""Bytes that GET_ID answers, padded with zeroes."""

REQUEST_FORMAT: Final = "<IIQ"
"""The request header: type, reserved, sector."""

SEGMENT: Final = struct.Struct("<QII")
"""One segment of DISCARD and WRITE_ZEROES: sector, number of sectors, flags."""

SEGMENT_FLAG_UNMAP: Final = 1


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
    """First field of the request header."""

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
    """Last byte of the device-writable part."""

    OK = 0
    IOERR = 1
    UNSUPP = 2
    ZONE_INVALID_COMMAND = 3
    ZONE_UNALIGNED_WRITE = 4
    ZONE_OPEN_RESOURCE = 5
    ZONE_ACTIVE_RESOURCE = 6


@dataclass(frozen=True, slots=True)
class BlkConfig(Record):
    """The config space, 96 bytes. ``capacity`` and the other sector counts are in units of 512 bytes."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<QIIHBBIBBHIBxHIIIIIB3xIIIIIIIIB3x")
    WRITEBACK_OFFSET: ClassVar[int] = 32
    """Offset of ``writeback``, the one field that the driver may write (C129)."""

    capacity: int = 0
    size_max: int = 0
    seg_max: int = 0
    cylinders: int = 0
    heads: int = 0
    sectors: int = 0
    blk_size: int = 0
    physical_block_exp: int = 0
    alignment_offset: int = 0
    min_io_size: int = 0
    opt_io_size: int = 0
    writeback: int = 0
    num_queues: int = 0
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
    zoned_model: int = 0
