"""A request of each kind as it may be, and what tests say about its row."""

import struct
from typing import Any

import pytest

from vhost_user.spec.features import ProtocolFeature
from vhost_user.spec.requests import FRONTEND_REQUESTS, RequestRow
from vhost_user.spec.structs import (
    U64,
    Config,
    CryptoSession,
    Header,
    Inflight,
    Iotlb,
    Log,
    Memory,
    MemoryRegion,
    MemorySlot,
    Payload,
    SharedUuid,
    TransferState,
    VringAddress,
    VringFd,
    VringState,
)

REGION = MemoryRegion(0x1000, 0x2000, 0x7F0000000000)

LEGAL: dict[str, Payload] = {
    "SET_FEATURES": U64(0),
    "SET_MEM_TABLE": Memory((REGION,)),
    "SET_LOG_BASE": Log(4096),
    "SET_VRING_NUM": VringState(0, 256),
    "SET_VRING_ADDR": VringAddress(0, 1, 0x1000, 0x2004, 0x3002, 0x9000),
    "SET_VRING_BASE": VringState(0, 5),
    "GET_VRING_BASE": VringState(0),
    "SET_VRING_KICK": VringFd.of(0),
    "SET_VRING_CALL": VringFd.of(0),
    "SET_VRING_ERR": VringFd.of(0),
    "SET_PROTOCOL_FEATURES": U64(ProtocolFeature.REPLY_ACK),
    "SET_VRING_ENABLE": VringState(0, 1),
    "SEND_RARP": U64(0x112233445566),
    "NET_SET_MTU": U64(1500),
    "IOTLB_MSG": Iotlb(0, 4096, 0, 3, 2),
    "SET_VRING_ENDIAN": VringState(0, 1),
    "GET_CONFIG": Config(0, bytes(8)),
    "SET_CONFIG": Config(0, bytes(8)),
    "CREATE_CRYPTO_SESSION": CryptoSession(1, b"x"),
    "CLOSE_CRYPTO_SESSION": U64(1),
    "GET_INFLIGHT_FD": Inflight(0, 0, 1, 128),
    "SET_INFLIGHT_FD": Inflight(4096, 0, 1, 128),
    "VRING_KICK": VringState(0),
    "ADD_MEM_REG": MemorySlot(REGION),
    "REM_MEM_REG": MemorySlot(REGION),
    "SET_STATUS": U64(0xF),
    "GET_SHARED_OBJECT": SharedUuid(bytes(16)),
    "SET_DEVICE_STATE_FD": TransferState(0),
}


def payload_of(row: RequestRow) -> bytes:
    return LEGAL[row.name].pack() if row.name in LEGAL else b""


def fd_count(row: RequestRow) -> int:
    return 1 if row.fds.bounds(LEGAL.get(row.name, U64()))[0] else 0


def ack(data: bytes) -> tuple[Header, int]:
    return Header.unpack(data[:12]), struct.unpack("=Q", data[12:])[0]


def rows(*names: str) -> list[Any]:
    return [pytest.param(row, id=row.name) for row in FRONTEND_REQUESTS if not names or row.name in names]
