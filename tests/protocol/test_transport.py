"""Messages and their descriptors over real sockets: C001, C009 to C015, C135, C137, H21, H31, H83, H84."""

import fcntl
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.socket_pairs import SocketPair, backend_session, send_with_fds
from vhost_user.protocol.errors import Disconnected, PeerTimeout, ProtocolError, RequestRefused
from vhost_user.protocol.framing import Message, encode
from vhost_user.protocol.responder import ReceivedMessage, Refusal
from vhost_user.protocol.sessions import FrontendSession
from vhost_user.protocol.transport import Connection, Onlooker, wait_ready
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.structs import U64, VringFd, VringState

MakeFds = Callable[[int], list[int]]
F = FrontendRequest
SECONDS = 20.0
"""Bounds that are reached only when something is broken."""


def test_C015_pipelined_messages_keep_their_descriptors(sockets: SocketPair, new_fds: MakeFds) -> None:
    connection, theirs = sockets
    kicks = [encode(F.SET_VRING_CALL, 1, VringFd.of(n).pack()) for n in range(10)]
    for kick in kicks:
        send_with_fds(theirs, kick, new_fds(1))
    responder = backend_session()
    for number in range(10):
        request = connection.receive(responder)
        assert isinstance(request, ReceivedMessage)
        assert request.queue == number
        assert len(request.fds) == 1
        responder.reply(request)


def test_C012_descriptors_arrive_close_on_exec(sockets: SocketPair, new_fds: MakeFds) -> None:
    connection, theirs = sockets
    send_with_fds(theirs, encode(F.SET_LOG_FD, 1), new_fds(1))
    responder = backend_session()
    request = connection.receive(responder)
    assert isinstance(request, ReceivedMessage)
    fd = request.fds.take_one()
    assert fd is not None
    assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    seen = subprocess.run(
        [sys.executable, "-c", f"import os; os.fstat({fd})"],
        check=False,
        capture_output=True,
        close_fds=False,
    )
    assert b"Bad file descriptor" in seen.stderr
    os.close(fd)
    responder.reply(request)


@pytest.mark.parametrize("count", [9, 32, 100, 253])
def test_C010_H83_many_descriptors_are_all_seen_and_closed(
    sockets: SocketPair, new_fds: MakeFds, count: int
) -> None:
    connection, theirs = sockets
    send_with_fds(theirs, encode(F.SET_LOG_FD, 1), new_fds(count))
    with pytest.raises(ProtocolError, match=f"{count} file descriptors came.*C010"):
        connection.receive(backend_session())


@pytest.mark.parametrize("kind", ["directory", "pipe", "closed pipe", "socket", "/dev/null", "O_PATH"])
def test_H84_any_kind_of_descriptor_is_closed_again(sockets: SocketPair, kind: str) -> None:
    connection, theirs = sockets
    extra: list[int] = []
    match kind:
        case "directory":
            fd = os.open("/", os.O_RDONLY)
        case "pipe":
            fd, *extra = os.pipe()
        case "closed pipe":
            fd, other = os.pipe()
            os.close(other)
        case "socket":
            fd = theirs.dup().detach()
        case "O_PATH":
            fd = os.open("/", os.O_PATH)
        case _:
            fd = os.open(kind, os.O_RDWR)
    send_with_fds(theirs, encode(F.SET_OWNER, 1), [fd])
    for other in extra:
        os.close(other)
    assert not isinstance(connection.receive(backend_session()), ReceivedMessage)


def test_C011_ancillary_data_that_was_cut_off_is_an_error(sockets: SocketPair, new_fds: MakeFds) -> None:
    import resource

    connection, theirs = sockets
    send_with_fds(theirs, encode(F.SET_LOG_FD, 1), new_fds(3))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208  # names, not paths
    taken = [os.dup(0) for _ in range(used + 4 - len(os.listdir("/proc/self/fd")))]  # noqa: PTH208  # the same
    try:
        highest = max([used, *taken])
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2, limits[1]))
        with pytest.raises(ProtocolError, match="C011"):
            connection.receive(backend_session())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in taken:
            os.close(fd)


def test_C001_H31_a_message_byte_by_byte(sockets: SocketPair) -> None:
    connection, theirs = sockets
    responder = backend_session()
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(connection.receive(responder)))
    thread.start()
    for byte in encode(F.SET_VRING_NUM, 1, VringState(5, 64).pack()):
        theirs.send(bytes([byte]))
    thread.join(SECONDS)
    (request,) = results
    assert request.payload == VringState(5, 64)
    responder.reply(request)


def test_C009_descriptors_after_the_first_byte(sockets: SocketPair, new_fds: MakeFds) -> None:
    connection, theirs = sockets
    data = encode(F.SET_LOG_FD, 1)
    responder = backend_session()
    theirs.send(data[:5])
    # The kernel joins what nobody has read yet, so the first part must be read first.
    with pytest.raises(PeerTimeout):
        connection.receive(responder, timeout=0)
    assert responder.inside_message
    send_with_fds(theirs, data[5:], new_fds(1))
    with pytest.raises(ProtocolError, match="C009"):
        connection.receive(responder)


def serve(connection: Connection) -> None:
    """Answer until the end, as a framework does."""
    responder = backend_session()
    with connection:
        try:
            while True:
                request = connection.receive(responder)
                if isinstance(request, Refusal):
                    connection.send(request.response)
                    continue
                assert request is not None
                if request.row.request is F.GET_QUEUE_NUM:
                    answer = responder.reply(request, U64(3))
                elif request.row.request is F.SET_VRING_NUM and request.queue != 0:
                    answer = responder.refuse(request, RequestRefused("no such queue", rule="C069"))
                else:
                    answer = responder.reply(request)
                connection.send(answer)
        except Disconnected:
            responder.close()


def test_both_roles_talk_to_each_other() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    thread = threading.Thread(target=serve, args=(Connection(theirs),))
    thread.start()
    frontend = FrontendSession()
    with Connection(ours) as connection:
        for request in (F.GET_FEATURES, F.GET_PROTOCOL_FEATURES):
            assert connection.call(frontend, request) is not None
        bits = frontend.negotiation.offered_protocol_features
        assert connection.call(frontend, F.SET_PROTOCOL_FEATURES, U64(bits)) is None
        features = frontend.negotiation.offered_features
        assert connection.call(frontend, F.SET_FEATURES, U64(features)) is not None
        reply = connection.call(frontend, F.GET_QUEUE_NUM)
        assert reply is not None
        assert reply.payload == U64(3)
        assert connection.call(frontend, F.SET_VRING_NUM, VringState(0, 64)) is not None
        with pytest.raises(RequestRefused, match="queue 1"):
            connection.call(frontend, F.SET_VRING_NUM, VringState(1, 64))
        assert connection.call(frontend, F.SET_OWNER) is not None
    thread.join(SECONDS)


def test_C135_a_thousand_messages_with_descriptors_leave_none(sockets: SocketPair, new_fds: MakeFds) -> None:
    connection, theirs = sockets
    responder = backend_session()
    for _ in range(1000):
        send_with_fds(theirs, encode(F.SET_VRING_CALL, 1, VringFd.of(0).pack()), new_fds(1))
        request = connection.receive(responder)
        assert isinstance(request, ReceivedMessage)
        responder.reply(request)


class Flaky(socket.socket):
    """A socket whose next call fails as if somebody else had been faster."""

    failures = 1

    def _fail(self, error: OSError) -> None:
        if self.failures:
            self.failures -= 1
            raise error

    def recvmsg(self, *arguments: Any) -> Any:
        self._fail(BlockingIOError())
        return super().recvmsg(*arguments)


def test_a_wake_up_for_nothing_goes_on_waiting() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs, Connection(Flaky(fileno=ours.detach())) as connection:
        theirs.send(encode(F.GET_FEATURES, 1))
        responder = backend_session()
        assert isinstance(connection.receive(responder), ReceivedMessage)
        responder.close()


def test_other_errors_of_sending_are_not_hidden(sockets: SocketPair) -> None:
    connection, _ = sockets
    with pytest.raises(OSError, match="Bad file descriptor"):
        connection.send(Message(b"1", (12345,)))
    connection.send(None)


def test_other_errors_of_shutting_down_are_not_hidden() -> None:
    with Connection(socket.socket(socket.AF_UNIX)) as connection:
        connection.shutdown()  # not connected: nothing to end
    null = os.open("/dev/null", os.O_RDONLY)
    with Connection(socket.socket(socket.AF_UNIX)) as connection:
        os.dup2(null, connection.fileno())
        with pytest.raises(OSError, match="non-socket"):
            connection.shutdown()
    os.close(null)


def test_ancillary_data_of_other_kinds_is_no_descriptor() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    with theirs, Connection(ours) as connection:
        theirs.send(encode(F.SET_OWNER, 1))
        responder = backend_session()
        assert isinstance(connection.receive(responder), ReceivedMessage)
        responder.close()


def test_C137_a_peer_that_has_something_to_say_comes_before_one_that_waits() -> None:
    """It may be about to leave, and the other to come in its place: nobody waits in vain then."""
    told: list[bool] = []
    peer, ours = socket.socketpair()
    other, waiting = socket.socketpair()
    with peer, ours, other, waiting:
        onlooker = Onlooker(waiting, lambda: told.append(True))
        other.send(b"x")
        peer.send(b"x")
        assert wait_ready(ours.fileno(), select.POLLIN, time.monotonic() + 10, None, onlooker)
        assert told == []
        ours.recv(1)
        with pytest.raises(PeerTimeout):
            wait_ready(ours.fileno(), select.POLLIN, time.monotonic() + 0.01, None, onlooker)
        assert told == [True]
