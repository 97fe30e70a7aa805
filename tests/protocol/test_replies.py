"""Requests are answered by their row: acks, statuses, replies, errors; C003, C081, C089, C093 to C097."""

import logging
import os
import struct
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.legal_requests import REGION, ack, fd_count, payload_of, rows
from vhost_user.protocol.errors import ProtocolError, RequestRefused, VhostUserError
from vhost_user.protocol.framing import encode
from vhost_user.protocol.responder import ReceivedMessage, Refusal
from vhost_user.protocol.sessions import BackendSession
from vhost_user.spec.features import ProtocolFeature, VirtioFeature
from vhost_user.spec.requests import FRONTEND_REQUESTS, FrontendRequest, ReplyKind, RequestRow
from vhost_user.spec.structs import (
    U64,
    Config,
    CryptoSession,
    Header,
    Inflight,
    Memory,
    Payload,
    ShmemConfig,
    TransferReply,
    TransferState,
    VringState,
)

MakeFds = Callable[[int], list[int]]
Backend = Any
NEED_REPLY = 0x9
F = FrontendRequest
ACKED = [pytest.param(row, id=row.name) for row in FRONTEND_REQUESTS if row.reply is ReplyKind.ACK]


@pytest.mark.parametrize("row", ACKED)
def test_C093_success_is_acked_with_zero(negotiated: Backend, new_fds: MakeFds, row: RequestRow) -> None:
    request = negotiated.receive(row.id, payload_of(row), new_fds(fd_count(row)), NEED_REPLY)
    assert isinstance(request, ReceivedMessage)
    assert request.need_reply
    message = negotiated.session.reply(request)
    assert ack(message.data) == (Header(row.id, 0x5, 8), 0)
    assert message.fds == ()


@pytest.mark.parametrize("row", ACKED)
def test_C093_H39_a_refusal_is_acked_with_non_zero(
    negotiated: Backend, new_fds: MakeFds, row: RequestRow
) -> None:
    request = negotiated.receive(row.id, payload_of(row), new_fds(fd_count(row)), NEED_REPLY)
    message = negotiated.session.refuse(request, RequestRefused("no"))
    header, value = ack(message.data)
    assert header == Header(row.id, 0x5, 8)
    assert value != 0
    assert negotiated.accept(F.SET_OWNER) is None


@pytest.mark.parametrize("row", ACKED)
def test_C093_nothing_is_sent_unless_asked(negotiated: Backend, new_fds: MakeFds, row: RequestRow) -> None:
    request = negotiated.receive(row.id, payload_of(row), new_fds(fd_count(row)))
    assert negotiated.session.reply(request) is None
    request = negotiated.receive(F.SET_OWNER)
    assert negotiated.session.refuse(request, RequestRefused("no")) is None


def test_C094_no_ack_before_reply_ack_is_negotiated(backend: Backend) -> None:
    request = backend.receive(F.SET_OWNER, b"", [], NEED_REPLY)
    assert not request.need_reply
    assert backend.session.reply(request) is None
    request = backend.receive(F.SET_PROTOCOL_FEATURES, U64(ProtocolFeature.MQ), [], NEED_REPLY)
    assert backend.session.reply(request) is None
    request = backend.receive(F.SET_OWNER, b"", [], NEED_REPLY)
    assert backend.session.reply(request) is None


def test_C094_the_message_that_negotiates_reply_ack_is_acked(backend: Backend) -> None:
    # User-mode Linux and rust-vmm's front-end wait for it: acks follow the state after the message.
    asked = U64(ProtocolFeature.REPLY_ACK)
    request = backend.receive(F.SET_PROTOCOL_FEATURES, asked, [], NEED_REPLY)
    assert request.need_reply
    assert ack(backend.session.reply(request).data) == (Header(F.SET_PROTOCOL_FEATURES, 0x5, 8), 0)
    request = backend.receive(F.SET_OWNER, b"", [], NEED_REPLY)
    assert ack(backend.session.reply(request).data) == (Header(F.SET_OWNER, 0x5, 8), 0)


def test_C094_the_message_that_negotiates_reply_ack_is_not_acked_unasked(backend: Backend) -> None:
    assert backend.accept(F.SET_PROTOCOL_FEATURES, U64(ProtocolFeature.REPLY_ACK)) is None


def test_C094_the_message_that_gives_reply_ack_up_is_not_acked(negotiated: Backend) -> None:
    request = negotiated.receive(F.SET_PROTOCOL_FEATURES, U64(ProtocolFeature.MQ), [], NEED_REPLY)
    assert negotiated.session.reply(request) is None
    request = negotiated.receive(F.SET_OWNER, b"", [], NEED_REPLY)
    assert negotiated.session.reply(request) is None


def test_C094_C096_who_asks_for_reply_ack_learns_that_it_was_refused(backend: Backend) -> None:
    result = backend.receive(
        F.SET_PROTOCOL_FEATURES, U64(ProtocolFeature.REPLY_ACK | 1 << 63), [], NEED_REPLY
    )
    assert isinstance(result, Refusal)
    assert result.response is not None
    assert ack(result.response.data)[1] != 0
    request = backend.receive(F.SET_PROTOCOL_FEATURES, U64(ProtocolFeature.REPLY_ACK), [], NEED_REPLY)
    assert ack(backend.session.refuse(request, RequestRefused("no")).data)[1] != 0
    assert not backend.session.negotiation.reply_ack


def test_C094_reply_ack_that_was_not_offered_brings_no_ack() -> None:
    session = BackendSession(VirtioFeature.PROTOCOL_FEATURES, ProtocolFeature.MQ)
    asked = encode(F.SET_PROTOCOL_FEATURES, NEED_REPLY, U64(ProtocolFeature.REPLY_ACK).pack())
    session.receive(asked[:12])
    result = session.receive(asked[12:])
    assert isinstance(result, Refusal)
    assert result.response is None


def test_C094_no_ack_for_a_request_that_the_session_refuses_either(backend: Backend) -> None:
    for flags in (1, NEED_REPLY):
        result = backend.receive(F.SET_VRING_NUM, VringState(0, 0), [], flags)
        assert isinstance(result, Refusal)
        assert result.response is None


def test_C093_no_ack_for_a_refused_request_that_asked_for_none(negotiated: Backend) -> None:
    result = negotiated.receive(F.SET_VRING_NUM, VringState(0, 0))
    assert isinstance(result, Refusal)
    assert result.response is None


STATUSES = ("SET_LOG_BASE", "IOTLB_MSG", "POSTCOPY_END", "CHECK_DEVICE_STATE")


@pytest.mark.parametrize("row", rows(*STATUSES))
@pytest.mark.parametrize("flags", [1, NEED_REPLY])
def test_C089_C081_a_status_is_sent_exactly_once_and_always(
    negotiated: Backend, new_fds: MakeFds, row: RequestRow, flags: int
) -> None:
    request = negotiated.receive(row.id, payload_of(row), new_fds(fd_count(row)), flags)
    assert ack(negotiated.session.reply(request).data) == (Header(row.id, 0x5, 8), 0)
    request = negotiated.receive(row.id, payload_of(row), new_fds(fd_count(row)), flags)
    assert ack(negotiated.session.refuse(request, RequestRefused("no")).data)[1] == 1


REPLIES: dict[str, tuple[Payload | None, int]] = {
    "GET_FEATURES": (U64(1), 0),
    "GET_VRING_BASE": (VringState(0, 7), 0),
    "GET_PROTOCOL_FEATURES": (U64(1), 0),
    "GET_QUEUE_NUM": (U64(2), 0),
    "GET_CONFIG": (Config(0, b"12345678"), 0),
    "CREATE_CRYPTO_SESSION": (CryptoSession(1, b"x", 3), 0),
    "POSTCOPY_ADVISE": (None, 1),
    "GET_INFLIGHT_FD": (Inflight(4096, 0, 1, 128), 1),
    "GET_MAX_MEM_SLOTS": (U64(509), 0),
    "GET_STATUS": (U64(3), 0),
    "GET_SHARED_OBJECT": (None, 1),
    "SET_DEVICE_STATE_FD": (TransferReply(), 0),
    "GET_SHMEM_CONFIG": (ShmemConfig.of({}), 0),
}


@pytest.mark.parametrize("row", rows(*REPLIES))
@pytest.mark.parametrize("flags", [1, NEED_REPLY])
def test_C003_C093_a_reply_of_its_own_comes_once_with_flags_5(
    negotiated: Backend, new_fds: MakeFds, row: RequestRow, flags: int
) -> None:
    payload, count = REPLIES[row.name]
    request = negotiated.receive(row.id, payload_of(row), new_fds(fd_count(row)), flags)
    fds = new_fds(count)
    message = negotiated.session.reply(request, payload, fds)
    size = len(payload.pack()) if payload else 0
    assert Header.unpack(message.data[:12]) == Header(row.id, 0x5, size)
    assert message.data[12:] == (payload.pack() if payload else b"")
    assert message.fds == tuple(fds)
    for fd in fds:
        os.close(fd)


def test_every_message_with_a_payload_reply_is_tried_above() -> None:
    assert set(REPLIES) == {row.name for row in FRONTEND_REQUESTS if row.reply is ReplyKind.PAYLOAD}


ERRORS: dict[str, bytes] = {
    "GET_CONFIG": b"",
    "SET_DEVICE_STATE_FD": struct.pack("=Q", 0x101),
    "GET_INFLIGHT_FD": bytes(24),
    "GET_SHARED_OBJECT": b"",
    "POSTCOPY_ADVISE": b"",
    "CREATE_CRYPTO_SESSION": CryptoSession(1, b"x", -1).pack(),
}


@pytest.mark.parametrize("row", rows(*ERRORS))
def test_C097_error_replies(negotiated: Backend, new_fds: MakeFds, row: RequestRow) -> None:
    request = negotiated.receive(row.id, payload_of(row), new_fds(fd_count(row)), NEED_REPLY)
    message = negotiated.session.refuse(request, RequestRefused("no"))
    assert Header.unpack(message.data[:12]) == Header(row.id, 0x5, len(ERRORS[row.name]))
    assert message.data[12:] == ERRORS[row.name]
    assert message.fds == ()


@pytest.mark.parametrize("row", rows(*(REPLIES.keys() - ERRORS.keys())))
def test_C097_without_an_error_code_the_connection_closes(negotiated: Backend, row: RequestRow) -> None:
    request = negotiated.receive(row.id, payload_of(row))
    with pytest.raises(ProtocolError, match=f"{row.name}.*the ring is gone.*C097"):
        negotiated.session.refuse(request, RequestRefused("the ring is gone", rule="C069"))
    assert negotiated.session.wanted == 0


def test_a_refusal_names_message_queue_and_rule_in_the_log(
    negotiated: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    request = negotiated.receive(F.SET_VRING_NUM, VringState(7, 256))
    negotiated.session.refuse(request, RequestRefused("there are 2 queues", rule="C069"))
    (record,) = caplog.records
    assert record.name == "vhost_user"
    assert record.levelno == logging.WARNING
    assert record.getMessage() == "SET_VRING_NUM (queue 7) refused: there are 2 queues [C069]"


def test_an_answer_must_fit_its_row(negotiated: Backend) -> None:
    request = negotiated.receive(F.GET_QUEUE_NUM)
    with pytest.raises(TypeError, match="answered with U64"):
        negotiated.session.reply(request)
    with pytest.raises(TypeError, match="answered with U64"):
        negotiated.session.reply(request, VringState(0))
    with pytest.raises(ValueError, match="takes 0 descriptors, not 1"):
        negotiated.session.reply(request, U64(1), [0])
    assert negotiated.session.reply(request, U64(1)) is not None
    request = negotiated.receive(F.SET_OWNER)
    with pytest.raises(TypeError, match="answered with an ack"):
        negotiated.session.reply(request, U64(1))
    with pytest.raises(TypeError, match="answered with an ack"):
        negotiated.session.reply(request, None, [0])
    negotiated.session.reply(request)


def test_C010_more_than_8_descriptors_are_not_sent(negotiated: Backend) -> None:
    with pytest.raises(VhostUserError, match="C010"):
        negotiated.session._message(1, 5, b"", [0] * 9, "sent")


@pytest.mark.parametrize(("value", "count"), [(0, 0), (0x100, 1), (1, 1), (0x101, 1)])
def test_C123_transfer_reply_has_a_descriptor_only_without_error_and_bit_8(
    negotiated: Backend, new_fds: MakeFds, *, value: int, count: int
) -> None:
    request = negotiated.receive(F.SET_DEVICE_STATE_FD, TransferState(0), new_fds(1))
    with pytest.raises(ValueError, match="SET_DEVICE_STATE_FD"):
        negotiated.session.reply(request, TransferReply(value), [0] * count)


def test_C119_post_copy_answers_with_the_memory(negotiated: Backend, new_fds: MakeFds) -> None:
    table = Memory((REGION,))
    request = negotiated.receive(F.SET_MEM_TABLE, table, new_fds(1))
    assert negotiated.session.reply(request, table).data == encode(F.SET_MEM_TABLE, 0x5, table.pack())
