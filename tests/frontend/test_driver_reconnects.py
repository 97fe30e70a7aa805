"""The in-process driver comes back after its back-end died: C135, C136, C138."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.devices import Repeater
from tests.support.front_end import until
from vhost_user import Device, Request, VhostUserDaemon
from vhost_user.frontend import Disconnected, RngDriver, VirtioDriver
from vhost_user.protocol.errors import SocketError
from vhost_user.protocol.listener import Listener


class Holding(Device, type="rng"):
    """Keeps every request until told."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[Request] = []
        self.arrived = threading.Semaphore(0)

    def handle(self, request: Request) -> None:
        request.hold()
        self.held.append(request)
        self.arrived.release()


def test_C138_the_death_of_the_back_end_ends_a_wait() -> None:
    ours, theirs = socket.socketpair()
    device = Holding()
    with VhostUserDaemon("test", device) as daemon:
        daemon.start_connection(theirs)
        with VirtioDriver(ours) as driver:
            pending = driver.queue(0).submit(b"x", 4)
            assert device.arrived.acquire(timeout=10)
            daemon.stop()
            with pytest.raises(Disconnected, match="1 requests in flight"):
                pending.wait(30)


@pytest.fixture
def restartable(tmp_path: Path) -> Iterator[Callable[[Device], VhostUserDaemon]]:
    """Serves devices one after the other at the same path."""
    with ExitStack() as stack:
        listeners: list[Listener] = []

        def start(device: Device) -> VhostUserDaemon:
            for listener in listeners:
                listener.close()
            listeners.append(stack.enter_context(Listener.bind(tmp_path / "s")))
            daemon = stack.enter_context(VhostUserDaemon("test", device))
            daemon.start(listeners[-1])
            return daemon

        yield start


def test_C138_reconnect_hands_in_again_what_was_not_answered(
    restartable: Callable[[Device], VhostUserDaemon], tmp_path: Path
) -> None:
    first = Holding()
    daemon = restartable(first)
    with VirtioDriver(tmp_path / "s", start=65535) as driver:
        pending = [driver.queue(0).submit(bytes([i]), 3) for i in range(5)]
        for _ in range(5):
            assert first.arrived.acquire(timeout=10)
        first.held[2].write(b"one")
        first.held[2].complete()
        assert pending[2].wait() == b"one"
        daemon.close()
        restartable(Repeater())
        driver.reconnect()
        assert [each.wait() for each in pending] == [b"\0" * 3, b"\1" * 3, b"one", b"\3" * 3, b"\4" * 3]
        assert driver.request(b"q", 2) == b"qq"


def test_C136_the_back_end_may_connect_to_us(tmp_path: Path) -> None:
    daemon = VhostUserDaemon("test", Repeater())
    path = tmp_path / "front.sock"

    def connect() -> None:
        while True:
            try:
                daemon.start_client(path)
            except SocketError:  # the file is there a moment before anybody listens
                time.sleep(0.001)
            else:
                return

    thread = threading.Thread(target=connect)
    thread.start()
    with daemon, RngDriver(path, listen=True) as rng:
        thread.join()
        assert rng.read(4) == b"...."


def test_C135_a_hundred_cycles_leave_nothing_behind(
    restartable: Callable[[Device], VhostUserDaemon], tmp_path: Path
) -> None:
    restartable(Repeater())

    def mappings() -> int:
        return Path("/proc/self/maps").read_text().count("vhost-user-guest")

    for _ in range(100):
        with VirtioDriver(tmp_path / "s", memory_size=1 << 20) as driver:
            assert driver.request(b"x", 1) == b"x"
    until(lambda: mappings() == 0)  # the back-end's last session ends in its own thread
