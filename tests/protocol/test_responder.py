"""Requests are checked against their row and answered by it: C003 to C020, C093 to C097."""

import logging
import os
import struct
from collections.abc import Callable
from typing import Any

import pytest

from vhost_user.protocol.errors import ProtocolError, RequestRefused, VhostUserError
from vhost_user.protocol.framing import encode
from vhost_user.protocol.responder import ReceivedMessage, Refusal
from vhost_user.protocol.sessions import BackendSession
from vhost_user.spec.features import ProtocolFeature, VirtioFeature
from vhost_user.spec.requests import (
    FRONTEND_REQUESTS,
    FrontendRequest,
    ReplyKind,
    RequestRow,
)
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
    ShmemConfig,
    TransferReply,
    TransferState,
    VringAddress,
    VringFd,
    VringState,
)

MakeFds = Callable[[int], list[int]]
Backend = Any
NEED_REPLY = 0x9
F = FrontendRequest
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


def test_C004_a_reply_where_a_request_belongs(negotiated: Backend, new_fds: MakeFds) -> None:
    with pytest.raises(ProtocolError, match="C004"):
        negotiated.receive(F.SET_FEATURES, U64(0), new_fds(1), 0x5)
    assert negotiated.session.wanted == 0


@pytest.mark.parametrize("row", rows())
@pytest.mark.parametrize("change", [-1, 1, 8])
def test_C008_H24_a_wrong_size_is_refused(
    negotiated: Backend, new_fds: MakeFds, row: RequestRow, change: int
) -> None:
    data = payload_of(row)
    if change < 0 and not data:
        return
    wrong = data[:-1] if change < 0 else data + bytes(change)
    if row.name == "CREATE_CRYPTO_SESSION":
        wrong = data[:15]
    if row.reply is ReplyKind.PAYLOAD and row.error_reply is None:
        with pytest.raises(ProtocolError, match="C008"):
            negotiated.receive(row.id, wrong, new_fds(fd_count(row)), NEED_REPLY)
        return
    result = negotiated.receive(row.id, wrong, new_fds(fd_count(row)), NEED_REPLY)
    assert isinstance(result, Refusal)
    assert result.error.rule == "C008"
    assert result.response is not None
    assert negotiated.accept(F.SET_OWNER) is None


@pytest.mark.parametrize("row", rows("SET_VRING_NUM", "SET_VRING_ADDR", "SET_FEATURES", "SET_MEM_TABLE"))
def test_H24_an_empty_payload_is_refused(negotiated: Backend, row: RequestRow) -> None:
    result = negotiated.receive(row.id, b"", [], NEED_REPLY)
    assert isinstance(result, Refusal)
    assert ack(result.response.data)[1] == 1  # type: ignore[union-attr]  # NEED_REPLY was set


def test_H56_get_shared_object_without_uuid_gets_no_fd_and_lives(negotiated: Backend) -> None:
    result = negotiated.receive(F.GET_SHARED_OBJECT)
    assert isinstance(result, Refusal)
    assert result.response is not None
    assert (result.response.data, result.response.fds) == (encode(F.GET_SHARED_OBJECT, 0x5), ())


@pytest.mark.parametrize("row", rows())
@pytest.mark.parametrize("count", [1, 2, 7, 8])
def test_C013_H03_H13_too_many_descriptors_are_closed_and_refused(
    negotiated: Backend, new_fds: MakeFds, row: RequestRow, count: int
) -> None:
    count += fd_count(row) + (row.name == "REM_MEM_REG")
    if count > 8:
        return
    fds = new_fds(count)
    if row.reply is ReplyKind.PAYLOAD and row.error_reply is None:
        with pytest.raises(ProtocolError, match="file descriptors came"):
            negotiated.receive(row.id, payload_of(row), fds, NEED_REPLY)
        return
    result = negotiated.receive(row.id, payload_of(row), fds, NEED_REPLY)
    assert isinstance(result, Refusal)
    assert result.error.rule in {"C013", "C014", "C035"}


@pytest.mark.parametrize("row", [row for row in FRONTEND_REQUESTS if fd_count(row)], ids=lambda row: row.name)
def test_C014_a_missing_descriptor_is_refused(negotiated: Backend, row: RequestRow) -> None:
    result = negotiated.receive(row.id, payload_of(row), [], NEED_REPLY)
    assert isinstance(result, Refusal)
    assert result.error.rule in {"C014", "C035"}
    assert result.response is not None


@pytest.mark.parametrize("request_id", [F.SET_VRING_KICK, F.SET_VRING_CALL, F.SET_VRING_ERR])
def test_C014_C052_bit_8_says_that_no_descriptor_comes(
    negotiated: Backend, new_fds: MakeFds, request_id: FrontendRequest
) -> None:
    request = negotiated.receive(request_id, VringFd.of(1, no_fd=True))
    assert isinstance(request, ReceivedMessage)
    assert request.payload == VringFd(0x101)
    negotiated.session.reply(request)
    result = negotiated.receive(request_id, VringFd.of(1, no_fd=True), new_fds(1), NEED_REPLY)
    assert isinstance(result, Refusal)
    assert (result.error.rule, result.error.queue) == ("C014", 1)


@pytest.mark.parametrize("count", [0, 1])
def test_C013_C042_rem_mem_reg_closes_the_one_descriptor_it_may_carry(
    negotiated: Backend, new_fds: MakeFds, count: int
) -> None:
    request = negotiated.receive(F.REM_MEM_REG, MemorySlot(REGION), new_fds(count), NEED_REPLY)
    assert isinstance(request, ReceivedMessage)
    assert len(request.fds) == 0
    assert ack(negotiated.session.reply(request).data)[1] == 0


@pytest.mark.parametrize(("regions", "count"), [(1, 0), (1, 2), (2, 1), (8, 7), (3, 8)])
def test_C035_H30_as_many_descriptors_as_regions(
    negotiated: Backend, new_fds: MakeFds, regions: int, count: int
) -> None:
    table = Memory(tuple(MemoryRegion(n << 20, 4096, n << 30) for n in range(regions)))
    result = negotiated.receive(F.SET_MEM_TABLE, table, new_fds(count), NEED_REPLY)
    assert isinstance(result, Refusal)
    assert result.error.rule == "C035"


def test_C035_descriptors_keep_their_order(negotiated: Backend, new_fds: MakeFds) -> None:
    table = Memory(tuple(MemoryRegion(n << 20, 4096, n << 30) for n in range(8)))
    fds = new_fds(8)
    request = negotiated.receive(F.SET_MEM_TABLE, table, fds)
    assert isinstance(request, ReceivedMessage)
    assert request.fds.take() == fds
    for fd in fds:
        os.close(fd)


@pytest.mark.parametrize("unknown", [0, 45, 46, 1000, 0xFFFFFFFF])
def test_C020_H32_H68_unknown_requests(
    negotiated: Backend, new_fds: MakeFds, caplog: pytest.LogCaptureFixture, unknown: int
) -> None:
    result = negotiated.receive(unknown, b"any", new_fds(3), NEED_REPLY)
    assert isinstance(result, Refusal)
    assert result.response is not None
    assert ack(result.response.data) == (Header(unknown, 0x5, 8), 1)
    assert f"request {unknown} refused" in caplog.text
    assert negotiated.accept(F.SET_OWNER) is None
    with pytest.raises(ProtocolError, match=f"request {unknown}.*C020"):
        negotiated.receive(unknown, b"", new_fds(1))


def test_C020_without_reply_ack_unknown_requests_close(backend: Backend) -> None:
    with pytest.raises(ProtocolError, match="C020"):
        backend.receive(0, b"", [], NEED_REPLY)


def test_C015_a_request_must_be_answered_before_the_next(negotiated: Backend, new_fds: MakeFds) -> None:
    request = negotiated.receive(F.SET_LOG_FD, b"", new_fds(1))
    with pytest.raises(RuntimeError, match="SET_LOG_FD was not answered"):
        negotiated.receive(F.SET_LOG_FD, b"", new_fds(1))
    negotiated.session.reply(request)
    with pytest.raises(RuntimeError, match="answered already"):
        negotiated.session.reply(request)
    with pytest.raises(RuntimeError, match="answered already"):
        negotiated.session.refuse(request, RequestRefused("late"))


def test_descriptors_of_an_unanswered_request_are_closed_with_the_session(
    negotiated: Backend, new_fds: MakeFds
) -> None:
    assert isinstance(negotiated.receive(F.SET_LOG_FD, b"", new_fds(1)), ReceivedMessage)
    negotiated.session.close()


def test_descriptors_that_nobody_took_are_closed_with_the_answer(
    negotiated: Backend, new_fds: MakeFds
) -> None:
    request = negotiated.receive(F.SET_LOG_FD, b"", new_fds(1))
    negotiated.session.reply(request)
    request = negotiated.receive(F.SET_LOG_FD, b"", new_fds(1))
    negotiated.session.refuse(request, RequestRefused("no"))
    request = negotiated.receive(F.SET_LOG_FD, b"", new_fds(1))
    taken = request.fds.take_one()
    negotiated.session.reply(request)
    os.close(taken)


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


def test_H02_the_same_request_in_a_loop_leaves_nothing(negotiated: Backend, new_fds: MakeFds) -> None:
    for _ in range(1000):
        assert negotiated.accept(F.SET_VRING_NUM, VringState(0, 256)) is None
        assert negotiated.accept(F.SET_VRING_CALL, VringFd.of(0), new_fds(1)) is None


def test_options_reach_the_decoder() -> None:
    session = BackendSession(0, 0, allow_reserved_flags=True, maximum_payload=8, maximum_fds=1)
    request = session.receive(encode(1, 1 | 1 << 20))
    assert isinstance(request, ReceivedMessage)
    session.reply(request)
    with pytest.raises(ProtocolError, match="C007"):
        session.receive(encode(1, 1, bytes(9))[:12])


def listening(negotiated: Backend) -> None:
    """Post-copy listens: memory is answered with memory."""
    assert negotiated.accept(F.POSTCOPY_LISTEN) is None


@pytest.mark.parametrize("number", [F.SET_MEM_TABLE, F.ADD_MEM_REG])
def test_C119_in_post_copy_memory_is_answered_with_memory(
    negotiated: Backend, new_fds: MakeFds, number: F
) -> None:
    listening(negotiated)
    row = FRONTEND_REQUESTS[number]
    request = negotiated.receive(row.id, payload_of(row), new_fds(1))
    message = negotiated.session.reply(request, LEGAL[number.name])
    assert Header.unpack(message.data[:12]) == Header(row.id, 0x5, len(payload_of(row)))


@pytest.mark.parametrize("number", [F.SET_MEM_TABLE, F.ADD_MEM_REG])
def test_C097_C119_memory_that_is_refused_in_post_copy_ends_the_connection(
    negotiated: Backend, new_fds: MakeFds, number: F
) -> None:
    listening(negotiated)
    row = FRONTEND_REQUESTS[number]
    request = negotiated.receive(row.id, payload_of(row), new_fds(1), NEED_REPLY)
    with pytest.raises(ProtocolError, match="C097"):
        negotiated.session.refuse(request, RequestRefused("no"))


@pytest.mark.parametrize("number", [0, F.SET_MEM_TABLE, F.ADD_MEM_REG, F.REM_MEM_REG])
def test_C119_readiness_goes_by_the_number_of_the_message_before_it(negotiated: Backend, number: int) -> None:
    listening(negotiated)
    request = negotiated.receive(number, U64(3).pack())
    assert isinstance(request, ReceivedMessage)
    assert request.row.request is F.SET_MEM_TABLE
    assert request.payload == U64(3)
    assert negotiated.session.reply(request) is None


def test_C120_after_the_end_there_is_no_readiness(negotiated: Backend) -> None:
    listening(negotiated)
    negotiated.accept(F.POSTCOPY_END)
    assert not isinstance(negotiated.receive(F.SET_MEM_TABLE, U64(0).pack()), ReceivedMessage)
    with pytest.raises(ProtocolError, match="C020"):
        negotiated.receive(0, U64(0).pack())


@pytest.mark.parametrize(
    ("number", "size", "fds"), [(0, 9, 0), (0, 8, 1), (99, 8, 0), (F.SET_OWNER, 8, 0), (F.ADD_MEM_REG, 4, 0)]
)
def test_C119_what_is_not_readiness_stays_what_it_is(
    negotiated: Backend, new_fds: MakeFds, number: int, size: int, fds: int
) -> None:
    listening(negotiated)
    try:
        request = negotiated.receive(number, bytes(size), new_fds(fds))
    except ProtocolError:
        return
    assert not isinstance(request, ReceivedMessage)
