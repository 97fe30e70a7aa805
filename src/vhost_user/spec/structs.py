"""Payloads of the vhost-user protocol ("Message specification"), in native byte order (C021).

Every payload class knows which sizes it accepts (``fits``), and reads and writes itself (``unpack``,
``pack``). Reading checks sizes only; what the values may be is said by the rules of the request table.
"""

import struct
import uuid
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Any, ClassVar, Self

from vhost_user.spec.memory_structs import (
    Iotlb,
    IotlbPermission,
    IotlbType,
    Log,
    Memory,
    MemoryRegion,
    MemorySlot,
    XenMemory,
    XenMemoryRegion,
    XenMemorySlot,
)
from vhost_user.spec.payload import (
    KNOWN_FLAGS,
    MAX_CONFIG_END,
    MAX_FDS,
    MAX_PAYLOAD_SIZE,
    MAX_REGIONS,
    NO_FD_BIT,
    PROTOCOL_VERSION,
    REPLY_FLAGS,
    U64,
    VERSION_MASK,
    VRING_INDEX_MASK,
    Empty,
    Header,
    HeaderFlag,
    Payload,
)
from vhost_user.spec.ring_structs import (
    Inflight,
    VringAddress,
    VringAddressFlag,
    VringArea,
    VringFd,
    VringState,
)

__all__ = [
    "KNOWN_FLAGS",
    "MAX_CONFIG_END",
    "MAX_FDS",
    "MAX_PAYLOAD_SIZE",
    "MAX_REGIONS",
    "NO_FD_BIT",
    "PROTOCOL_VERSION",
    "REPLY_FLAGS",
    "SHMEM_REGIONS",
    "U64",
    "VERSION_MASK",
    "VRING_INDEX_MASK",
    "Config",
    "ConfigFlag",
    "CryptoSession",
    "Empty",
    "Header",
    "HeaderFlag",
    "Inflight",
    "Iotlb",
    "IotlbPermission",
    "IotlbType",
    "Log",
    "Memory",
    "MemoryRegion",
    "MemorySlot",
    "Payload",
    "SharedUuid",
    "ShmemConfig",
    "ShmemMap",
    "ShmemMapFlag",
    "TransferDirection",
    "TransferPhase",
    "TransferReply",
    "TransferState",
    "VringAddress",
    "VringAddressFlag",
    "VringArea",
    "VringFd",
    "VringState",
    "XenMemory",
    "XenMemoryRegion",
    "XenMemorySlot",
]


class ConfigFlag(IntEnum):
    """Flags of a config access (C129)."""

    WRITABLE = 0
    MIGRATION = 1


@dataclass(frozen=True, slots=True)
class Config(Payload):
    """``config``: an access to the configuration space; ``data`` is as long as the access."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=III")
    offset: int
    data: bytes
    flags: int = ConfigFlag.WRITABLE

    @property
    def size(self) -> int:
        """Bytes accessed."""
        return len(self.data)

    @classmethod
    def fits(cls, size: int) -> bool:
        """Whether ``size`` has room for the 12 bytes before the data."""
        return cls.SIZE <= size <= MAX_PAYLOAD_SIZE

    @classmethod
    def size_text(cls) -> str:
        """The accepted size in words."""
        return f"{cls.SIZE}+n"

    def pack(self) -> bytes:
        """Offset, size, flags, data."""
        try:
            return self.LAYOUT.pack(self.offset, len(self.data), self.flags) + self.data
        except struct.error as error:
            raise ValueError(f"Config: {error} in {self}") from None

    @classmethod
    def unpack(cls, data: Any) -> Self:
        """Read an access. Raises ValueError when its size is not the number of bytes that follow (C128)."""
        if not cls.fits(len(data)):
            raise ValueError(f"Config has {cls.size_text()} bytes, not {len(data)}")
        offset, size, flags = cls.LAYOUT.unpack_from(data)
        if size != len(data) - cls.SIZE:
            raise ValueError(f"the size field says {size} bytes, but {len(data) - cls.SIZE} follow")
        return cls(offset, bytes(data[cls.SIZE :]), flags)


@dataclass(frozen=True, slots=True)
class SharedUuid(Payload):
    """``VhostUserShared``: a UUID with its first three components big-endian, as in RFC 4122 (C021)."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=16s")
    data: bytes

    @classmethod
    def of(cls, identifier: uuid.UUID) -> Self:
        """The payload for ``identifier``."""
        return cls(identifier.bytes)

    @property
    def uuid(self) -> uuid.UUID:
        """The UUID."""
        return uuid.UUID(bytes=self.data)

    def describe(self) -> str:
        """The UUID in its usual spelling."""
        return f"uuid={self.uuid}"


class TransferDirection(IntEnum):
    """Which way SET_DEVICE_STATE_FD moves the state (C122)."""

    SAVE = 0
    LOAD = 1


class TransferPhase(IntEnum):
    """In which phase of a migration the state is moved (C122)."""

    STOPPED = 0


@dataclass(frozen=True, slots=True)
class TransferState(Payload):
    """``transfer_state`` of SET_DEVICE_STATE_FD."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=II")
    direction: int
    phase: int = TransferPhase.STOPPED


@dataclass(frozen=True, slots=True)
class TransferReply(Payload):
    """Reply to SET_DEVICE_STATE_FD: bits 0-7 are an error, bit 8 says that no fd comes back (C123)."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=Q")
    value: int = NO_FD_BIT

    @property
    def failed(self) -> bool:
        """Whether the back-end refused."""
        return bool(self.value & 0xFF)

    @property
    def no_fd(self) -> bool:
        """Whether the front-end goes on with its own file descriptor."""
        return bool(self.value & NO_FD_BIT)


class ShmemMapFlag(IntFlag):
    """Flags of SHMEM_MAP."""

    WRITABLE = 1


@dataclass(frozen=True, slots=True)
class ShmemMap(Payload):
    """``MMAP request``: a range of a shared memory region and of a file, all in bytes."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=B7xQQQQ")
    shmid: int
    fd_offset: int
    shm_offset: int
    length: int
    flags: int = 0


SHMEM_REGIONS = 256


@dataclass(frozen=True, slots=True)
class ShmemConfig(Payload):
    """``shmem_config``: sizes in bytes by region id; ``nregions`` counts those that are not zero (C105)."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct(f"=I4x{SHMEM_REGIONS}Q")
    nregions: int
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, sizes: dict[int, int]) -> Self:
        """The payload for regions given as a mapping of shmid (0 to 255) to size in bytes."""
        every = tuple(sizes.get(shmid, 0) for shmid in range(SHMEM_REGIONS))
        return cls(sum(1 for size in every if size), every)

    def pack(self) -> bytes:
        """Count, padding, 256 sizes."""
        try:
            return self.LAYOUT.pack(self.nregions, *self.sizes)
        except struct.error as error:
            raise ValueError(f"ShmemConfig: {error}") from None

    @classmethod
    def unpack(cls, data: Any) -> Self:
        """Read count and sizes. Raises ValueError when the size is wrong."""
        if len(data) != cls.SIZE:
            raise ValueError(f"ShmemConfig has {cls.SIZE} bytes, not {len(data)}")
        nregions, *sizes = cls.LAYOUT.unpack(data)
        return cls(nregions, tuple(sizes))

    def describe(self) -> str:
        """The regions that have a size."""
        regions = ", ".join(f"{shmid}: {size:#x}" for shmid, size in enumerate(self.sizes) if size)
        return f"nregions={self.nregions} sizes={{{regions}}}"


@dataclass(frozen=True, slots=True)
class CryptoSession(Payload):
    """``crypto_session``: op code first, session id last (-1 is an error), the set-up and keys between them.

    What stands between them differs between implementations, so it is left as bytes; whoever reads the
    lengths in it must bound them (H06).
    """

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=Qq")
    op_code: int
    body: bytes
    session_id: int = 0

    @classmethod
    def fits(cls, size: int) -> bool:
        """Whether ``size`` has room for op code and session id."""
        return cls.SIZE <= size <= MAX_PAYLOAD_SIZE

    @classmethod
    def size_text(cls) -> str:
        """The accepted size in words."""
        return f"{cls.SIZE}+n"

    def pack(self) -> bytes:
        """Op code, body, session id."""
        try:
            numbers = self.LAYOUT.pack(self.op_code, self.session_id)
        except struct.error as error:
            raise ValueError(f"CryptoSession: {error}") from None
        return numbers[:8] + self.body + numbers[8:]

    @classmethod
    def unpack(cls, data: Any) -> Self:
        """Read a session. Raises ValueError when there is no room for op code and session id."""
        if not cls.fits(len(data)):
            raise ValueError(f"CryptoSession has {cls.size_text()} bytes, not {len(data)}")
        data = bytes(data)
        op_code, session_id = cls.LAYOUT.unpack(data[:8] + data[-8:])
        return cls(op_code, data[8:-8], session_id)

    def describe(self) -> str:
        """Op code and session id; never the keys."""
        return f"op_code={self.op_code} session_id={self.session_id} body={len(self.body)} bytes"
