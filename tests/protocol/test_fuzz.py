"""Arbitrary and almost legal input: only the documented errors may come out, no descriptor may stay open.

``fuzz`` is the entry point for any fuzzer: it takes bytes and makes a session of them.
"""

import contextlib
import os
import random
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vhost_user.protocol.errors import Disconnected, ProtocolError, RequestRefused
from vhost_user.protocol.framing import encode
from vhost_user.protocol.negotiation import Negotiation
from vhost_user.protocol.requester import Requester
from vhost_user.protocol.responder import ReceivedMessage, Refusal, Responder
from vhost_user.protocol.sessions import BackChannelResponder, BackendSession, FrontendSession
from vhost_user.protocol.trace import TraceLog
from vhost_user.spec.requests import FRONTEND_REQUESTS, FrontendRequest
from vhost_user.spec.structs import U64, Config, Empty, Payload

EVERYTHING = (1 << 64) - 1
LIMITED = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


class Cursor:
    """Numbers and bytes out of a fuzzer's input; zeroes when it is used up."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def number(self, size: int) -> int:
        return int.from_bytes(self.bytes(size), "little")

    def bytes(self, size: int) -> bytes:
        part, self.data = self.data[:size], self.data[size:]
        return part.ljust(size, b"\0")


def descriptors(count: int) -> list[int]:
    return [os.eventfd(0) for _ in range(count)]


def responders() -> Iterator[Responder]:
    """A back-end before and after negotiation, and a front-end's back channel."""
    yield BackendSession(EVERYTHING, EVERYTHING, tracer=TraceLog())
    negotiated = BackendSession(EVERYTHING, EVERYTHING & ~(1 << 17), tracer=TraceLog())
    negotiated.negotiation.acked_features = EVERYTHING
    negotiated.negotiation.acked_protocol_features = EVERYTHING & ~(1 << 17)
    yield negotiated
    yield BackChannelResponder(negotiated.negotiation, tracer=TraceLog())


def feed(session: Responder | Requester, data: bytes, cursor: Cursor) -> None:
    """Give ``data`` in pieces, with descriptors now and then; answer what is handed out."""
    position = 0
    while position < len(data):
        wanted = session.wanted
        if not wanted:
            return
        size = 1 + cursor.number(1) % wanted
        part = data[position : position + size]
        position += len(part)
        choice = cursor.number(1)
        fds = descriptors(choice % 12 if choice > 200 or not session.inside_message else 0)
        result = session.receive(part, fds, truncated=choice == 255)
        if isinstance(result, ReceivedMessage) and isinstance(session, Responder):
            respond(session, result, cursor)
        elif not isinstance(result, Refusal) and result is not None:
            result.fds.close()


def respond(session: Responder, request: ReceivedMessage, cursor: Cursor) -> None:
    assert request.payload.pack() is not None
    assert len(request.fds) <= 8
    if cursor.number(1) & 1:
        with contextlib.suppress(ProtocolError):
            session.refuse(request, RequestRefused("the fuzzer says no"))
        return
    try:
        session.reply(request)
    except TypeError:  # a payload or a descriptor is needed
        with contextlib.suppress(ProtocolError):
            session.refuse(request, RequestRefused("nothing to say"))


def fuzz(data: bytes) -> None:
    """Make sessions of arbitrary bytes; whatever is raised is a finding."""
    for session in responders():
        cursor = Cursor(data)
        with contextlib.suppress(ProtocolError, Disconnected):
            feed(session, data, cursor)
            session.receive(b"")
        session.close()
        assert session.wanted == 0
        for event in session.tracer.events if isinstance(session.tracer, TraceLog) else ():
            assert "\n" not in str(event)


def fuzz_messages(data: bytes) -> None:
    """The same with whole headers, so that more gets through; ids, flags and fields come from ``data``."""
    for session in responders():
        cursor = Cursor(data)
        stream = bytearray()
        while cursor.data:
            row = session.table.rows[cursor.number(1) % len(session.table)]
            flags = 9 if cursor.number(1) & 1 else 1
            size = row.payload.SIZE + (cursor.number(1) if not cursor.number(1) % 8 else 0)
            stream += encode(row.id, flags, cursor.bytes(min(size, 64)).ljust(size, b"\0"))
        with contextlib.suppress(ProtocolError, Disconnected):
            feed(session, bytes(stream), Cursor(data))
        session.close()


def fuzz_replies(data: bytes) -> None:
    """A front-end asks, and ``data`` is what comes back."""
    cursor = Cursor(data)
    session = FrontendSession(tracer=TraceLog())
    session.negotiation = Negotiation(
        EVERYTHING, EVERYTHING & ~(1 << 17), EVERYTHING, EVERYTHING & ~(1 << 17)
    )
    row = session.table.rows[cursor.number(1) % len(session.table)]
    payload = row.payload.unpack(bytes(row.payload.SIZE))
    if isinstance(payload, Config):
        payload = Config(0, b"1234")
    try:
        session.send(row.id, payload, [0] * row.fds.bounds(payload)[0])
    except RequestRefused:
        return
    flags = 5 if cursor.number(1) & 3 else cursor.number(4)
    request = row.id if cursor.number(1) & 7 else cursor.number(4)
    stream = encode(request, flags, cursor.bytes(cursor.number(1) % 64)) + cursor.data
    with contextlib.suppress(ProtocolError, Disconnected, RequestRefused):
        feed(session, stream, cursor)
        session.receive(b"")
    session.close()


@given(st.binary(max_size=400))
@LIMITED
def test_H99_arbitrary_bytes(data: bytes) -> None:
    fuzz(data)


@given(st.binary(max_size=400))
@LIMITED
def test_H99_arbitrary_messages(data: bytes) -> None:
    fuzz_messages(data)


@given(st.binary(max_size=200))
@LIMITED
def test_H99_H101_arbitrary_replies(data: bytes) -> None:
    fuzz_replies(data)


def valid_session() -> list[bytes]:
    """What a front-end like QEMU sends to bring a ring up."""
    made = FrontendSession()
    features = 1 << 32 | 1 << 30
    made.negotiation = Negotiation(features, 0x40B, features, 0x40B)
    messages = []
    for row in FRONTEND_REQUESTS:
        payload: Payload = (
            row.payload.unpack(bytes(row.payload.SIZE)) if row.payload is not Empty else Empty()
        )
        if row.request is FrontendRequest.SET_FEATURES:
            payload = U64(features)
        messages.append(encode(row.id, 9, payload.pack()))
    return messages


MESSAGES = valid_session()


@given(
    which=st.integers(0, len(MESSAGES) - 1),
    position=st.integers(0, 63),
    value=st.integers(0, 255),
    pieces=st.binary(max_size=64),
)
@LIMITED
def test_H100_a_valid_session_with_one_changed_byte(
    which: int, position: int, value: int, pieces: bytes
) -> None:
    session = BackendSession(EVERYTHING, EVERYTHING & ~(1 << 17))
    session.negotiation.acked_features = EVERYTHING
    session.negotiation.acked_protocol_features = EVERYTHING & ~(1 << 17)
    messages = [bytearray(message) for message in MESSAGES]
    messages[which][position % len(messages[which])] = value
    with contextlib.suppress(ProtocolError, Disconnected):
        feed(session, b"".join(messages), Cursor(pieces))
    session.close()


@pytest.mark.parametrize("seed", range(20))
def test_H99_seeded_bytes(seed: int) -> None:
    data = random.Random(seed).randbytes(3000)
    fuzz(data)
    fuzz_messages(data)
    fuzz_replies(data)


def test_the_fuzzer_reaches_every_message() -> None:
    """A fuzzer that gets nowhere would find nothing."""
    log = TraceLog(100000)
    for row in FRONTEND_REQUESTS:
        session = BackendSession(EVERYTHING, EVERYTHING, tracer=log)
        session.negotiation.acked_features = session.negotiation.acked_protocol_features = EVERYTHING
        feed(session, encode(row.id, 1, bytes(row.payload.SIZE)), Cursor(bytes(2)))
        session.close()
    decided = {event.name for event in log.events if event.header.flags == 1}
    accepted = {event.name for event in log.events if event.outcome == "accepted"}
    assert decided == {row.name for row in FRONTEND_REQUESTS}
    assert {"GET_FEATURES", "SET_VRING_ADDR", "SET_VRING_BASE", "GET_STATUS", "RESET_DEVICE"} <= accepted
