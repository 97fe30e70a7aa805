"""Connections that end, that are given up and that are stopped: C016, C017, H32, H90, H97, H101."""

import array
import os
import socket
import threading
import time
from collections.abc import Callable

import pytest

from tests.support.socket_pairs import SocketPair, backend_session, send_with_fds
from vhost_user.protocol.errors import Disconnected, PeerTimeout
from vhost_user.protocol.framing import Message, encode
from vhost_user.protocol.responder import ReceivedMessage
from vhost_user.protocol.sessions import FrontendSession
from vhost_user.protocol.transport import Connection
from vhost_user.spec.requests import FrontendRequest

MakeFds = Callable[[int], list[int]]
F = FrontendRequest
SECONDS = 20.0
"""Bounds that are reached only when something is broken."""


def test_C016_H32_the_end_between_messages(sockets: SocketPair) -> None:
    connection, theirs = sockets
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(Disconnected) as caught:
        connection.receive(backend_session())
    assert caught.value.clean


@pytest.mark.parametrize("length", [1, 11, 12, 15])
def test_C016_the_end_inside_a_message(sockets: SocketPair, length: int, new_fds: MakeFds) -> None:
    connection, theirs = sockets
    send_with_fds(theirs, encode(F.SET_VRING_NUM, 1, bytes(8))[:length], new_fds(1))
    theirs.close()
    with pytest.raises(Disconnected) as caught:
        connection.receive(backend_session())
    assert not caught.value.clean


def test_C017_sending_to_a_closed_peer_is_an_exception_and_no_signal(sockets: SocketPair) -> None:
    connection, theirs = sockets
    theirs.close()
    with pytest.raises(Disconnected, match="gone"):
        connection.send(Message(encode(F.GET_FEATURES, 1)))


def test_C017_a_reset_while_reading_is_a_disconnect(sockets: SocketPair) -> None:
    connection, theirs = sockets
    connection.send(Message(encode(F.GET_FEATURES, 1)))
    theirs.close()  # with data unread: ECONNRESET
    with pytest.raises(Disconnected):
        connection.receive(backend_session())


def test_C017_a_partial_send_is_completed(sockets: SocketPair, new_fds: MakeFds) -> None:
    connection, theirs = sockets
    data = bytes(range(256)) * 8192
    fds = new_fds(2)
    thread = threading.Thread(target=lambda: connection.send(Message(data, tuple(fds))))
    thread.start()
    received = bytearray()
    arrived: list[int] = []
    while len(received) < len(data):
        part, ancillary, _, _ = theirs.recvmsg(1 << 16, socket.CMSG_SPACE(64))
        received += part
        for _, _, raw in ancillary:
            arrived += array.array("i", raw).tolist()
            assert received[:1] == data[:1]
    thread.join(SECONDS)
    assert received == data
    assert len(arrived) == 2
    for fd in (*fds, *arrived):
        os.close(fd)


def test_H90_a_peer_that_never_reads_is_given_up() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with (
        theirs,
        Connection(ours, timeout=0.05) as connection,
        pytest.raises(PeerTimeout, match=r"did not read.*H90"),
    ):
        connection.send(Message(bytes(1 << 24)))


def test_H97_a_message_that_never_ends_is_given_up() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs, Connection(ours, timeout=0.05) as connection:
        theirs.send(b"\x01")
        with pytest.raises(PeerTimeout, match="did not write"):
            connection.receive(backend_session())


def test_H101_a_reply_that_never_comes(sockets: SocketPair) -> None:
    connection, _ = sockets
    before = time.monotonic()
    with pytest.raises(PeerTimeout):
        connection.call(FrontendSession(), F.GET_FEATURES, timeout=0.05)
    assert time.monotonic() - before < SECONDS


def test_stop_ends_the_wait_and_is_not_read(sockets: SocketPair) -> None:
    connection, theirs = sockets
    stop = os.eventfd(1)
    theirs.send(encode(F.GET_FEATURES, 1))
    assert connection.receive(backend_session(), stop=stop) is None
    assert connection.receive(backend_session(), stop=stop) is None
    assert os.eventfd_read(stop) == 1
    responder = backend_session()
    request = connection.receive(responder, stop=stop)
    assert isinstance(request, ReceivedMessage)
    responder.reply(request)
    os.close(stop)


def test_shutdown_wakes_a_reader_in_another_thread(sockets: SocketPair) -> None:
    connection, _ = sockets
    ended: list[bool] = []

    def read() -> None:
        with pytest.raises(Disconnected) as caught:
            connection.receive(backend_session())
        ended.append(caught.value.clean)

    thread = threading.Thread(target=read)
    thread.start()
    connection.shutdown()
    thread.join(SECONDS)
    assert ended == [True]
    connection.shutdown()
    connection.close()
    connection.shutdown()
    assert connection.fileno() == -1
