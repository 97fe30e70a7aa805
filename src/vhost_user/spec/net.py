"""Network device, virtio id 1 (virtio 1.4 section 5.1); a vhost-user back-end has the data queues only."""

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import ClassVar

from vhost_user.spec.record import Record


class NetFeature(IntFlag):
    """Feature bits of the network device."""

    CSUM = 1 << 0
    GUEST_CSUM = 1 << 1
    CTRL_GUEST_OFFLOADS = 1 << 2
    MTU = 1 << 3
    MAC = 1 << 5
    GUEST_TSO4 = 1 << 7
    GUEST_TSO6 = 1 << 8
    GUEST_ECN = 1 << 9
    GUEST_UFO = 1 << 10
    HOST_TSO4 = 1 << 11
    HOST_TSO6 = 1 << 12
    HOST_ECN = 1 << 13
    HOST_UFO = 1 << 14
    MRG_RXBUF = 1 << 15
    STATUS = 1 << 16
    CTRL_VQ = 1 << 17
    CTRL_RX = 1 << 18
    CTRL_VLAN = 1 << 19
    CTRL_RX_EXTRA = 1 << 20
    GUEST_ANNOUNCE = 1 << 21
    MQ = 1 << 22
    CTRL_MAC_ADDR = 1 << 23
    DEVICE_STATS = 1 << 50
    HASH_TUNNEL = 1 << 51
    VQ_NOTF_COAL = 1 << 52
    NOTF_COAL = 1 << 53
    GUEST_USO4 = 1 << 54
    GUEST_USO6 = 1 << 55
    HOST_USO = 1 << 56
    HASH_REPORT = 1 << 57
    GUEST_HDRLEN = 1 << 59
    RSS = 1 << 60
    RSC_EXT = 1 << 61
    STANDBY = 1 << 62
    SPEED_DUPLEX = 1 << 63


class NetStatus(IntFlag):
    """Bits of the ``status`` field."""

    LINK_UP = 1
    ANNOUNCE = 2


class NetHeaderFlag(IntFlag):
    """Flags of the header before each frame."""

    NEEDS_CSUM = 1
    DATA_VALID = 2


class NetGso(IntEnum):
    """Kinds of segmentation offload; ECN is added to the TCP kinds."""

    NONE = 0
    TCPV4 = 1
    UDP = 3
    TCPV6 = 4
    UDP_L4 = 5
    ECN = 0x80


@dataclass(frozen=True, slots=True)
class NetHeader(Record):
    """The 12 bytes before each frame, with VERSION_1 always; lengths and offsets in bytes."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<BBHHHHH")
    flags: int = 0
    gso_type: int = NetGso.NONE
    hdr_len: int = 0
    gso_size: int = 0
    csum_start: int = 0
    csum_offset: int = 0
    num_buffers: int = 1


@dataclass(frozen=True, slots=True)
class NetConfig(Record):
    """Configuration space; ``speed`` in Mbit/s or 0xffffffff, ``duplex`` 0 half, 1 full, 0xff unknown."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<6sHHHIBBHII")
    mac: bytes
    status: int = NetStatus.LINK_UP
    max_virtqueue_pairs: int = 1
    mtu: int = 1500
    speed: int = 0xFFFFFFFF
    duplex: int = 0xFF
    rss_max_key_size: int = 0
    rss_max_indirection_table_length: int = 0
    supported_hash_types: int = 0
    supported_tunnel_types: int = 0
