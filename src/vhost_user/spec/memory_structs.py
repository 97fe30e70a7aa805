"""Payloads about memory: regions, the dirty log, the IOTLB (vhost-user, "Message specification")."""

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Any, ClassVar, Self

from vhost_user.spec.payload import Payload
from vhost_user.spec.record import Record


@dataclass(frozen=True, slots=True)
class MemoryRegion(Record):
    """``mem_region``: where one file is in the guest and in the front-end. Sizes and offsets in bytes."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=QQQQ")
    guest_phys_addr: int
    size: int
    user_addr: int
    mmap_offset: int = 0


@dataclass(frozen=True, slots=True)
class XenMemoryRegion(MemoryRegion):
    """``mem_region`` when XEN_MMAP is negotiated (C047)."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=QQQQII")
    flags: int = 0
    domid: int = 0


@dataclass(frozen=True, slots=True)
class Memory(Payload):
    """``memory``: the whole map of SET_MEM_TABLE, one file descriptor for each region, in order (C035)."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=I4x")
    REGION: ClassVar[type[MemoryRegion]] = MemoryRegion
    regions: tuple[MemoryRegion, ...]

    @classmethod
    def fits(cls, size: int) -> bool:
        """Whether ``size`` is the 8 bytes of the count and a whole number of regions."""
        return size >= cls.SIZE and (size - cls.SIZE) % cls.REGION.SIZE == 0

    @classmethod
    def size_text(cls) -> str:
        """The accepted size in words."""
        return f"{cls.SIZE}+n*{cls.REGION.SIZE}"

    def pack(self) -> bytes:
        """Count, padding, regions."""
        return self.LAYOUT.pack(len(self.regions)) + b"".join(region.pack() for region in self.regions)

    @classmethod
    def unpack(cls, data: Any) -> Self:
        """Read count and regions. Raises ValueError when the message has no room for so many (H30).

        Room for more regions than there are is not a fault: user-mode Linux always sends two, of which one
        may count.
        """
        if not cls.fits(len(data)):
            raise ValueError(f"{cls.__name__} has {cls.size_text()} bytes, not {len(data)}")
        (count,) = cls.LAYOUT.unpack_from(data)
        width = cls.REGION.SIZE
        if len(data) < cls.SIZE + count * width:
            raise ValueError(
                f"nregions is {count}, but the message has room for {(len(data) - cls.SIZE) // width}"
            )
        starts = range(cls.SIZE, cls.SIZE + count * width, width)
        return cls(tuple(cls.REGION.unpack(data[start : start + width]) for start in starts))


@dataclass(frozen=True, slots=True)
class XenMemory(Memory):
    """``memory`` when XEN_MMAP is negotiated."""

    REGION: ClassVar[type[MemoryRegion]] = XenMemoryRegion


@dataclass(frozen=True, slots=True)
class MemorySlot(Payload):
    """``mem_reg``: the one region of ADD_MEM_REG and REM_MEM_REG (C042)."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=8x32x")
    REGION: ClassVar[type[MemoryRegion]] = MemoryRegion
    region: MemoryRegion

    def pack(self) -> bytes:
        """Padding and region."""
        return bytes(8) + self.region.pack()

    @classmethod
    def unpack(cls, data: Any) -> Self:
        """Read the region. Raises ValueError when the size is wrong."""
        if len(data) != cls.SIZE:
            raise ValueError(f"{cls.__name__} has {cls.SIZE} bytes, not {len(data)}")
        return cls(cls.REGION.unpack(data[8:]))


@dataclass(frozen=True, slots=True)
class XenMemorySlot(MemorySlot):
    """``mem_reg`` when XEN_MMAP is negotiated."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=8x40x")
    REGION: ClassVar[type[MemoryRegion]] = XenMemoryRegion


@dataclass(frozen=True, slots=True)
class Log(Payload):
    """``log``: size and offset in bytes of the dirty log inside the file that comes along (C081)."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=QQ")
    mmap_size: int
    mmap_offset: int = 0


class IotlbType(IntEnum):
    """What an IOTLB message is (C089, C090)."""

    MISS = 1
    UPDATE = 2
    INVALIDATE = 3
    ACCESS_FAIL = 4


class IotlbPermission(IntFlag):
    """Which accesses an IOTLB entry allows, or a miss wants."""

    NONE = 0
    READ = 1
    WRITE = 2


@dataclass(frozen=True, slots=True)
class Iotlb(Payload):
    """``iotlb``: one entry; ``perm`` is an :class:`IotlbPermission`, ``type`` an :class:`IotlbType`."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=QQQBB6x")
    iova: int
    size: int
    uaddr: int
    perm: int
    type: int
