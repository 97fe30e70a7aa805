"""The example of the trait: a listener, two workers and their exit events."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.examples import EXAMPLES, load
from tests.support.front_end import until
from tests.support.programs import programs
from vhost_user import VhostUserDaemon
from vhost_user.frontend import ConsoleDriver


def console(line: socket.socket) -> Any:
    return load("console").Console(line)


@pytest.fixture
def line() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The device's end and the other."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    theirs.settimeout(10)
    with ours, theirs:
        yield ours, theirs


def test_it_fits_on_two_screens() -> None:
    assert len((EXAMPLES / "console.py").read_text().splitlines()) <= 80


def test_both_directions_and_again_after_a_disconnect(line: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = line
    with VhostUserDaemon("console", console(ours)) as daemon:
        for _ in range(3):
            theirs.send(b"before the guest is there")
            here, there = socket.socketpair()
            daemon.start_connection(there)
            with ConsoleDriver(here) as guest:
                assert guest.read(25, timeout=10) == b"before the guest is there"
                for number in range(100):  # more than there are buffers
                    text = b"line %d\n" % number
                    theirs.send(text)
                    assert guest.read(len(text), timeout=10) == text
                    guest.write(text)
                    assert theirs.recv(4096) == text
                for _ in range(50):  # many at once: some wait in the socket for buffers
                    theirs.send(b"x" * 100)
                assert guest.read(5000, timeout=10) == b"x" * 5000
            assert daemon.wait(10)


def test_an_exit_event_ends_one_direction(line: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = line
    device = console(ours)
    with VhostUserDaemon("console", device) as daemon:
        here, there = socket.socketpair()
        daemon.start_connection(there)
        with ConsoleDriver(here) as guest:
            guest.write(b"hello")
            assert theirs.recv(4096) == b"hello"
            os.eventfd_write(device.exits[0], 1)
            until(lambda: "console-worker-0" not in {thread.name for thread in threading.enumerate()})
            guest.write(b"still there")
            assert theirs.recv(4096) == b"still there"


def test_a_line_without_listener_loses_what_is_written(line: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = line
    with VhostUserDaemon("console", console(ours)) as daemon:
        here, there = socket.socketpair()
        daemon.start_connection(there)
        theirs.close()
        with ConsoleDriver(here) as guest:
            assert guest.write(b"hello") == 5


def test_the_program_serves_and_ends_with_SIGTERM(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
        peer.bind(str(tmp_path / "peer"))
        peer.settimeout(10)
        with programs() as running:
            process = running.python(
                EXAMPLES / "console.py",
                tmp_path / "ours",
                tmp_path / "peer",
                f"--socket-path={tmp_path / 's'}",
            )
            assert process.stdout is not None
            assert "listening" in process.stdout.readline()
            with ConsoleDriver(str(tmp_path / "s")) as guest:
                guest.write(b"hello")
                assert peer.recv(4096) == b"hello"
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=30)
        assert process.returncode == 0
        assert errors == ""
