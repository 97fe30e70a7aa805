"""One transfer of a device's state over a pipe or a socket: a thread that nobody has to wait for (C124).

Front-ends share the open file and may clear its O_NONBLOCK at any moment, so nothing here relies on that
flag: pipes are spliced with SPLICE_F_NONBLOCK, sockets used with MSG_DONTWAIT.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
import threading
from collections.abc import Iterator

from vhost_user.protocol.errors import RequestRefused, VhostUserError
from vhost_user.protocol.fds import close_all
from vhost_user.protocol.state_format import LARGEST_STATE
from vhost_user.protocol.transport import wait_ready

PIECE = 1 << 20
PAUSE = 0.01
"""Seconds after a descriptor was found ready and was not: somebody else uses it as well."""


class StateTransfer:
    """Moves the state in a thread of its own, from ``begin`` until it is through, fails, or is cancelled.

    ``data`` is what is written; None to read, at most as many bytes as a state may have. ``fd`` is closed
    when the transfer ends, which is how the front-end knows. Used by the control thread.
    """

    def __init__(self, name: str, fd: int, data: bytes | None) -> None:
        """Take ``fd`` over. Raises RequestRefused, and leaves it to the caller, if it cannot be used."""
        kind = os.fstat(fd).st_mode
        if not stat.S_ISFIFO(kind) and not stat.S_ISSOCK(kind):
            raise RequestRefused(
                "the state goes through a pipe or a socket, and this file descriptor is neither", rule="C124"
            )
        self.saves = data is not None
        self.data = bytearray()
        """What was read."""
        self.failure: str | None = None
        """Why it did not come to its end."""
        self._fd = fd
        self._is_pipe = stat.S_ISFIFO(kind)
        self._ended = threading.Event()
        self._stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._run, args=(data,), name=f"{name}-state", daemon=True)

    def begin(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Wait at most so long for its end; whether it has come."""
        return self._ended.wait(seconds)

    def cancel(self) -> None:
        """End it wherever it is, and wait for its thread, which waits for nobody. May be called again."""
        if self._stop < 0:
            return
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        os.close(self._stop)
        self._stop = -1

    def _run(self, data: bytes | None) -> None:
        try:
            if data is None:
                self._read()
            else:
                self._write(data)
        except (OSError, VhostUserError) as error:
            self.failure = f"the transfer broke off: {error}"
        finally:
            # In this order: a front-end that sees the end may ask at once how it went.
            self._ended.set()
            close_all([self._fd])

    def _ready(self, events: int) -> bool:
        if wait_ready(self._fd, events, None, self._stop):
            return True
        self.failure = "the transfer was given up"
        return False

    def _busy(self) -> None:
        """Somebody else was quicker: not again at once."""
        poll = select.poll()
        poll.register(self._stop, select.POLLIN)
        poll.poll(PAUSE * 1000)

    def _write(self, data: bytes) -> None:
        with _borrowed(self._fd, is_pipe=self._is_pipe) as sock, _scratch(data) as file:
            done = 0
            while done < len(data) and self._ready(select.POLLOUT):
                try:
                    if sock is None:
                        done += os.splice(
                            file, self._fd, len(data) - done, offset_src=done, flags=os.SPLICE_F_NONBLOCK
                        )
                    else:
                        piece = memoryview(data)[done : done + PIECE]
                        done += sock.send(piece, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                except BlockingIOError:
                    self._busy()

    def _read(self) -> None:
        with _borrowed(self._fd, is_pipe=self._is_pipe) as sock, _scratch(b"") as file:
            while self._ready(select.POLLIN):
                try:
                    if sock is None:
                        count = os.splice(self._fd, file, PIECE, offset_dst=0, flags=os.SPLICE_F_NONBLOCK)
                        piece = os.pread(file, count, 0)
                    else:
                        piece = sock.recv(PIECE, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    self._busy()
                    continue
                if not piece:
                    return
                self.data += piece
                if len(self.data) > LARGEST_STATE:
                    self.data.clear()
                    self.failure = f"the state has more than {LARGEST_STATE} bytes"
                    return


@contextlib.contextmanager
def _scratch(data: bytes) -> Iterator[int]:
    """A file in memory with ``data`` in it, for pipes to be spliced with."""
    file = os.memfd_create("device-state", os.MFD_CLOEXEC)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(file, rest) :]
        yield file
    finally:
        os.close(file)


@contextlib.contextmanager
def _borrowed(fd: int, *, is_pipe: bool) -> Iterator[socket.socket | None]:
    """The socket behind ``fd``, which stays its owner's; None for a pipe."""
    if is_pipe:
        yield None
        return
    sock = socket.socket(fileno=fd)
    try:
        yield sock
    finally:
        sock.detach()
