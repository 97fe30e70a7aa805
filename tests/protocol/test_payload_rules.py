"""Rules that one payload alone can break, and the largest values that break none."""

from collections.abc import Callable
from typing import Any

import pytest

from vhost_user.protocol.responder import ReceivedMessage, Refusal
from vhost_user.spec.requests import (
    FrontendRequest,
)
from vhost_user.spec.structs import (
    U64,
    Config,
    Inflight,
    Iotlb,
    Log,
    Memory,
    MemoryRegion,
    MemorySlot,
    Payload,
    TransferState,
    VringAddress,
    VringFd,
    VringState,
)

MakeFds = Callable[[int], list[int]]
Backend = Any
NEED_REPLY = 0x9
F = FrontendRequest

BREAKING: list[Any] = [
    pytest.param(F.SET_MEM_TABLE, Memory(()), 0, "C035", id="C035 no region"),
    pytest.param(F.SET_MEM_TABLE, Memory((MemoryRegion(0, 0, 0),)), 1, "C038", id="C038 region of size 0"),
    pytest.param(
        F.SET_MEM_TABLE,
        Memory((MemoryRegion((1 << 64) - 4096, 8192, 0),)),
        1,
        "C038",
        id="C038 H95 guest address wraps",
    ),
    pytest.param(
        F.SET_MEM_TABLE,
        Memory((MemoryRegion(0, 8192, (1 << 64) - 4096),)),
        1,
        "C038",
        id="C038 user address wraps",
    ),
    pytest.param(
        F.SET_MEM_TABLE,
        Memory((MemoryRegion(0, 1 << 63, 0, 1 << 63 | 1),)),
        1,
        "C038",
        id="C038 H96 offset wraps",
    ),
    pytest.param(
        F.SET_MEM_TABLE,
        Memory((MemoryRegion(0, 8192, 0), MemoryRegion(4096, 4096, 1 << 40))),
        2,
        "C037",
        id="C037 guest addresses overlap",
    ),
    pytest.param(
        F.SET_MEM_TABLE,
        Memory((MemoryRegion(0, 8192, 0), MemoryRegion(1 << 40, 4096, 8191))),
        2,
        "C037",
        id="C037 user addresses overlap",
    ),
    pytest.param(F.ADD_MEM_REG, MemorySlot(MemoryRegion(0, 0, 0)), 1, "C038", id="C038 slot of size 0"),
    pytest.param(
        F.ADD_MEM_REG, MemorySlot(MemoryRegion((1 << 64) - 1, 2, 0)), 1, "C038", id="C038 H36 slot wraps"
    ),
    pytest.param(F.SET_LOG_BASE, Log(0), 1, "C082", id="C082 empty log"),
    pytest.param(F.SET_LOG_BASE, Log(1 << 63, 1 << 63 | 1), 1, "C082", id="C082 H04 log wraps"),
    pytest.param(F.SET_VRING_NUM, VringState(0, 0), 0, "C070", id="C070 H35 ring of size 0"),
    pytest.param(F.SET_VRING_NUM, VringState(0, 32769), 0, "C070", id="C070 ring too large"),
    pytest.param(F.SET_VRING_ADDR, VringAddress(0, 2, 0, 0, 0), 0, "C071", id="C071 unknown flag"),
    pytest.param(F.SET_VRING_ADDR, VringAddress(0, 0, 8, 0, 0), 0, "C071", id="C071 descriptor misaligned"),
    pytest.param(F.SET_VRING_ADDR, VringAddress(0, 0, 0, 2, 0), 0, "C071", id="C071 used misaligned"),
    pytest.param(F.SET_VRING_ADDR, VringAddress(0, 0, 0, 0, 1), 0, "C071", id="C071 available misaligned"),
    pytest.param(F.SET_VRING_KICK, VringFd(0x10001), 1, "H05", id="H05 kick index cut"),
    pytest.param(F.SET_VRING_CALL, VringFd(0x200), 1, "H05", id="H05 call index cut"),
    pytest.param(F.SET_VRING_ERR, VringFd(1 << 63), 1, "H05", id="H05 error index cut"),
    pytest.param(F.SET_VRING_ENABLE, VringState(0, 2), 0, "C063", id="C063 enable 2"),
    pytest.param(F.NET_SET_MTU, U64(67), 0, "NET_SET_MTU", id="MTU too small"),
    pytest.param(F.NET_SET_MTU, U64(65536), 0, "NET_SET_MTU", id="MTU too large"),
    pytest.param(F.IOTLB_MSG, Iotlb(0, 1, 0, 0, 1), 0, "C089", id="C089 a miss from the front-end"),
    pytest.param(F.IOTLB_MSG, Iotlb(0, 1, 0, 0, 9), 0, "C089", id="C089 unknown type"),
    pytest.param(F.IOTLB_MSG, Iotlb(0, 1, 0, 4, 2), 0, "C089", id="C089 unknown permission"),
    pytest.param(F.IOTLB_MSG, Iotlb(1 << 63, (1 << 63) + 1, 0, 3, 2), 0, "C089", id="C089 IOVA wraps"),
    pytest.param(F.SET_VRING_ENDIAN, VringState(0, 2), 0, "SET_VRING_ENDIAN", id="third endianness"),
    pytest.param(F.GET_CONFIG, Config(0, b""), 0, "C128", id="C128 no bytes"),
    pytest.param(F.GET_CONFIG, Config(4096, b"1"), 0, "C128", id="C128 H37 beyond the end"),
    pytest.param(F.GET_CONFIG, Config(0xFFFFFFFF, b"1"), 0, "C128", id="C128 H68 offset wraps"),
    pytest.param(F.SET_CONFIG, Config(0, b"1", 2), 0, "C129", id="C129 unknown flag"),
    pytest.param(F.GET_INFLIGHT_FD, Inflight(0, 0, 0, 128), 0, "C106", id="C106 no queues"),
    pytest.param(F.GET_INFLIGHT_FD, Inflight(0, 0, 1, 0), 0, "C106", id="C106 queue of size 0"),
    pytest.param(F.GET_INFLIGHT_FD, Inflight(0, 0, 1, 32769), 0, "C106", id="C106 queue too large"),
    pytest.param(F.SET_INFLIGHT_FD, Inflight(2111, 0, 1, 128), 1, "C107", id="C107 H38 area too small"),
    pytest.param(F.SET_INFLIGHT_FD, Inflight(4096, 0, 0, 128), 1, "C107", id="C107 no queues"),
    pytest.param(F.SET_INFLIGHT_FD, Inflight(1 << 63, 1 << 63 | 1, 1, 1), 1, "C107", id="C107 area wraps"),
    pytest.param(F.VRING_KICK, VringState(0, 1), 0, "C133", id="C133 kick with a number"),
    pytest.param(F.SET_STATUS, U64(0x100), 0, "C131", id="C131 status too large"),
    pytest.param(F.SET_DEVICE_STATE_FD, TransferState(2), 1, "C122", id="C122 unknown direction"),
    pytest.param(F.SET_DEVICE_STATE_FD, TransferState(0, 1), 1, "C122", id="C122 unknown phase"),
]


@pytest.mark.parametrize(("request_id", "payload", "count", "rule"), BREAKING)
def test_rules_of_the_payload(
    negotiated: Backend,
    new_fds: MakeFds,
    *,
    request_id: FrontendRequest,
    payload: Payload,
    count: int,
    rule: str,
) -> None:
    result = negotiated.receive(request_id, payload, new_fds(count), NEED_REPLY)
    assert isinstance(result, Refusal)
    assert result.error.rule == rule
    assert result.error.message == request_id.name
    assert result.error.queue == payload.queue
    assert result.response is not None
    assert negotiated.accept(F.SET_OWNER) is None


TIGHT: list[Any] = [
    pytest.param(
        F.ADD_MEM_REG, MemorySlot(MemoryRegion((1 << 64) - 4096, 4096, 0)), 1, id="C038 ends at 2^64"
    ),
    pytest.param(
        F.SET_MEM_TABLE, Memory((MemoryRegion(0, 8, 8), MemoryRegion(8, 8, 0))), 2, id="C037 regions touch"
    ),
    pytest.param(F.SET_VRING_NUM, VringState(0, 32768), 0, id="C070 largest ring"),
    pytest.param(F.SET_VRING_NUM, VringState(0, 1), 0, id="C070 smallest ring"),
    pytest.param(F.SET_VRING_KICK, VringFd(0x1FF), 0, id="H05 index 255"),
    pytest.param(F.NET_SET_MTU, U64(68), 0, id="smallest MTU"),
    pytest.param(F.NET_SET_MTU, U64(65535), 0, id="largest MTU"),
    pytest.param(F.GET_CONFIG, Config(4095, b"1"), 0, id="C128 last byte"),
    pytest.param(F.SET_INFLIGHT_FD, Inflight(2112, 0, 1, 128), 1, id="C107 area just large enough"),
    pytest.param(F.SET_STATUS, U64(0xFF), 0, id="C131 largest status"),
]


@pytest.mark.parametrize(("request_id", "payload", "count"), TIGHT)
def test_the_largest_legal_values_pass(
    negotiated: Backend, new_fds: MakeFds, request_id: FrontendRequest, payload: Payload, count: int
) -> None:
    result = negotiated.receive(request_id, payload, new_fds(count))
    assert isinstance(result, ReceivedMessage)
    assert result.payload == payload
