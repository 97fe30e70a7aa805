"""Doorbells that would block whoever touches them: kick, call, err, log (C067, C068, H84, H87, H88)."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import socket
import termios
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.front_end import FrontEnd
from vhost_user.protocol.errors import RequestRefused
from vhost_user.spec.features import VirtioFeature
from vhost_user.spec.requests import FrontendRequest as Ask
from vhost_user.spec.structs import Log, VringFd

FULL = 0xFFFF_FFFF_FFFF_FFFE
Arena = Callable[..., Any]


def blocking_full_eventfd() -> int:
    """Handed over with O_NONBLOCK; see `clear`."""
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    os.eventfd_write(fd, FULL)
    return fd


def clear(fd: int) -> None:
    """O_NONBLOCK belongs to the open file, which the back-end shares with us."""
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_NONBLOCK)


def one_slot_pipe() -> tuple[int, int]:
    """A blocking pipe that is full."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, bytes(64))
    except BlockingIOError:
        os.set_blocking(writing, True)
    return reading, writing


def take(front: FrontEnd, count: int) -> None:
    """So many answers, which are there although nobody could be told."""
    deadline = time.monotonic() + 10
    while count > 0:
        count -= front.rings[0].poll() is not None
        assert time.monotonic() < deadline


@pytest.mark.parametrize("victim", ["rng", "blk"])
def test_H87_C068_a_full_call_eventfd_that_becomes_blocking(arena: Arena, victim: str) -> None:
    with arena(victim) as attack:
        front = attack.front_end()
        front.bring_up()
        fd = blocking_full_eventfd()
        front.call(Ask.SET_VRING_CALL, VringFd.of(0), [fd])
        clear(fd)
        for _ in range(4):
            front.post(writable=8) if victim == "rng" else front.post(readable=bytes(16), writable=513)
        take(front, 4)
        assert front.stop_ring() == 4
        os.close(fd)


def drain(fd: int) -> None:
    """Takes what is there without waiting, whatever the flags are."""
    with suppress(BlockingIOError):
        os.preadv(fd, [bytearray(8)], -1, os.RWF_NOWAIT)


def test_H87_a_call_eventfd_that_is_filled_again_and_again(arena: Arena) -> None:
    """Between a look at it and the write there is always time to fill it."""
    with arena("rng") as attack:
        front = attack.front_end()
        front.bring_up()
        fd = blocking_full_eventfd()
        front.call(Ask.SET_VRING_CALL, VringFd.of(0), [fd])
        ended = threading.Event()

        def fill() -> None:
            while not ended.is_set():
                clear(fd)
                drain(fd)
                os.eventfd_write(fd, FULL)  # the fillers block each other until the test drains

        fillers = [threading.Thread(target=fill) for _ in range(2)]
        for filler in fillers:
            filler.start()
        try:
            for _ in range(200):
                front.post(writable=8)
                take(front, 1)
                drain(fd)
        finally:
            ended.set()
            for filler in fillers:
                while filler.is_alive():
                    drain(fd)
                    filler.join(0.01)
        os.close(fd)


def test_H87_a_full_blocking_pipe_as_call(arena: Arena) -> None:
    with arena("rng") as attack:
        front = attack.front_end()
        front.bring_up()
        reading, writing = one_slot_pipe()
        front.call(Ask.SET_VRING_CALL, VringFd.of(0), [writing])
        for _ in range(3):
            front.post(writable=8)
        take(front, 3)
        assert front.stop_ring() == 3
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("kind", ["stream", "datagram", "seqpacket"])
def test_H87_A3_a_full_blocking_socket_as_call(arena: Arena, kind: str) -> None:
    types = {
        "stream": socket.SOCK_STREAM, "datagram": socket.SOCK_DGRAM, "seqpacket": socket.SOCK_SEQPACKET
    }  # fmt: skip
    with arena("rng") as attack:
        front = attack.front_end()
        front.bring_up()
        ours, theirs = socket.socketpair(socket.AF_UNIX, types[kind])
        with ours, theirs:
            theirs.setblocking(False)
            try:
                while True:
                    theirs.send(bytes(8))
            except BlockingIOError:
                theirs.setblocking(True)
            front.call(Ask.SET_VRING_CALL, VringFd.of(0), [theirs.fileno()])
            for _ in range(3):
                front.post(writable=8)
            take(front, 3)
            assert front.stop_ring() == 3


@pytest.mark.parametrize("kind", ["eventfd", "pipe"])
def test_H87_a_full_err_descriptor(arena: Arena, kind: str) -> None:
    with arena("rng") as attack:
        front = attack.front_end()
        front.bring_up()
        reading, fd = one_slot_pipe() if kind == "pipe" else (-1, blocking_full_eventfd())
        front.call(Ask.SET_VRING_ERR, VringFd.of(0), [fd])
        clear(fd)
        ring = front.rings[0]
        # A head beyond the ring: the ring breaks, and its err descriptor is signalled.
        front.memory.write(ring.driver_address + 4, (60000).to_bytes(2, "little"))
        front.memory.write(ring.driver_address + 2, (1).to_bytes(2, "little"))
        os.eventfd_write(ring.kick_fd, 1)
        attack.wait_in_log("queue 0 is stopped")
        front.stop_ring()
        os.close(fd)
        if reading >= 0:
            os.close(reading)


@pytest.mark.parametrize("kind", ["eventfd", "pipe"])
def test_H87_C083_a_full_log_descriptor(arena: Arena, kind: str) -> None:
    with arena("rng") as attack:
        front = attack.front_end()
        front.negotiate(features=(1 << 64) - 1 & ~int(VirtioFeature.RING_PACKED))
        front.share_memory()
        log = os.memfd_create("log")
        os.ftruncate(log, 1 << 20)
        front.call(Ask.SET_LOG_BASE, Log(1 << 20, 0), [log])
        reading, fd = one_slot_pipe() if kind == "pipe" else (-1, blocking_full_eventfd())
        front.call(Ask.SET_LOG_FD, None, [fd])
        clear(fd)
        front.start_ring()
        assert len(front.request(writable=8)) == 8
        assert front.stop_ring() == 1
        for number in (log, fd, reading):
            if number >= 0:
                os.close(number)


def slow_terminal() -> tuple[int, int]:
    """A terminal of which each byte is waited for."""
    master, slave = pty.openpty()
    state = termios.tcgetattr(slave)
    state[3] &= ~(termios.ICANON | termios.ECHO)
    state[6][termios.VMIN] = 255
    state[6][termios.VTIME] = 255
    termios.tcsetattr(slave, termios.TCSANOW, state)
    return master, slave


ODD = ["terminal", "epoll", "proc file", "tcp", "listener", "path", "wrong end", "null"]


def odd(what: str, ask: Ask, fifo: Path, stack: ExitStack) -> int:
    """A descriptor that is no doorbell."""
    if what == "epoll":
        return stack.enter_context(select.epoll()).fileno()
    if what in {"tcp", "listener"}:
        made = stack.enter_context(socket.socket(socket.AF_INET if what == "tcp" else socket.AF_UNIX))
        if what == "listener":
            made.bind("")
            made.listen()
        return made.fileno()
    if what == "terminal":
        fds = slow_terminal()
    elif what == "wrong end":
        reading, writing = os.pipe()
        fds = (reading, writing) if ask == Ask.SET_VRING_KICK else (writing, reading)
    else:
        flags = {"proc file": os.O_RDONLY, "path": os.O_PATH, "null": os.O_RDWR}[what]
        place = {"proc file": "/proc/self/stat", "path": str(fifo), "null": "/dev/null"}[what]
        fds = (os.dup(0), os.open(place, flags))
    for fd in fds:
        stack.callback(os.close, fd)
    return fds[1]


@pytest.mark.parametrize(
    "ask",
    [Ask.SET_VRING_KICK, Ask.SET_VRING_CALL, Ask.SET_VRING_ERR, Ask.SET_LOG_FD],
    ids=lambda ask: ask.name,
)
def test_H84_C067_what_is_no_doorbell_is_refused(arena: Arena, tmp_path: Path, ask: Ask) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with arena("rng") as attack:
        front = attack.front_end()
        front.bring_up()
        for what in ODD:
            with ExitStack() as stack:
                fd = odd(what, ask, fifo, stack)
                with pytest.raises(RequestRefused):
                    front.call(ask, None if ask == Ask.SET_LOG_FD else VringFd.of(0), [fd])
            # The one before is still in use.
            assert len(front.request(writable=8)) == 8, what
        assert attack.process.log.count("C067") == len(ODD)
