"""CAN device, virtio id 36 (virtio 1.4 section 5.20)."""

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import ClassVar

from vhost_user.spec.record import Record

TRANSMIT_QUEUE = 0
RECEIVE_QUEUE = 1
CONTROL_QUEUE = 2

MAX_STANDARD_ID = 0x7FF
MAX_EXTENDED_ID = 0x1FFF_FFFF
MAX_CLASSIC = 8
"""Bytes of data in a classic frame."""
MAX_FD = 64
"""The same with CAN FD."""


class CanFeature(IntFlag):
    """Feature bits of the CAN device."""

    CLASSIC = 1 << 0
    FD = 1 << 1
    RTR_FRAMES = 1 << 2
    LATE_TX_ACK = 1 << 3


class CanMessage(IntEnum):
    """``msg_type``: the first field of what travels in any of the queues."""

    TRANSMIT = 0x0001
    RECEIVE = 0x0101
    START = 0x0201
    STOP = 0x0202


class CanFlag(IntFlag):
    """``flags`` of a frame."""

    RTR = 0x2000
    FD = 0x4000
    EXTENDED = 0x8000


class CanResult(IntEnum):
    """The answer to a frame, and to a control message."""

    OK = 0
    NOT_OK = 1


class CanStatus(IntFlag):
    """``status`` of the configuration space."""

    BUS_OFF = 1 << 0


@dataclass(frozen=True, slots=True)
class CanConfig(Record):
    """Configuration space."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<H")
    status: int = 0


@dataclass(frozen=True, slots=True)
class CanHeader(Record):
    """What stands before the data of a frame, in both directions."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<HHBxHII")
    msg_type: int
    length: int
    reserved_classic_dlc: int = 0
    reserved_xl_priority: int = 0
    flags: int = 0
    can_id: int = 0


@dataclass(frozen=True, slots=True)
class CanControl(Record):
    """A control message: START or STOP."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<H")
    msg_type: int
