"""Hostile sessions as data: a list of steps that JSON can carry, and the player that carries them out.

A step is a dictionary with ``op`` and what that takes:

``connect``, ``close``: a new connection (an open one is closed first), its end.
``send``: ``data`` (hex) on the socket with descriptors ``fds``, named as :data:`DESCRIPTORS` says.
``write``: ``data`` (hex) into guest memory, ``at`` an offset in bytes. ``read``: nothing; for people.
``kick``: ``count`` times the kick descriptor of ``queue``; ``by`` socket: through its socket pair.
``truncate``: guest memory to ``size`` bytes. ``settle``: wait until the back-end has read what was sent.
``repeat``: carry out ``steps`` ``count`` times.

``note`` says in words what a step is and is ignored.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import select
import socket
import struct
import termios
import time
import tty
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

from vhost_user.conformance.target import Target
from vhost_user.protocol.errors import VhostUserError
from vhost_user.protocol.trace import describe
from vhost_user.spec.requests import FRONTEND_REQUESTS
from vhost_user.spec.structs import Header

Step = dict[str, Any]

MEMORY_SIZE: Final = 1 << 20
"""Bytes of guest memory that a session has."""
GUEST: Final = 0x10000000
USER: Final = 0x7F0010000000
"""Guest and user address at which valid sessions put it."""
QUEUES: Final = 8
"""Kick and call descriptors there are."""
MAX_FDS: Final = 250
SETTLE_SECONDS: Final = 0.5
COUNTER: Final = (1).to_bytes(8, "little")
"""What is written to a doorbell."""

DESCRIPTORS: Final = (
    "memory", "kick:N", "call:N", "kick-socket:N", "call-socket:N", "eventfd", "full-eventfd", "memfd:SIZE",
    "directory", "null", "pipe-read", "pipe-write", "full-pipe", "socket", "full-socket", "path", "terminal",
    "self", "read-only",
)  # fmt: skip
"""Names of descriptors: guest memory, those of queue N (eventfds and socket pairs), fresh ones of every odd
kind (path: a socket file opened with O_PATH; terminal: one that makes its reader wait)."""


def repeat(count: int, *steps: Step) -> Step:
    """The steps ``count`` times."""
    return {"op": "repeat", "count": count, "steps": list(steps)}


def note(data: bytes, fds: int = 0) -> str:
    """A message in words; never raises."""
    if len(data) < Header.SIZE:
        return f"{len(data)} bytes"
    return describe(FRONTEND_REQUESTS, Header.unpack(data[: Header.SIZE]), data[Header.SIZE :], fds)


def send(data: bytes, fds: Sequence[str] = ()) -> Step:
    """A step that sends bytes."""
    return {"op": "send", "data": data.hex(), "fds": list(fds), "note": note(data, len(fds))}


class Player:
    """Carries steps out on ``target``. Whatever the back-end does in between, playing goes on.

    ``timeout`` (seconds) bounds each attempt to connect and to send. A context manager.
    """

    def __init__(self, target: Target, *, timeout: float = 2.0) -> None:
        self.target = target
        self.timeout = timeout
        self._socket: socket.socket | None = None
        self._memory = -1
        self._kicks = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(QUEUES)]
        self._calls = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(QUEUES)]
        self._sockets: dict[str, tuple[socket.socket, socket.socket]] = {}
        self._extra: list[int] = []

    def play(self, steps: Sequence[Step]) -> None:
        """Carry out all steps, and end the connection. Raises TargetGone when nobody can be connected to."""
        self._memory = os.memfd_create(
            "vhost-user-fuzz", os.MFD_CLOEXEC
        )  # nothing is left of the last session
        try:
            os.ftruncate(self._memory, MEMORY_SIZE)
            with contextlib.suppress(_Stuck):
                for step in steps:
                    self._one(step)
            self._settle()
        finally:
            self._close()
            self._close_pairs()
            os.close(self._memory)

    def _one(self, step: Step) -> None:
        match step["op"]:
            case "connect":
                self._close()
                self._socket = _connect(self.target, self.timeout)
            case "close":
                self._close()
            case "send":
                self._send(bytes.fromhex(step["data"]), step.get("fds", ()))
            case "write":
                os.pwrite(self._memory, bytes.fromhex(step["data"]), step["at"] % MEMORY_SIZE)
            case "kick":
                for _ in range(step.get("count", 1)):
                    self._kick(step["queue"] % QUEUES, step.get("by", "eventfd"))
            case "truncate":
                os.ftruncate(self._memory, step["size"])
            case "settle":
                self._settle()
            case "repeat":
                for _ in range(step["count"]):
                    for each in step["steps"]:
                        self._one(each)
            case other:
                raise ValueError(f"there is no step {other!r}")

    def _kick(self, queue: int, by: str) -> None:
        with contextlib.suppress(OSError):  # it is full, or the back-end has closed its end
            if by == "socket":
                self._pair(f"kick-socket:{queue}")[0].send(COUNTER)
            else:
                os.eventfd_write(self._kicks[queue], 1)

    def _pair(self, name: str) -> tuple[socket.socket, socket.socket]:
        """Our end and the back-end's of the socket pair of this name; made when it is first asked for."""
        if name not in self._sockets:
            self._sockets[name] = socket.socketpair()
            self._sockets[name][0].setblocking(False)
        return self._sockets[name]

    def _send(self, data: bytes, names: Sequence[str]) -> None:
        if self._socket is None:
            return
        fds = [self._descriptor(name) for name in names[:MAX_FDS]]
        try:
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            sent = self._socket.sendmsg([data], ancillary) if data else 0
            if sent < len(data):
                self._socket.sendall(data[sent:])
            self._drain()
        except OSError:  # it closed the connection, or does not read: its right
            self._close()
        finally:
            for fd in self._extra:
                os.close(fd)
            self._extra.clear()

    def _descriptor(self, name: str) -> int:
        kind, _, number = name.partition(":")
        if kind == "memory":
            return self._memory
        if kind in ("kick", "call"):
            return (self._kicks if kind == "kick" else self._calls)[int(number) % QUEUES]
        if kind in ("kick-socket", "call-socket"):
            return self._pair(f"{kind}:{int(number) % QUEUES}")[1].fileno()
        if kind == "path":
            self._extra.append(os.open(self.target.path, os.O_PATH | os.O_CLOEXEC))
            return self._extra[-1]
        if kind == "self" and self._socket is not None:
            return self._socket.fileno()
        fds = _fresh(kind, int(number or 0))
        self._extra += fds
        return fds[0]

    def _drain(self) -> bool:
        """Take what the back-end has sent; False at the end of the stream."""
        while self._socket is not None:
            # A socket with a timeout would wait, whatever the flags say.
            if not select.select([self._socket], [], [], 0)[0]:
                return True
            try:
                data, ancillary, _, _ = self._socket.recvmsg(65536, 4096, socket.MSG_CMSG_CLOEXEC)
            except OSError:
                return False
            for level, kind, content in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    for fd in array.array("i", content[: len(content) // 4 * 4]):
                        os.close(fd)
            if not data:
                return False
        return False

    def _settle(self) -> None:
        """Wait until the back-end has read everything, a little at most."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while self._socket is not None and time.monotonic() < deadline:
            if not self._drain():
                return
            buffer = fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, bytes(4))
            if not struct.unpack("i", buffer)[0]:
                time.sleep(0.001)
                self._drain()
                return
            time.sleep(0.0005)

    def _close(self) -> None:
        if self._socket is not None:
            self._drain()
            self._socket.close()
            self._socket = None

    def close(self) -> None:
        """Give everything back."""
        self._close()
        self._close_pairs()
        for fd in (*self._kicks, *self._calls):
            os.close(fd)

    def _close_pairs(self) -> None:
        for pair in self._sockets.values():
            for end in pair:
                end.close()
        self._sockets.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Stuck(Exception):  # noqa: N818  # a state
    """The back-end accepts no connection: there is no use in going on."""


def _connect(target: Target, timeout: float) -> socket.socket:
    """A connected socket of our own; the target takes care that there is a back-end."""
    try:
        frontend = target.connect(timeout=timeout)
    except VhostUserError as error:
        raise _Stuck from error
    own = socket.socket(fileno=os.dup(frontend.fileno()))
    frontend.connection.close()
    own.settimeout(timeout)
    return own


def _fresh(kind: str, number: int) -> list[int]:
    """New descriptors, the wanted one first."""
    match kind:
        case "eventfd":
            return [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)]
        case "full-eventfd":
            fd = os.eventfd(0, os.EFD_CLOEXEC)
            os.eventfd_write(fd, 0xFFFFFFFFFFFFFFFE)  # one more does not fit
            return [fd]
        case "memfd":
            fd = os.memfd_create("vhost-user-fuzz-extra", os.MFD_CLOEXEC)
            os.ftruncate(fd, number)
            return [fd]
        case "directory":
            return [os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)]
        case "read-only":
            return [os.open("/proc/self/maps", os.O_RDONLY | os.O_CLOEXEC)]
        case "pipe-read":
            return list(os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK))
        case "pipe-write":
            return list(reversed(os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)))
        case "full-pipe":
            return list(reversed(_filled(*os.pipe2(os.O_CLOEXEC))))
        case "socket" | "full-socket":
            one, two = socket.socketpair()
            ends = [two.detach(), one.detach()]
            return list(reversed(_filled(*ends))) if kind == "full-socket" else ends
        case "terminal":
            return list(_terminal())
        case _:
            return [os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)]


def _filled(read: int, write: int) -> tuple[int, int]:
    """Both ends of a pipe or socket pair of which ``write`` takes nothing more, and makes its writer wait."""
    os.set_blocking(write, False)
    for size in (4096, 8):
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(write, bytes(size))
    os.set_blocking(write, True)
    return read, write


def _terminal() -> tuple[int, int]:
    """A terminal whose reader waits 25 seconds after each byte for the next, and its other end."""
    master, slave = os.openpty()
    tty.setraw(slave)
    attributes = termios.tcgetattr(slave)
    attributes[6][termios.VMIN], attributes[6][termios.VTIME] = 255, 250
    termios.tcsetattr(slave, termios.TCSANOW, attributes)
    os.write(master, b"x")
    return slave, master
