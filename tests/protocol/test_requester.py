"""Requests are made from the table, replies checked against it: C003 C006 C018 C096 C102 H101 to H105."""

import os
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.requesters import answer, session
from vhost_user.protocol.errors import Disconnected, ProtocolError, RequestRefused
from vhost_user.protocol.framing import encode
from vhost_user.protocol.negotiation import Negotiation
from vhost_user.protocol.sessions import BackChannelRequester
from vhost_user.spec.features import ProtocolFeature
from vhost_user.spec.requests import FRONTEND_REQUESTS, BackendRequest, FrontendRequest, ReplyKind
from vhost_user.spec.structs import (
    U64,
    Config,
    CryptoSession,
    Inflight,
    Iotlb,
    Log,
    Memory,
    MemoryRegion,
    MemorySlot,
    Payload,
    SharedUuid,
    ShmemConfig,
    TransferReply,
    TransferState,
    VringArea,
    VringFd,
    VringState,
)

MakeFds = Callable[[int], list[int]]
F = FrontendRequest
REGION = MemoryRegion(0x1000, 0x2000, 0x7F0000000000)


def test_C024_requests_stand_on_the_wire_as_the_table_says(new_fds: MakeFds) -> None:
    made = session()
    (fd,) = new_fds(1)
    message = made.send(F.SET_VRING_KICK, VringFd.of(3), [fd], need_reply=False)
    assert message.data == encode(F.SET_VRING_KICK, 1, VringFd(3).pack())
    assert message.fds == (fd,)
    assert not made.expects_reply
    os.close(fd)


@pytest.mark.parametrize("row", list(FRONTEND_REQUESTS), ids=lambda row: row.name)
def test_C093_need_reply_is_asked_for_where_an_ack_or_status_answers(row: Any) -> None:
    samples: dict[str, Payload] = {
        "SET_PROTOCOL_FEATURES": U64(ProtocolFeature.REPLY_ACK),
        "SET_MEM_TABLE": Memory((REGION,)),
        "SET_LOG_BASE": Log(1),
        "SET_VRING_NUM": VringState(0, 1),
        "NET_SET_MTU": U64(1500),
        "IOTLB_MSG": Iotlb(0, 1, 0, 3, 2),
        "GET_CONFIG": Config(0, b"1"),
        "SET_CONFIG": Config(0, b"1"),
        "CREATE_CRYPTO_SESSION": CryptoSession(1, b""),
        "GET_INFLIGHT_FD": Inflight(0, 0, 1, 1),
        "SET_INFLIGHT_FD": Inflight(64, 0, 1, 1),
        "ADD_MEM_REG": MemorySlot(REGION),
        "REM_MEM_REG": MemorySlot(REGION),
    }
    payload = samples.get(row.name) or row.payload.unpack(bytes(row.payload.SIZE))
    made = session()
    message = made.send(row.id, payload, [0] * row.fds.bounds(payload)[0])
    assert made.expects_reply
    assert message.data[4] == (1 if row.reply is ReplyKind.PAYLOAD else 9)


def test_C094_nothing_is_asked_for_without_reply_ack() -> None:
    made = session(0)
    assert made.send(F.SET_OWNER).data == encode(F.SET_OWNER, 1)
    assert made.send(F.SET_OWNER, need_reply=True).data == encode(F.SET_OWNER, 9)
    assert not made.expects_reply


def test_C102_one_request_at_a_time() -> None:
    made = session()
    made.send(F.GET_FEATURES)
    with pytest.raises(RuntimeError, match=r"reply to GET_FEATURES is outstanding \[C102\]"):
        made.send(F.SET_OWNER)


def test_a_reply_comes_back_with_its_payload() -> None:
    made = session()
    made.send(F.GET_QUEUE_NUM)
    reply = answer(made, F.GET_QUEUE_NUM, U64(4))
    assert reply is not None
    assert (reply.row.name, reply.payload, len(reply.fds)) == ("GET_QUEUE_NUM", U64(4), 0)
    assert not made.expects_reply


@pytest.mark.parametrize("flags", [0x1, 0x9, 0xD, 0x15, 0x4, 0x6])
def test_C003_H101_a_reply_has_flags_5_and_no_others(flags: int, new_fds: MakeFds) -> None:
    made = session()
    made.send(F.GET_FEATURES)
    with pytest.raises(ProtocolError, match=r"C00[235]"):
        answer(made, F.GET_FEATURES, U64(0), new_fds(1), flags)
    assert made.wanted == 0


def test_C006_H101_the_id_must_be_that_of_the_request(new_fds: MakeFds) -> None:
    made = session()
    made.send(F.GET_FEATURES)
    with pytest.raises(ProtocolError, match=r"reply to GET_FEATURES is due.*C006"):
        answer(made, F.GET_STATUS, U64(0), new_fds(1))


def test_H101_a_second_reply_is_not_due() -> None:
    made = session()
    made.send(F.GET_FEATURES)
    answer(made, F.GET_FEATURES, U64(0))
    with pytest.raises(ProtocolError, match="no reply is due"):
        answer(made, F.GET_FEATURES, U64(0))


def test_H101_an_unknown_reply_is_not_due() -> None:
    with pytest.raises(ProtocolError, match="request 77: no reply is due"):
        answer(session(), 77)


@pytest.mark.parametrize("size", [0, 4, 7, 9, 16, 4096])
def test_C018_H101_the_size_must_be_that_of_the_reply(size: int) -> None:
    made = session()
    made.send(F.GET_FEATURES)
    with pytest.raises(ProtocolError, match="H101"):
        answer(made, F.GET_FEATURES, bytes(size))


@pytest.mark.parametrize("count", [1, 8])
def test_H101_extra_descriptors_are_closed(count: int, new_fds: MakeFds) -> None:
    for request, payload in (
        (F.GET_FEATURES, None),
        (F.SET_OWNER, None),
        (F.SET_VRING_NUM, VringState(0, 1)),
    ):
        made = session()
        made.send(request, payload)
        with pytest.raises(ProtocolError, match="file descriptors"):
            answer(made, request, U64(0), new_fds(count))


def test_C016_the_end_instead_of_a_reply() -> None:
    made = session()
    made.send(F.GET_FEATURES)
    with pytest.raises(Disconnected):
        made.receive(b"")


def test_C096_a_non_zero_ack_is_a_refusal_and_the_connection_lives() -> None:
    made = session()
    made.send(F.SET_VRING_NUM, VringState(2, 256))
    with pytest.raises(RequestRefused, match=r"SET_VRING_NUM \(queue 2\) refused: the back-end.*C096"):
        answer(made, F.SET_VRING_NUM, U64(1))
    made.send(F.SET_OWNER)
    assert answer(made, F.SET_OWNER, U64(0)) is not None


FAILURES: list[Any] = [
    pytest.param(F.GET_CONFIG, Config(0, bytes(4)), b"", id="C128 size 0"),
    pytest.param(F.GET_CONFIG, Config(0, bytes(4)), Config(0, b""), id="C128 rust-vmm"),
    pytest.param(F.GET_INFLIGHT_FD, Inflight(0, 0, 1, 1), Inflight(), id="C097 no area"),
    pytest.param(F.GET_SHARED_OBJECT, SharedUuid(bytes(16)), b"", id="C097 no object"),
    pytest.param(F.POSTCOPY_ADVISE, None, b"", id="C097 no userfaultfd"),
    pytest.param(
        F.CREATE_CRYPTO_SESSION, CryptoSession(1, b""), CryptoSession(1, b"", -1), id="C097 no session"
    ),
    pytest.param(F.CHECK_DEVICE_STATE, None, U64(1), id="C125 check failed"),
    pytest.param(F.IOTLB_MSG, Iotlb(0, 1, 0, 3, 2), U64(1), id="C089 iotlb failed"),
    pytest.param(F.POSTCOPY_END, None, U64(1), id="C120 end failed"),
]


@pytest.mark.parametrize(("request_id", "payload", "reply"), FAILURES)
def test_C097_error_replies_are_refusals(
    request_id: FrontendRequest, payload: Payload | None, reply: Payload | bytes
) -> None:
    made = session()
    made.send(request_id, payload)
    with pytest.raises(RequestRefused, match="C096"):
        answer(made, request_id, reply)
    made.send(F.SET_OWNER)


@pytest.mark.parametrize(("value", "count", "wrong"), [(0x101, 0, 1), (1, 0, 1)])
def test_C123_a_refused_transfer_has_no_descriptor(
    value: int, count: int, wrong: int, new_fds: MakeFds
) -> None:
    for number, error in ((count, RequestRefused), (wrong, ProtocolError)):
        made = session()
        made.send(F.SET_DEVICE_STATE_FD, TransferState(0), [0])
        with pytest.raises(error):
            answer(made, F.SET_DEVICE_STATE_FD, TransferReply(value), new_fds(number))


@pytest.mark.parametrize(("value", "count"), [(0, 1), (0x100, 0)])
def test_C123_a_transfer_goes_through_either_descriptor(value: int, count: int, new_fds: MakeFds) -> None:
    made = session()
    made.send(F.SET_DEVICE_STATE_FD, TransferState(1), [0])
    reply = answer(made, F.SET_DEVICE_STATE_FD, TransferReply(value), new_fds(count))
    assert reply is not None
    assert len(reply.fds) == count
    reply.fds.close()


LIES: list[Any] = [
    pytest.param(F.GET_CONFIG, Config(4, bytes(4)), Config(0, bytes(4)), 0, "H102", id="H102 other offset"),
    pytest.param(F.GET_CONFIG, Config(4, bytes(4)), Config(4, bytes(5)), 0, "H102", id="H102 longer"),
    pytest.param(F.GET_CONFIG, Config(4, bytes(4)), Config(4, bytes(4), 1), 0, "H102", id="H102 other flags"),
    pytest.param(F.GET_VRING_BASE, VringState(1), VringState(2), 0, "H101", id="H101 other queue"),
    pytest.param(
        F.GET_INFLIGHT_FD, Inflight(0, 0, 1, 8), Inflight(64, 0, 1, 8), 1, "H103", id="H103 too small"
    ),
    pytest.param(F.GET_INFLIGHT_FD, Inflight(0, 0, 1, 1), Inflight(64, 0, 2, 1), 1, "H103", id="H103 others"),
    pytest.param(F.GET_INFLIGHT_FD, Inflight(0, 0, 1, 1), Inflight(64, 0, 1, 1), 0, "H101", id="H103 no fd"),
    pytest.param(F.GET_QUEUE_NUM, None, U64(0), 0, "H104", id="H104 no queue"),
    pytest.param(F.GET_QUEUE_NUM, None, U64(1 << 63), 0, "H104", id="H104 too many queues"),
    pytest.param(F.GET_MAX_MEM_SLOTS, None, U64(0), 0, "H105", id="H105 no slot"),
    pytest.param(F.GET_STATUS, None, U64(0x100), 0, "C131", id="C131 status"),
    pytest.param(F.GET_SHMEM_CONFIG, None, ShmemConfig(1, (0,) * 256), 0, "C105", id="C105 count"),
    pytest.param(F.GET_SHMEM_CONFIG, None, ShmemConfig.of({0: 100}), 0, "C105", id="C105 page size"),
    pytest.param(F.SET_DEVICE_STATE_FD, TransferState(0), TransferReply(0x200), 1, "C123", id="C123 bit 9"),
]


@pytest.mark.parametrize(("request_id", "payload", "reply", "count", "rule"), LIES)
def test_a_back_end_that_lies_is_left(
    new_fds: MakeFds,
    *,
    request_id: FrontendRequest,
    payload: Payload | None,
    reply: Payload,
    count: int,
    rule: str,
) -> None:
    made = session()
    made.send(request_id, payload, [0] * (request_id is F.SET_DEVICE_STATE_FD))
    with pytest.raises(ProtocolError) as caught:
        answer(made, request_id, reply, new_fds(count))
    assert (caught.value.rule, caught.value.message) == (rule, request_id.name)


def test_H105_memory_slots_never_become_fewer() -> None:
    made = session()
    for slots in (8, 8, 9):
        made.send(F.GET_MAX_MEM_SLOTS)
        answer(made, F.GET_MAX_MEM_SLOTS, U64(slots))
    made.send(F.GET_MAX_MEM_SLOTS)
    with pytest.raises(ProtocolError, match=r"promised 9.*now has 8.*H105"):
        answer(made, F.GET_MAX_MEM_SLOTS, U64(8))


def test_C119_post_copy_is_answered_with_the_memory() -> None:
    made = session()
    made.send(F.SET_MEM_TABLE, Memory((REGION,)), [0], need_reply=False, postcopy=True)
    reply = answer(made, F.SET_MEM_TABLE, Memory((MemoryRegion(0x1000, 0x2000, 5),)))
    assert reply is not None
    assert reply.payload == Memory((MemoryRegion(0x1000, 0x2000, 5),))


def test_C013_C014_our_own_descriptors_are_counted() -> None:
    made = session()
    with pytest.raises(RequestRefused, match=r"not sent.*C014"):
        made.send(F.SET_LOG_FD)
    with pytest.raises(RequestRefused, match=r"not sent.*C013"):
        made.send(F.SET_OWNER, None, [0])
    with pytest.raises(RequestRefused, match=r"not sent.*C013"):
        made.send(F.REM_MEM_REG, MemorySlot(REGION), [0])
    with pytest.raises(RequestRefused, match=r"not sent.*C035"):
        made.send(F.SET_MEM_TABLE, Memory((REGION,)), [])
    assert not made.expects_reply


def test_our_own_payloads_are_checked() -> None:
    made = session()
    with pytest.raises(RequestRefused, match=r"SET_VRING_NUM \(not sent\) \(queue 4\).*C070"):
        made.send(F.SET_VRING_NUM, VringState(4, 0))
    with pytest.raises(TypeError, match="SET_VRING_NUM carries VringState"):
        made.send(F.SET_VRING_NUM, U64(1))
    with pytest.raises(ValueError, match="VringState"):
        made.send(F.SET_VRING_BASE, VringState(1 << 32))
    assert not made.expects_reply
    with pytest.raises(KeyError):
        made.send(99)


def test_C098_the_back_end_asks_on_the_back_channel() -> None:
    bits = int(ProtocolFeature.BACKEND_REQ | ProtocolFeature.REPLY_ACK | ProtocolFeature.CONFIG)
    made = BackChannelRequester(Negotiation(0, bits, 0, bits))
    assert made.send(BackendRequest.CONFIG_CHANGE_MSG).data == encode(BackendRequest.CONFIG_CHANGE_MSG, 9)
    with pytest.raises(RequestRefused, match="the front-end says that it failed"):
        answer(made, BackendRequest.CONFIG_CHANGE_MSG, U64(1))


@pytest.mark.parametrize(
    ("value", "count", "good"), [(0, 1, True), (1, 0, False), (0, 0, False), (1, 1, False)]
)
def test_C100_a_lookup_is_answered_with_a_descriptor_on_success(
    value: int, count: int, new_fds: MakeFds, *, good: bool
) -> None:
    bits = int(ProtocolFeature.SHARED_OBJECT)
    made = BackChannelRequester(Negotiation(0, bits, 0, bits))
    made.send(BackendRequest.SHARED_OBJECT_LOOKUP, SharedUuid(bytes(16)))
    assert made.expects_reply
    if good:
        reply = answer(made, BackendRequest.SHARED_OBJECT_LOOKUP, U64(value), new_fds(count))
        assert reply is not None
        reply.fds.close()
        return
    with pytest.raises((RequestRefused, ProtocolError)):
        answer(made, BackendRequest.SHARED_OBJECT_LOOKUP, U64(value), new_fds(count))


def test_C099_descriptors_on_the_back_channel_need_their_feature() -> None:
    bits = int(ProtocolFeature.HOST_NOTIFIER)
    made = BackChannelRequester(Negotiation(0, bits, 0, bits))
    with pytest.raises(RequestRefused, match="C099"):
        made.send(BackendRequest.VRING_HOST_NOTIFIER_MSG, VringArea(0, 4096), [0])
    made.send(BackendRequest.VRING_HOST_NOTIFIER_MSG, VringArea(0x100))


@pytest.mark.parametrize(
    ("request_id", "payload", "reply"),
    [
        (F.GET_CONFIG, Config(4, bytes(4)), Config(4, b"abcd")),
        (F.GET_VRING_BASE, VringState(1), VringState(1, 77)),
        (F.GET_SHMEM_CONFIG, None, ShmemConfig.of({0: 4096, 9: 1 << 40})),
        (F.CREATE_CRYPTO_SESSION, CryptoSession(1, b"key"), CryptoSession(1, b"key", 7)),
    ],
)
def test_an_honest_reply_is_handed_over(
    request_id: FrontendRequest, payload: Payload | None, reply: Payload
) -> None:
    made = session()
    made.send(request_id, payload)
    result = answer(made, request_id, reply)
    assert result is not None
    assert result.payload == reply
