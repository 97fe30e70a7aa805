"""Descriptors that a front-end should not have sent: each is closed, at once, whatever it is (C013, H84)."""

from __future__ import annotations

import os
import resource
import socket
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from vhost_user.protocol.errors import Disconnected
from vhost_user.protocol.framing import Message, encode
from vhost_user.protocol.transport import Connection
from vhost_user.spec.requests import FrontendRequest as Ask
from vhost_user.spec.structs import Header, Log, MemoryRegion, MemorySlot, VringFd

MOST = 253
"""SCM_MAX_FD of Linux."""
NEED_REPLY = 0x9
AF_XDP = 44


def socket_file(path: Path) -> int:
    """``fstat`` calls it a socket, and no call of a socket works on it."""
    return os.open(path, os.O_PATH | os.O_CLOEXEC)


def of_family(family: int, kind: int) -> Callable[[Path], int]:
    def make(_path: Path) -> int:
        try:
            return socket.socket(family, kind).detach()
        except PermissionError as error:
            pytest.skip(f"making such a socket takes rights that we do not have: {error}")

    return make


KINDS = [
    pytest.param(socket_file, id="O_PATH of a socket file"),
    pytest.param(of_family(AF_XDP, socket.SOCK_RAW), id="AF_XDP, which has no addresses"),
    pytest.param(of_family(socket.AF_NETLINK, socket.SOCK_RAW), id="netlink"),
    pytest.param(of_family(socket.AF_UNIX, socket.SOCK_DGRAM), id="datagrams"),
    pytest.param(of_family(socket.AF_INET, socket.SOCK_STREAM), id="TCP"),
    pytest.param(lambda _path: os.open("/", os.O_RDONLY), id="directory"),
]


class Anything:
    """Takes one message off a connection, whatever it says."""

    def __init__(self) -> None:
        self.data = b""

    @property
    def wanted(self) -> int:
        return (
            Header.SIZE
            + (Header.unpack(self.data[: Header.SIZE]).size if self.inside_payload else 0)
            - len(self.data)
        )

    @property
    def inside_payload(self) -> bool:
        return len(self.data) >= Header.SIZE

    @property
    def inside_message(self) -> bool:
        return bool(self.data)

    def receive(self, data: bytes, fds: Sequence[int] = (), *, truncated: bool = False) -> bytes | None:
        assert not fds
        assert not truncated
        if not data:
            raise Disconnected
        self.data += data
        return None if self.wanted else self.data


def answers(connection: Connection) -> None:
    """The back-end is at work, after anything else that it may have to say; fails after ten seconds."""
    connection.send(Message(encode(Ask.GET_FEATURES, 1)))
    while True:
        message = connection.receive(Anything(), timeout=10)
        assert message is not None
        if Header.unpack(message[: Header.SIZE]).request == Ask.GET_FEATURES:
            return


def is_closed(connection: Connection) -> bool:
    """The back-end ends the connection, in ten seconds at most."""
    while True:
        try:
            connection.receive(Anything(), timeout=10)
        except Disconnected:
            return True


@pytest.mark.parametrize("make", KINDS)
def test_H83_H84_as_many_as_can_be_sent_are_all_closed(
    arena: Callable[..., Any], make: Callable[[Path], int]
) -> None:
    with arena("rng") as attack:
        fd = make(attack.socket)
        for _ in range(5):
            front = attack.front_end()
            front.connection.send(Message(encode(Ask.SET_VRING_CALL, 1, VringFd.of(0).pack()), (fd,) * MOST))
            assert is_closed(front.connection)
        os.close(fd)


@pytest.mark.parametrize("make", KINDS)
def test_C098_C067_H84_what_is_not_what_it_should_be_is_closed(
    arena: Callable[..., Any], make: Callable[[Path], int]
) -> None:
    with arena("rng") as attack:
        fd = make(attack.socket)
        front = attack.front_end()
        front.negotiate()
        for request in (Ask.SET_BACKEND_REQ_FD, Ask.SET_VRING_CALL, Ask.SET_VRING_KICK, Ask.SET_LOG_FD):
            payload = VringFd.of(0).pack() if "VRING" in request.name else b""
            for _ in range(20):
                front.connection.send(Message(encode(request, 1, payload), (fd,)))
        answers(front.connection)
        os.close(fd)
        front.close()


def lingering() -> tuple[int, list[socket.socket]]:
    """A TCP socket whose ``close`` waits a minute for data that nobody reads; and what keeps it so."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    listener.bind(("127.0.0.1", 0))
    listener.listen(1)
    client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    client.connect(listener.getsockname())
    accepted, _ = listener.accept()
    client.setblocking(False)
    try:
        while True:
            client.send(bytes(65536))
    except BlockingIOError:
        pass
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 60))
    return client.detach(), [listener, accepted]


REGION = MemorySlot(MemoryRegion(1 << 40, 0x1000, 1 << 40))


@pytest.mark.parametrize(
    ("request_", "payload"),
    [
        pytest.param(Ask.SET_OWNER, b"", id="not wanted"),
        pytest.param(Ask.SET_VRING_CALL, VringFd.of(0).pack(), id="call"),
        pytest.param(Ask.SET_VRING_ERR, VringFd.of(0).pack(), id="err"),
        pytest.param(Ask.SET_VRING_KICK, VringFd.of(0).pack(), id="kick"),
        pytest.param(Ask.SET_BACKEND_REQ_FD, b"", id="back channel"),
        pytest.param(Ask.SET_LOG_FD, b"", id="log event"),
        pytest.param(Ask.SET_LOG_BASE, Log(4096).pack(), id="log"),
        pytest.param(Ask.ADD_MEM_REG, REGION.pack(), id="memory"),
    ],
)
def test_H84_a_socket_that_lingers_keeps_nobody_waiting(
    arena: Callable[..., Any], request_: Ask, payload: bytes
) -> None:
    fd, ends = lingering()
    with arena("rng") as attack:
        front = attack.front_end()
        front.negotiate()
        # Ours is closed before theirs, so that theirs is the last: only that one waits.
        front.connection.send(Message(encode(request_, 1, payload), (fd,)))
        os.close(fd)
        answers(front.connection)
        front.close()
    for end in ends:
        end.close()


def test_C011_a_limit_that_is_reached_is_named(arena: Callable[..., Any]) -> None:
    with arena("rng") as attack:
        front = attack.front_end()
        front.negotiate()
        soft, hard = resource.prlimit(attack.pid, resource.RLIMIT_NOFILE)
        room = attack.holdings()["descriptors"] + 3
        resource.prlimit(attack.pid, resource.RLIMIT_NOFILE, (room, hard))
        fds = [os.eventfd(0) for _ in range(8)]
        try:
            front.connection.send(Message(encode(Ask.SET_MEM_TABLE, 1, bytes(8)), tuple(fds)))
            assert is_closed(front.connection)
            attack.wait_in_log(f"this process may have {room} open (RLIMIT_NOFILE)")
        finally:
            resource.prlimit(attack.pid, resource.RLIMIT_NOFILE, (soft, hard))
            for fd in fds:
                os.close(fd)


def test_H83_H84_a_process_at_its_limit_closes_all_the_same(arena: Callable[..., Any]) -> None:
    with arena("rng") as attack:
        soft, hard = resource.prlimit(attack.pid, resource.RLIMIT_NOFILE)
        for _ in range(3):
            front = attack.front_end()
            front.negotiate()
            room = attack.holdings()["descriptors"] + 1
            resource.prlimit(attack.pid, resource.RLIMIT_NOFILE, (room, hard))
            try:
                # It arrives, and there is no number left for a duplicate, nor for what a channel needs.
                ours, theirs = socket.socketpair()
                front.connection.send(Message(encode(Ask.SET_BACKEND_REQ_FD, NEED_REPLY), (theirs.fileno(),)))
                theirs.close()
                answers(front.connection)
                assert ours.recv(1) == b""  # theirs was closed, not lost
                ours.close()
            finally:
                resource.prlimit(attack.pid, resource.RLIMIT_NOFILE, (soft, hard))
            front.close()
