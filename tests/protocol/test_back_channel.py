"""The front-end answers the back channel and trusts no back-end: C099 to C101, C104, H107, H108."""

import os
import struct
from collections.abc import Callable
from typing import Any

import pytest

from vhost_user.protocol.errors import RequestRefused
from vhost_user.protocol.framing import encode
from vhost_user.protocol.negotiation import Negotiation
from vhost_user.protocol.responder import ReceivedMessage, Refusal
from vhost_user.protocol.sessions import BackChannelResponder
from vhost_user.spec.features import ProtocolFeature, VirtioFeature
from vhost_user.spec.requests import (
    BACKEND_REQUESTS,
    BackendRequest,
    RequestRow,
)
from vhost_user.spec.structs import (
    U64,
    Header,
    Iotlb,
    Payload,
    SharedUuid,
    ShmemMap,
    VringArea,
    VringState,
)

MakeFds = Callable[[int], list[int]]
NEED_REPLY = 0x9

LEGAL: dict[str, Payload] = {
    "IOTLB_MSG": Iotlb(0, 1, 0, 1, 1),
    "VRING_HOST_NOTIFIER_MSG": VringArea(0, 4096),
    "VRING_CALL": VringState(0),
    "VRING_ERR": VringState(0),
    "SHARED_OBJECT_ADD": SharedUuid(bytes(16)),
    "SHARED_OBJECT_REMOVE": SharedUuid(bytes(16)),
    "SHARED_OBJECT_LOOKUP": SharedUuid(bytes(16)),
    "SHMEM_MAP": ShmemMap(0, 0, 0, 4096),
    "SHMEM_UNMAP": ShmemMap(0, 0, 0, 4096),
}


def fd_count(row: RequestRow) -> int:
    return 1 if row.fds.bounds(LEGAL.get(row.name, U64()))[0] else 0


def ack(data: bytes) -> tuple[Header, int]:
    return Header.unpack(data[:12]), struct.unpack("=Q", data[12:])[0]


def back_channel(*features: ProtocolFeature) -> BackChannelResponder:
    bits = int(ProtocolFeature.REPLY_ACK | ProtocolFeature.BACKEND_REQ)
    for feature in features:
        bits |= feature
    virtio = int(VirtioFeature.ACCESS_PLATFORM)
    return BackChannelResponder(Negotiation(virtio, bits, virtio, bits))


def from_backend(session: BackChannelResponder, request: int, payload: Payload | None, fds: list[int]) -> Any:
    whole = encode(request, NEED_REPLY, payload.pack() if payload else b"")
    result = session.receive(whole[:12], fds)
    return result if result is not None else session.receive(whole[12:])


@pytest.mark.parametrize("row", list(BACKEND_REQUESTS), ids=lambda row: row.name)
def test_C100_the_front_end_answers_the_back_channel(row: RequestRow, new_fds: MakeFds) -> None:
    session = back_channel(*(feature for feature in (row.protocol_feature, row.fd_feature) if feature))
    payload = LEGAL.get(row.name)
    request = from_backend(session, row.id, payload, new_fds(fd_count(row)))
    assert isinstance(request, ReceivedMessage)
    if row.request is BackendRequest.SHARED_OBJECT_LOOKUP:
        with pytest.raises(TypeError):
            session.reply(request)
        (fd,) = new_fds(1)
        message = session.reply(request, U64(0), [fd])
        assert message is not None
        assert message.fds == (fd,)
        os.close(fd)
    else:
        message = session.reply(request)
    assert message is not None
    assert ack(message.data) == (Header(row.id, 0x5, 8), 0)


def test_C100_a_failed_lookup_is_answered_without_descriptor() -> None:
    session = back_channel(ProtocolFeature.SHARED_OBJECT)
    request = from_backend(session, BackendRequest.SHARED_OBJECT_LOOKUP, SharedUuid(bytes(16)), [])
    message = session.refuse(request, RequestRefused("unknown", rule="C103"))
    assert message is not None
    assert ack(message.data)[1] == 1


@pytest.mark.parametrize(
    ("request_id", "payload", "count"),
    [
        (BackendRequest.SHMEM_MAP, ShmemMap(0, 0, 0, 4096), 1),
        (BackendRequest.VRING_HOST_NOTIFIER_MSG, VringArea(0, 4096), 1),
    ],
)
def test_C099_descriptors_need_backend_send_fd(
    new_fds: MakeFds, request_id: BackendRequest, payload: Payload, count: int
) -> None:
    session = back_channel(ProtocolFeature.SHMEM, ProtocolFeature.HOST_NOTIFIER)
    result = from_backend(session, request_id, payload, new_fds(count))
    assert isinstance(result, Refusal)
    assert result.error.rule == "C099"


@pytest.mark.parametrize(
    ("request_id", "payload", "count", "rule"),
    [
        pytest.param(BackendRequest.SHMEM_MAP, ShmemMap(0, 0, 0, 0), 1, "C104", id="C104 no length"),
        pytest.param(
            BackendRequest.SHMEM_MAP, ShmemMap(0, 0, (1 << 64) - 1, 2), 1, "C104", id="C104 H107 offset wraps"
        ),
        pytest.param(
            BackendRequest.SHMEM_MAP, ShmemMap(0, (1 << 64) - 1, 0, 2), 1, "C104", id="C104 file offset wraps"
        ),
        pytest.param(BackendRequest.SHMEM_MAP, ShmemMap(0, 0, 0, 1, 2), 1, "C104", id="C104 unknown flag"),
        pytest.param(BackendRequest.SHMEM_UNMAP, ShmemMap(0, 0, 0, 0), 0, "C104", id="C104 unmap nothing"),
        pytest.param(BackendRequest.VRING_HOST_NOTIFIER_MSG, VringArea(0, 0), 1, "H108", id="H108 no size"),
        pytest.param(
            BackendRequest.VRING_HOST_NOTIFIER_MSG, VringArea(0x200, 1), 1, "H05", id="H05 notifier index cut"
        ),
        pytest.param(BackendRequest.VRING_CALL, VringState(0, 1), 0, "C133", id="C133 call with a number"),
        pytest.param(BackendRequest.IOTLB_MSG, Iotlb(0, 1, 0, 1, 2), 0, "C089", id="C101 an update"),
    ],
)
def test_C101_the_front_end_trusts_no_back_end(
    new_fds: MakeFds, request_id: BackendRequest, payload: Payload, count: int, rule: str
) -> None:
    session = back_channel(*ProtocolFeature)
    result = from_backend(session, request_id, payload, new_fds(count))
    assert isinstance(result, Refusal)
    assert result.error.rule == rule
    assert result.response is not None
    assert ack(result.response.data)[1] == 1
