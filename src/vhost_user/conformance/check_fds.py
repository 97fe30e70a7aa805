"""Descriptors that a check makes and hands to the back-end, and how to see that it closes them."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time


class CheckFds:
    """Owns what a check opens; ``close`` gives all of it back. ``timeout`` in seconds bounds ``released``."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._owned: set[int] = set()

    def close(self) -> None:
        """Close every descriptor that is still owned."""
        while self._owned:
            os.close(self._owned.pop())

    def own(self, fd: int) -> int:
        """Close ``fd`` at the end of the check, unless ``let_go`` does before."""
        self._owned.add(fd)
        return fd

    def let_go(self, fd: int) -> None:
        """Close a descriptor now. Once only: the number may be somebody else's afterwards."""
        self._owned.remove(fd)
        os.close(fd)

    def eventfd(self, *, blocking: bool = False) -> int:
        """A new eventfd."""
        return self.own(os.eventfd(0, os.EFD_CLOEXEC | (0 if blocking else os.EFD_NONBLOCK)))

    def memfd(self, size: int) -> int:
        """A new memfd of ``size`` bytes."""
        fd = self.own(os.memfd_create("vhost-user-check", os.MFD_CLOEXEC))
        os.ftruncate(fd, size)
        return fd

    def socket_pair(self) -> tuple[int, int]:
        """The two ends (ours, theirs) of a pair of stream sockets, as user-mode Linux makes doorbells."""
        ours, theirs = socket.socketpair()
        return self.own(ours.detach()), self.own(theirs.detach())

    def pipe(self, *, blocking: bool = False) -> tuple[int, int]:
        """The two ends (read, write) of a pipe."""
        read, write = os.pipe2(os.O_CLOEXEC | (0 if blocking else os.O_NONBLOCK))
        return self.own(read), self.own(write)

    def tell_tale(self) -> tuple[int, int]:
        """The two ends (read, write) of a pipe; hand the write end over to see whether it gets closed."""
        return self.pipe()

    def released(self, read: int, write: int) -> bool:
        """Whether everybody else closed the write end of a ``tell_tale``, once ours is closed."""
        self.let_go(write)
        poll = select.poll()
        poll.register(read, select.POLLIN)
        deadline = time.monotonic() + self.timeout
        while (left := deadline - time.monotonic()) > 0:
            if any(events & select.POLLHUP for _, events in poll.poll(left * 1000)):
                return True
            with contextlib.suppress(BlockingIOError):
                os.read(read, 4096)
        return False
