"""A daemon's connections, one after the other: C002, C013, C016, C032, C134 to C137, H90."""

from __future__ import annotations

import errno
import logging
import os
import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.descriptors import open_fds
from tests.support.devices import Echo
from tests.support.front_end import until
from vhost_user import Device, Listener, Request, RequestRefused, SocketError
from vhost_user.engine.memory.mapping import live_mappings
from vhost_user.protocol.errors import Disconnected, PeerTimeout
from vhost_user.protocol.framing import Message, encode
from vhost_user.protocol.listener import connect
from vhost_user.protocol.transport import Connection
from vhost_user.spec.requests import FrontendRequest as Ask
from vhost_user.spec.structs import VringFd

if TYPE_CHECKING:
    from tests.backend.conftest import Stage
    from tests.support.front_end import FrontEnd


def works(front: FrontEnd) -> bool:
    return front.request(readable=b"abc", writable=3) == b"cba"


def test_C134_a_front_end_may_come_back_and_finds_everything_new(stage: Stage, tmp_path: Path) -> None:
    daemon = stage.daemon(Echo())
    with Listener.bind(tmp_path / "s") as listener:
        daemon.start(listener)
        for session in range(3):
            front = stage.front_end(connect(tmp_path / "s"))
            # C032: nothing of the last session counts in this one.
            with pytest.raises(RequestRefused, match="not negotiated"):
                front.call(Ask.GET_QUEUE_NUM)
            front.bring_up()
            assert works(front)
            front.close()
            until(lambda: not daemon.connected)
            assert daemon.sessions == session + 1
            assert live_mappings() == 0
            assert not any(vring.started or vring.enabled or vring.has_kick for vring in daemon.vrings)
        daemon.stop()
        assert daemon.wait(10)


def test_C134_the_ring_is_stopped_and_the_driver_not_signalled_after_a_disconnect(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vhost_user.backend.draining.RESET_DRAIN", 0.05)
    held: list[Request] = []
    there = threading.Event()

    class Holder(Device):
        def handle(self, request: Request) -> None:
            request.hold()
            held.append(request)
            there.set()

    daemon, front = stage.serve(Holder())
    front.bring_up()
    front.post(writable=4)
    assert there.wait(10)
    front.connection.close()
    assert daemon.wait(10)
    front.rings[0].call_count()
    held.pop().complete()
    assert front.rings[0].call_count() == 0
    assert front.rings[0].used_index == 0


def test_C135_a_thousand_sessions_leave_nothing_behind(stage: Stage, tmp_path: Path) -> None:
    daemon = stage.daemon(Echo())

    def count() -> tuple[int, int, int, int]:
        shared = Path("/proc/self/maps").read_text().count("memfd:vhost-user-guest")
        return len(open_fds()), threading.active_count(), live_mappings(), shared

    with Listener.bind(tmp_path / "s") as listener:
        daemon.start(listener)
        before = count()
        for number in range(1000):
            front = stage.front_end(connect(tmp_path / "s"))
            front.bring_up()
            assert works(front)
            if number % 3 == 0:
                front.stop_ring()
            front.close()
        until(lambda: daemon.sessions == 1000 and not daemon.connected)
        assert count() == before


def test_C136_the_back_end_may_connect(stage: Stage, tmp_path: Path) -> None:
    daemon = stage.daemon(Echo())
    with Listener.bind(tmp_path / "vmm") as listener:
        daemon.start_client(tmp_path / "vmm")
        connection = listener.accept(timeout=10)
        assert connection is not None
        front = stage.front_end(connection)
        front.bring_up()
        assert works(front)
        front.close()
    assert daemon.wait(10), "without reconnect the daemon ends with its connection"


def test_C136_the_back_end_connects_again_when_asked_to(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vhost_user.backend.reconnecting.FIRST_BACKOFF", 0.01)
    daemon = stage.daemon(Echo())
    daemon.start_client(tmp_path / "vmm", reconnect=True)
    for _ in range(3):
        with Listener.bind(tmp_path / "vmm") as listener:
            connection = listener.accept(timeout=10)
            assert connection is not None
            front = stage.front_end(connection)
            front.bring_up()
            assert works(front)
            front.close()
    daemon.stop()
    assert daemon.wait(10)


def test_C136_who_accepts_and_hangs_up_is_not_called_without_pause(stage: Stage, tmp_path: Path) -> None:
    daemon = stage.daemon(Echo())
    with Listener.bind(tmp_path / "vmm") as listener:
        daemon.start_client(tmp_path / "vmm", reconnect=True)
        for _ in range(3):
            connection = listener.accept(timeout=10)
            assert connection is not None
            connection.close()
        end = time.monotonic() + 0.5
        came = 0
        while (connection := accepted(listener, end)) is not None:
            came += 1
            connection.close()
    # 0.1, 0.2, 0.4 seconds so far: the fourth of 0.8 is not over. A busy machine makes it later still.
    assert came <= 1
    daemon.stop()
    assert daemon.wait(10)


def accepted(listener: Listener, end: float) -> Connection | None:
    try:
        return listener.accept(timeout=max(0.0, end - time.monotonic()))
    except PeerTimeout:
        return None


def test_C136_nobody_to_connect_to_is_said_at_once(stage: Stage, tmp_path: Path) -> None:
    with pytest.raises(SocketError, match="can not connect"):
        stage.daemon(Echo()).start_client(tmp_path / "nobody")


def test_C137_a_second_front_end_waits_for_the_first(stage: Stage, tmp_path: Path) -> None:
    daemon = stage.daemon(Echo())
    with Listener.bind(tmp_path / "s") as listener:
        daemon.start(listener)
        first = stage.front_end(connect(tmp_path / "s"))
        first.bring_up()
        second = stage.front_end(connect(tmp_path / "s"))
        second.send(Ask.GET_FEATURES)
        assert works(first)
        assert daemon.sessions == 1
        first.close()
        second.receive()
        second.bring_up()
        assert works(second)
        second.close()
        daemon.stop()
        daemon.wait()


def test_C016_an_end_inside_a_message_is_an_end_like_any_other(stage: Stage) -> None:
    daemon, front = stage.serve(Echo())
    front.bring_up()
    front.connection.send(Message(encode(Ask.SET_FEATURES, 1, bytes(8))[:15]))
    front.close()
    assert daemon.wait(10)
    assert live_mappings() == 0


def test_C002_broken_framing_closes_this_connection_and_the_next_is_served(
    stage: Stage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    daemon = stage.daemon(Echo())
    with Listener.bind(tmp_path / "s") as listener:
        daemon.start(listener)
        bad = stage.front_end(connect(tmp_path / "s"))
        bad.connection.send(Message(encode(Ask.GET_FEATURES, 2)))
        with pytest.raises(Disconnected):
            bad.receive()
        good = stage.front_end(connect(tmp_path / "s"))
        good.bring_up()
        assert works(good)
        good.close()
        daemon.stop()
        daemon.wait()
    assert "[C002]" in caplog.text


def test_H90_a_front_end_that_never_reads_loses_its_session(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vhost_user.backend.daemon.SEND_TIMEOUT", 0.1)
    daemon = stage.daemon(Echo())
    ours, theirs = socket.socketpair()
    daemon.start_connection(theirs)
    ours.settimeout(10)
    data = encode(Ask.GET_FEATURES, 1)
    with pytest.raises((BrokenPipeError, ConnectionResetError)):  # noqa: PT012  # any of the many sends
        while True:
            ours.sendall(data)
    assert daemon.wait(10)
    ours.close()


def test_C013_descriptors_that_nobody_wants_are_closed(stage: Stage) -> None:
    _, front = stage.serve(Echo())
    front.bring_up()
    before = len(open_fds())
    read, write = os.pipe()
    front.connection.send(Message(encode(Ask.SET_OWNER, 1 | 8), (read, write)))
    front.connection.send(Message(encode(Ask.SET_VRING_CALL, 1 | 8, VringFd.of(9).pack()), (write,)))
    front.session._outstanding = None  # both were sent behind the session's back
    for _ in range(2):
        front.connection._socket.recv(20)
    os.close(read)
    os.close(write)
    assert len(open_fds()) == before
    assert works(front)


def test_C137_a_second_front_end_that_waits_is_told_once(
    stage: Stage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    daemon = stage.daemon(Echo(), name="disk")
    with Listener.bind(tmp_path / "s") as listener, caplog.at_level(logging.WARNING, "vhost_user.backend"):
        daemon.start(listener)
        first = stage.front_end(connect(tmp_path / "s"))
        first.bring_up()
        second = stage.front_end(connect(tmp_path / "s"))
        until(lambda: "another front-end waits" in caplog.text)
        for _ in range(3):
            assert works(first)
            first.call(Ask.GET_FEATURES)
        told = [
            record.getMessage() for record in caplog.records if "another front-end" in record.getMessage()
        ]
        assert told == [
            f"disk: another front-end waits at {tmp_path / 's'}: they are served one at a time [C137]"
        ]
        first.close()
        second.bring_up()
        assert works(second)
        daemon.stop()
        assert daemon.wait(10)


def test_C137_a_front_end_that_leaves_and_comes_back_at_once_does_not_wait(
    stage: Stage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    daemon = stage.daemon(Echo())
    with Listener.bind(tmp_path / "s") as listener, caplog.at_level(logging.WARNING, "vhost_user.backend"):
        daemon.start(listener)
        for _ in range(50):
            front = stage.front_end(connect(tmp_path / "s"))
            front.call(Ask.GET_FEATURES)
            front.close()
        assert "another front-end" not in caplog.text
        daemon.stop()
        assert daemon.wait(10)


def test_C137_a_listener_that_was_closed_during_a_session_does_not_disturb_it(
    stage: Stage, tmp_path: Path
) -> None:
    daemon = stage.daemon(Echo())
    with Listener.bind(tmp_path / "s") as listener:
        daemon.start(listener)
        front = stage.front_end(connect(tmp_path / "s"))
        front.bring_up()
    front.call(Ask.GET_FEATURES)
    assert works(front)


def test_a_listener_that_is_of_no_use_ends_the_daemon_and_says_why(
    stage: Stage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    daemon = stage.daemon(Echo())
    listener = Listener.bind(tmp_path / "s")
    listener.close()
    with caplog.at_level(logging.ERROR, "vhost_user.backend"):
        daemon.start(listener)
        assert daemon.wait(10)
    assert daemon.failure is not None
    assert "no connection" in caplog.text


def test_C136_connecting_again_outlives_a_lack_of_descriptors(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    daemon = stage.daemon(Echo())
    attempts = []

    def scarce(*arguments: Any) -> socket.socket:
        attempts.append(arguments)
        if len(attempts) <= 3:
            raise OSError(errno.EMFILE, "Too many open files")
        return socket.socket(*arguments)

    with Listener.bind(tmp_path / "s") as listener:
        monkeypatch.setattr(
            "vhost_user.protocol.listener.socket", SimpleNamespace(**(vars(socket) | {"socket": scarce}))
        )
        with caplog.at_level(logging.INFO, "vhost_user.backend"):
            daemon.start_client(tmp_path / "s", reconnect=True)
            connection = listener.accept(timeout=10)
        assert connection is not None
        assert len(attempts) == 4
        assert "Too many open files; trying again" in caplog.text
        front = stage.front_end(connection)
        front.bring_up()
        assert works(front)
