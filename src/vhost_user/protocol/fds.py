"""Ownership of file descriptors that arrived with a message: each is taken or closed, exactly once."""

import contextlib
import socket
import struct
import warnings
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

from vhost_user.engine.memory.file_system import close_foreign

_NO_LINGER = struct.pack("ii", 0, 0)


def close_all(fds: Iterable[int]) -> None:
    """Close every descriptor, whatever close says about it: after close the number is gone in any case.

    They may come from a peer: neither an option that it has set on a socket makes this wait, nor a file whose
    server does not answer.
    """
    for fd in fds:
        _stop_lingering(fd)
        with contextlib.suppress(OSError):  # the next one must be closed all the same
            close_foreign(fd)


def _stop_lingering(fd: int) -> None:
    """Have ``close`` not wait for data that nobody reads: SO_LINGER belongs to the socket, not to us."""
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        return  # not a socket, closed already, or a family without addresses and without lingering
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    except OSError:
        return
    finally:
        sock.detach()


class OwnedFds:
    """File descriptors that belong to this object until they are taken.

    What is not taken is closed by ``close`` (or at the end of a ``with`` block).
    """

    __slots__ = ("_fds",)

    def __init__(self, fds: Iterable[int] = ()) -> None:
        self._fds = list(fds)

    def __len__(self) -> int:
        return len(self._fds)

    def __iter__(self) -> Iterator[int]:
        """The descriptors, which still belong to this object."""
        return iter(self._fds)

    def take(self) -> list[int]:
        """Hand over all descriptors: the caller closes them from now on."""
        fds, self._fds = self._fds, []
        return fds

    @property
    def first(self) -> int | None:
        """The descriptor that ``take_one`` would hand over; it still belongs to this object."""
        return self._fds[0] if self._fds else None

    def take_one(self) -> int | None:
        """Hand over the first descriptor, or None when there is none: the caller closes it from now on."""
        return self._fds.pop(0) if self._fds else None

    def add(self, fds: Iterable[int]) -> None:
        """Become the owner of more descriptors."""
        self._fds.extend(fds)

    def close(self) -> None:
        """Close what was not taken. May be called again."""
        close_all(self.take())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if self._fds:
            warnings.warn(f"file descriptors {self._fds} were neither taken nor closed", ResourceWarning, 2)
            self.close()

    def __repr__(self) -> str:
        return f"OwnedFds({self._fds})"
