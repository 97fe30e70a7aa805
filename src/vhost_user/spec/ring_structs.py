"""Payloads about vrings and requests in flight (vhost-user, "Message specification")."""

import struct
from dataclasses import dataclass
from enum import IntFlag
from typing import ClassVar, Self

from vhost_user.spec.payload import NO_FD_BIT, VRING_INDEX_MASK, Payload


@dataclass(frozen=True, slots=True)
class VringState(Payload):
    """``vring_state``: a vring index and a number whose meaning the message gives."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=II")
    index: int
    num: int = 0

    @property
    def queue(self) -> int | None:
        """The vring index, 32 bits wide."""
        return self.index


@dataclass(frozen=True, slots=True)
class VringFd(Payload):
    """Payload of SET_VRING_KICK, CALL and ERR: index in bits 0-7, bit 8 says that no fd comes along."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=Q")
    value: int

    @classmethod
    def of(cls, index: int, *, no_fd: bool = False) -> Self:
        """The payload for vring ``index`` (0 to 255)."""
        return cls(index | (NO_FD_BIT if no_fd else 0))

    @property
    def index(self) -> int:
        """The vring index, 0 to 255."""
        return self.value & VRING_INDEX_MASK

    @property
    def no_fd(self) -> bool:
        """Whether bit 8 is set: no file descriptor, the ring is to be polled (C052)."""
        return bool(self.value & NO_FD_BIT)

    @property
    def queue(self) -> int | None:
        """The vring index."""
        return self.index

    def describe(self) -> str:
        """The fields on one line, for people."""
        rest = self.value >> 9
        return f"index={self.index}{' no-fd' if self.no_fd else ''}{f' reserved={rest:#x}' if rest else ''}"


class VringAddressFlag(IntFlag):
    """Flags of SET_VRING_ADDR."""

    LOG = 1
    """VHOST_VRING_F_LOG: log writes to the used ring at ``log_guest_addr`` (C079)."""


@dataclass(frozen=True, slots=True)
class VringAddress(Payload):
    """``vring_addr``: addresses of the ring parts; for packed rings: ring, device event, driver event."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=IIQQQQ")
    index: int
    flags: int
    descriptor: int
    used: int
    available: int
    log: int = 0
    """Guest physical address at which writes to the used ring are logged."""

    @property
    def queue(self) -> int | None:
        """The vring index, 32 bits wide."""
        return self.index


@dataclass(frozen=True, slots=True)
class VringArea(Payload):
    """``vring_area``: a doorbell page of VRING_HOST_NOTIFIER_MSG. Size and offset in bytes."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=QQQ")
    value: int
    size: int = 0
    offset: int = 0

    @property
    def index(self) -> int:
        """The vring index, 0 to 255."""
        return self.value & VRING_INDEX_MASK

    @property
    def no_fd(self) -> bool:
        """Whether no file descriptor comes along: the area is taken back."""
        return bool(self.value & NO_FD_BIT)

    @property
    def queue(self) -> int | None:
        """The vring index."""
        return self.index


@dataclass(frozen=True, slots=True)
class Inflight(Payload):
    """``inflight``: the tracking area of GET_INFLIGHT_FD and SET_INFLIGHT_FD (C106, C107). Sizes in bytes."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=QQHH4x")
    mmap_size: int = 0
    mmap_offset: int = 0
    num_queues: int = 0
    queue_size: int = 0
