"""What the tests of the protocol share: no descriptor may leak, and sessions that are ready to talk."""

import gc
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.descriptors import open_fds
from tests.support.socket_pairs import SocketPair
from vhost_user.protocol.framing import encode
from vhost_user.protocol.responder import ReceivedMessage, Refusal
from vhost_user.protocol.sessions import BackendSession
from vhost_user.protocol.trace import TraceLog
from vhost_user.protocol.transport import Connection
from vhost_user.spec.features import ProtocolFeature, VirtioFeature
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.structs import U64, HeaderFlag, Payload

FEATURES = (
    VirtioFeature.VERSION_1
    | VirtioFeature.PROTOCOL_FEATURES
    | VirtioFeature.ACCESS_PLATFORM
    | VirtioFeature.LOG_ALL
    | VirtioFeature.RING_EVENT_IDX
)
EVERY_PROTOCOL_FEATURE = ProtocolFeature(sum(ProtocolFeature)) & ~ProtocolFeature.XEN_MMAP


@pytest.fixture(autouse=True)
def _no_fd_leaks() -> Iterator[None]:
    """Every test must leave exactly the descriptors that it found (C135)."""
    before = open_fds()
    yield
    if open_fds() != before:
        gc.collect()
    assert open_fds() == before


@pytest.fixture
def new_fds() -> Callable[[int], list[int]]:
    """Makes descriptors that the code under test must close."""

    def make(count: int) -> list[int]:
        return [os.eventfd(0) for _ in range(count)]

    return make


class Backend:
    """A back-end session with the two helpers that every test of it needs."""

    def __init__(self, features: int, protocol_features: int, **options: Any) -> None:
        self.trace = TraceLog()
        self.session = BackendSession(features, protocol_features, tracer=self.trace, **options)

    def receive(
        self, request: int, payload: Payload | bytes = b"", fds: list[int] | None = None, flags: int = 1
    ) -> ReceivedMessage | Refusal | None:
        data = payload if isinstance(payload, bytes) else payload.pack()
        whole = encode(request, flags, data)
        result = self.session.receive(whole[:12], fds or [])
        if result is None:
            result = self.session.receive(whole[12:])
        return result

    def accept(
        self, request: int, payload: Payload | bytes = b"", fds: list[int] | None = None
    ) -> bytes | None:
        """Send a request, answer it with success, return the answer's bytes."""
        result = self.receive(request, payload, fds)
        assert isinstance(result, ReceivedMessage)
        message = self.session.reply(result)
        return message.data if message else None

    def negotiate(self, features: int, protocol_features: int) -> None:
        self.accept(FrontendRequest.SET_PROTOCOL_FEATURES, U64(protocol_features))
        self.accept(FrontendRequest.SET_FEATURES, U64(features))


NEED_REPLY = 1 | HeaderFlag.NEED_REPLY


@pytest.fixture
def backend() -> Iterator[Backend]:
    """A session that offers everything, before negotiation."""
    made = Backend(FEATURES, EVERY_PROTOCOL_FEATURE)
    yield made
    made.session.close()


@pytest.fixture
def negotiated(backend: Backend) -> Backend:
    """A session that has negotiated everything it offers."""
    backend.negotiate(FEATURES, EVERY_PROTOCOL_FEATURE)
    backend.trace.clear()
    return backend


@pytest.fixture
def sockets() -> Iterator[SocketPair]:
    """A connection and the bare socket at its other end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs, Connection(ours) as connection:
        yield connection, theirs
