"""listen: descriptors that a device waits for, alone and for a queue that has buffers."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.devices import Echo
from tests.support.front_end import PATIENCE
from vhost_user import BufferQueue, Device, VhostUserDaemon

if TYPE_CHECKING:
    from tests.backend.conftest import Stage


def test_listen_takes_an_object_with_fileno(stage: Stage) -> None:
    device = Echo()
    stage.serve(device)
    here, there = socket.socketpair()
    got = threading.Event()
    with here, there:

        def come(_events: int) -> None:
            here.recv(10)
            got.set()

        device.listen(here, come)
        with pytest.raises(ValueError, match="is listened to already"):
            device.listen(here.fileno(), print)
        there.send(b"x")
        assert got.wait(PATIENCE)
        device.unlisten(here)
        with pytest.raises(ValueError, match="is not listened to"):
            device.unlisten(here)


class Receiver(Device, type="console", queue_size=16):
    """What comes over a socket goes into the guest's buffers, and waits there while there are none."""

    to_guest = BufferQueue(0, stream=True)

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.calls = 0

    def setup(self) -> None:
        self.listen(self.sock, self.incoming, into=self.to_guest)

    def incoming(self, _events: int) -> None:
        self.calls += 1
        if data := self.sock.recv(4):
            self.to_guest.post(data)


def test_a_listener_rests_while_its_queue_has_no_buffer(stage: Stage) -> None:
    here, there = socket.socketpair()
    with here, there:
        device = Receiver(here)
        _, front = stage.serve(device)
        there.send(b"one two three four!")
        there.close()  # it stays ready for ever, and hung up
        front.bring_up()
        assert device.calls == 0
        _assert_it_sleeps(device)
        for expected in (b"one ", b"two ", b"thre"):
            assert front.request(writable=4) == expected
        assert device.calls == 3
        _assert_it_sleeps(device)
        front.stop_ring()
        _quiet(device)
        assert device.calls == 3
        front.start_ring(base=3)
        assert len(device.to_guest) == 0
        assert device.calls == 3


def _assert_it_sleeps(device: Device) -> None:
    """A worker that spins wakes up thousands of times in this while, one that waits not at all."""
    assert device._daemon is not None
    _quiet(device)
    before = device._daemon.statistics()["worker 0"]["wakeups"]
    time.sleep(0.05)
    assert device._daemon.statistics()["worker 0"]["wakeups"] - before < 20


def _quiet(device: Device) -> None:
    """Five turns of the worker, at least."""
    for _ in range(5):
        device.post(int).result(PATIENCE)


def test_a_listener_of_a_queue_may_end_in_its_own_callback(stage: Stage) -> None:
    here, there = socket.socketpair()

    class Once(Receiver):
        def incoming(self, _events: int) -> None:
            super().incoming(0)
            self.unlisten(self.sock)

    with here, there:
        device = Once(here)
        _, front = stage.serve(device)
        there.send(b"one two")
        front.bring_up()
        assert front.request(writable=4) == b"one "
        front.post(writable=4)
        front.kick()
        _quiet(device)
        assert device.calls == 1


def test_what_cannot_be_waited_for_is_refused_at_once(tmp_path: Path) -> None:
    class Wrong(Receiver):
        def setup(self) -> None:
            with (tmp_path / "file").open("w") as file:
                self.listen(file, self.incoming, into=self.to_guest)

    here, there = socket.socketpair()
    with here, there, pytest.raises(ValueError, match=r"Wrong\.setup failed: PermissionError"):
        VhostUserDaemon("test", Wrong(here))
