"""Ends of a console that are terminals or pipes: this program's own, and new pseudo-terminals."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import select
import signal
import struct
import sys
import termios
import tty
from pathlib import Path

from vhost_user.devices.console_ends import CHUNK, End, Line

POLL = 0.1
"""Seconds between two looks at what no event tells: a window's size, whether a pseudo-terminal is open."""
ENOUGH = 1 << 16
"""Bytes on their way to a reader that is slow; then the guest waits."""
ESCAPE = b"\x1d"
"""Ctrl-]: the way out of a terminal in which Ctrl-C belongs to the guest."""


class DescriptorEnd(End):
    """Two file descriptors, which may be one: reads from the first, writes to the second."""

    def __init__(self) -> None:
        self._out = -1
        self._pending = bytearray()
        self._room = asyncio.Event()
        self._room.set()

    async def _read(self, fd: int) -> bytes:
        """What has come; b"" at the end. Raises OSError."""
        await _ready(fd)
        return os.read(fd, CHUNK)

    async def drained(self) -> None:
        """Wait while much is on its way."""
        await self._room.wait()

    def write(self, data: bytes) -> None:
        """Now as far as it goes, the rest when there is room."""
        if self._out < 0:
            return
        self._pending += data
        if len(self._pending) == len(data):
            self._flush()

    def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            done = os.write(self._out, self._pending)
        except BlockingIOError:
            done = 0
        except OSError:  # nobody reads any more
            self._drop()
            return
        del self._pending[:done]
        if self._pending:
            loop.add_writer(self._out, self._flush)
        else:
            loop.remove_writer(self._out)
        (self._room.clear if len(self._pending) >= ENOUGH else self._room.set)()

    def _drop(self) -> None:
        """What is pending goes nowhere."""
        if self._out >= 0:
            asyncio.get_running_loop().remove_writer(self._out)
        self._pending.clear()
        self._room.set()


async def _ready(fd: int) -> None:
    """Wait until something can be read; a regular file is always ready."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    try:
        loop.add_reader(fd, _settle, future)
    except PermissionError:
        return
    try:
        await future
    finally:
        loop.remove_reader(fd)


def _of_ones_own(fd: int, flags: int) -> int:
    """The same file with flags of its own: O_NONBLOCK on a shared one would surprise the shell."""
    try:
        return os.open(f"/proc/self/fd/{fd}", flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:  # a socket cannot be opened
        copy = os.dup(fd)
        os.set_blocking(copy, False)
        return copy


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class StdioEnd(DescriptorEnd):
    """The terminal this program runs in, or its pipes. The port has the size of the terminal.

    A terminal becomes raw: what is typed goes to the guest, Ctrl-C too, and Ctrl-] ends the program.
    """

    async def carry(self, line: Line) -> None:
        """Until standard input ends; what the guest writes goes on to standard output."""
        source = _of_ones_own(sys.stdin.fileno(), os.O_RDONLY)
        self._out = _of_ones_own(sys.stdout.fileno(), os.O_WRONLY | os.O_APPEND)
        before = termios.tcgetattr(source) if os.isatty(source) else None
        watch = asyncio.ensure_future(self._watch(line)) if os.isatty(self._out) else None
        try:
            if before is not None:
                tty.setraw(source)
            line.connection(True)
            while data := await self._read(source):
                if before is not None and ESCAPE in data:
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
                await line.send(data)
            await asyncio.Event().wait()
        finally:
            if watch is not None:
                watch.cancel()
            if before is not None:
                termios.tcsetattr(source, termios.TCSADRAIN, before)
            self._drop()
            os.close(source)
            os.close(self._out)
            self._out = -1

    async def _watch(self, line: Line) -> None:
        while True:
            with contextlib.suppress(OSError):
                size = os.get_terminal_size(self._out)
                line.window(size.columns, size.lines)
            await asyncio.sleep(5 * POLL)


class PtyEnd(DescriptorEnd):
    """A new pseudo-terminal: ``path`` is what ``screen`` or ``picocom`` opens. ``link`` is a name for it.

    Somebody is connected while it is open. The port has its size, which a terminal program sets.
    """

    def __init__(self, link: str | None = None) -> None:
        super().__init__()
        self._master, slave = os.openpty()
        tty.setraw(slave)
        self.path = os.ttyname(slave)
        os.close(slave)
        os.set_blocking(self._master, False)
        self._link = None if link is None else Path(link)
        if self._link is not None:
            self._link.unlink(missing_ok=True)
            self._link.symlink_to(self.path)

    async def carry(self, line: Line) -> None:
        """Carry while somebody has it open."""
        poll = select.poll()
        poll.register(self._master, select.POLLHUP)
        while True:
            while poll.poll(0):  # noqa: ASYNC110  # there is no event for the moment somebody opens it
                await asyncio.sleep(POLL)
            self._out = self._master
            line.connection(True)
            size = asyncio.ensure_future(self._watch(line))
            try:
                while True:
                    await line.send(await self._read(self._master))
            except OSError:
                continue
            finally:
                size.cancel()
                self._drop()
                self._out = -1
                line.connection(False)

    async def _watch(self, line: Line) -> None:
        while True:
            rows, cols, _, _ = struct.unpack("4H", fcntl.ioctl(self._master, termios.TIOCGWINSZ, bytes(8)))
            if rows and cols:
                line.window(cols, rows)
            await asyncio.sleep(POLL)

    def close(self) -> None:
        """The pseudo-terminal is gone, and its link."""
        os.close(self._master)
        if self._link is not None:
            self._link.unlink(missing_ok=True)
