"""Doorbells of real front-ends: ends of Unix socket pairs, and the one socket that is none (C067, H89)."""

from __future__ import annotations

import os
import select
import socket
from typing import TYPE_CHECKING

import pytest

from tests.support.devices import Echo
from tests.support.front_end import FrontEnd, until
from vhost_user import VhostUserDaemon
from vhost_user.protocol.errors import RequestRefused
from vhost_user.spec.requests import FrontendRequest as Ask
from vhost_user.spec.structs import VringFd

if TYPE_CHECKING:
    from tests.backend.conftest import Stage

TYPES = [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET]


def began(stage: Stage) -> tuple[VhostUserDaemon, FrontEnd]:
    daemon, front = stage.serve(Echo())
    front.negotiate()
    front.share_memory()
    front.configure_ring()
    return daemon, front


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_C067_kick_call_and_err_may_be_ends_of_socket_pairs(stage: Stage, kind: socket.SocketKind) -> None:
    """User-mode Linux uses nothing else."""
    daemon, front = began(stage)
    pairs = [socket.socketpair(socket.AF_UNIX, kind) for _ in range(3)]
    asks = (Ask.SET_VRING_CALL, Ask.SET_VRING_ERR, Ask.SET_VRING_KICK)
    for ask, (_, theirs) in zip(asks, pairs, strict=True):
        front.call(ask, VringFd.of(0), [theirs.fileno()])
    (call, _), (err, _), (kick, theirs_kick) = pairs
    front.enable()
    for number in range(20):
        front.post(readable=b"abc", writable=3, kick=False)
        kick.send(bytes(8))
        assert select.select([call], [], [], 10)[0], number
        assert len(call.recv(8)) == 8
        assert front.rings[0].poll() is not None
        front.rings[0].enable_notifications()
    # A worker that polls finds buffers before their kick, each time if it has a CPU of its own.
    until(lambda: daemon.vrings[0].statistics()["kicks"] > 0, "a kick")
    # Kicks were drained: a flood of them never fills the socket.
    kick.setblocking(False)
    sent = 0
    while sent < 5000:
        try:
            kick.send(bytes(8))
            sent += 1
        except BlockingIOError:
            select.select([], [kick], [], 10)
    until(lambda: not select.select([theirs_kick], [], [], 0)[0], "draining")
    # The driver breaks a rule: told over the third.
    ring = front.rings[0]
    used = ring.statistics()["added"]
    front.memory.write(ring.driver_address + 4 + 2 * (used % ring.size), (60000).to_bytes(2, "little"))
    front.memory.write(ring.driver_address + 2, (used + 1).to_bytes(2, "little"))
    kick.send(bytes(8))
    assert select.select([err], [], [], 10)[0]
    for pair in pairs:
        for end in pair:
            end.close()


def test_C067_a_kick_socket_whose_peer_left_is_not_spun_on(stage: Stage) -> None:
    daemon, front = began(stage)
    ours, theirs = socket.socketpair()
    front.call(Ask.SET_VRING_KICK, VringFd.of(0), [theirs.fileno()])
    front.enable()
    ours.shutdown(socket.SHUT_WR)  # readable for ever, and no hang-up
    until(lambda: daemon.workers[0].statistics()["wakeups"] > 0)
    before = daemon.workers[0].statistics()["wakeups"]
    select.select([], [], [], 0.2)
    assert daemon.workers[0].statistics()["wakeups"] - before < 10
    ours.close()
    theirs.close()


@pytest.mark.parametrize("ask", [Ask.SET_VRING_KICK, Ask.SET_VRING_CALL, Ask.SET_VRING_ERR, Ask.SET_LOG_FD])
def test_H84_H89_the_own_socket_of_the_session_is_refused(
    stage: Stage, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    daemon = stage.daemon(Echo())
    ours, theirs = socket.socketpair()
    copy = os.dup(theirs.fileno())
    daemon.start_connection(theirs)
    front = stage.front_end(ours)
    front.bring_up()
    with pytest.raises(RequestRefused):
        front.call(ask, None if ask == Ask.SET_LOG_FD else VringFd.of(0), [copy])
    assert "this session's own socket" in caplog.text
    assert "C067" in caplog.text
    assert front.request(readable=b"abc", writable=3) == b"cba"
    os.close(copy)
