"""Requests are checked against their row: C004 to C020, C035, H02, H03, H24, H56, H68."""

import os
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.legal_requests import LEGAL, REGION, ack, fd_count, payload_of, rows
from vhost_user.protocol.errors import ProtocolError, RequestRefused
from vhost_user.protocol.framing import encode
from vhost_user.protocol.responder import ReceivedMessage, Refusal
from vhost_user.protocol.sessions import BackendSession
from vhost_user.spec.requests import FRONTEND_REQUESTS, FrontendRequest, ReplyKind, RequestRow
from vhost_user.spec.structs import U64, Header, Memory, MemoryRegion, MemorySlot, VringFd, VringState

MakeFds = Callable[[int], list[int]]
Backend = Any
NEED_REPLY = 0x9
F = FrontendRequest


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
