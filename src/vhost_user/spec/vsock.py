"""Socket device, virtio id 19 (virtio 1.4 section 5.10)."""

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import ClassVar

from vhost_user.spec.record import Record

RECEIVE_QUEUE = 0
TRANSMIT_QUEUE = 1
EVENT_QUEUE = 2
HOST_CID = 2


class VsockFeature(IntFlag):
    """Feature bits of the socket device."""

    STREAM = 1 << 0
    SEQPACKET = 1 << 1
    NO_IMPLIED_STREAM = 1 << 2


class VsockType(IntEnum):
    """Kinds of sockets."""

    STREAM = 1
    SEQPACKET = 2


class VsockOperation(IntEnum):
    """What a packet does."""

    REQUEST = 1
    RESPONSE = 2
    RST = 3
    SHUTDOWN = 4
    RW = 5
    CREDIT_UPDATE = 6
    CREDIT_REQUEST = 7


class VsockShutdown(IntFlag):
    """Flags of SHUTDOWN: what its sender will not do any more."""

    RECEIVE = 1
    SEND = 2


class VsockSeqpacketFlag(IntFlag):
    """Flags of RW on a SEQPACKET socket."""

    END_OF_MESSAGE = 1
    END_OF_RECORD = 2


class VsockEvent(IntEnum):
    """Events of the event queue."""

    TRANSPORT_RESET = 0


@dataclass(frozen=True, slots=True)
class VsockConfig(Record):
    """Configuration space: the guest's context id."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<Q")
    guest_cid: int


@dataclass(frozen=True, slots=True)
class VsockHeader(Record):
    """The 44 bytes before each packet; ``len``, ``buf_alloc`` and ``fwd_cnt`` in bytes."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<QQIIIHHIII")
    src_cid: int
    dst_cid: int
    src_port: int
    dst_port: int
    len: int
    type: int
    op: int
    flags: int = 0
    buf_alloc: int = 0
    fwd_cnt: int = 0
