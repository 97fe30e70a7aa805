"""Where connections come from: a listening socket, a descriptor handed over, or a path to connect to."""

import contextlib
import errno
import os
import select
import socket
import stat
import struct
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from vhost_user.protocol.errors import SocketError
from vhost_user.protocol.transport import Connection, duplicate_socket, wait_ready

EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
"""Errors of a machine, or a process, that has no more of something: it may have again a moment later."""
GROUP_MODE = 0o660
"""Permissions of a socket that is given to a group, when none are asked for."""
_LONGEST_PATH = 107
"""Bytes of a socket path: ``sun_path`` of Linux has 108 with the final zero."""


class Listener:
    """A listening Unix socket. One front-end is served at a time; the next waits in the backlog (C137)."""

    def __init__(self, sock: socket.socket, *, path: Path | None = None) -> None:
        if not isinstance(sock, socket.socket):
            raise TypeError(
                f"Listener takes a listening socket, not {sock!r}; Listener.bind({sock!r}) listens at a path"
            )
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise SocketError(
                errno.EINVAL,
                f"file descriptor {sock.fileno()} is a socket that does not listen: call its listen() first; "
                "a connected one is for start_connection()",
            )
        self._socket = sock
        self._socket.setblocking(True)
        self._path = path
        self._identity = None if path is None else _identity(path)

    @classmethod
    def bind(
        cls,
        path: str | os.PathLike[str],
        *,
        mode: int | None = None,
        owner: int | None = None,
        group: int | None = None,
        backlog: int = 1,
    ) -> Self:
        """Listen at ``path``. ``mode`` are the permissions of the socket; None leaves it to the umask.

        ``owner`` and ``group`` are the ids of those it is given to; with a group and no mode its members may
        connect (mode 660). A stale socket, at which nobody listens, is replaced. Raises SocketError when the
        directory is missing, when something else than a socket is in the way, when a live process listens
        there (C146), or when the socket cannot be given away.
        """
        path = _checked_path(path)
        if mode is None and group is not None:
            mode = GROUP_MODE
        _clear(path)
        sock = _new_socket(f"can not listen at {path}")
        try:
            if mode is not None:
                # On Linux the file gets the socket's own permissions: nobody can slip in before chmod.
                os.fchmod(sock.fileno(), mode)
            sock.bind(str(path))
            # Nobody can connect before listen().
            if owner is not None or group is not None:
                _give(path, owner, group)
            if mode is not None:
                path.chmod(mode)
            sock.listen(backlog)
            return cls(sock, path=path)
        except OSError as error:
            bound = bool(sock.getsockname())
            sock.close()
            if bound:
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()
            raise SocketError(error.errno, f"can not listen at {path}: {error.strerror}") from error

    @property
    def path(self) -> Path | None:
        """Where it listens, when it was bound here."""
        return self._path

    @property
    def address(self) -> str | None:
        """The path that it has, whoever bound it; None for one without."""
        name = self._socket.getsockname()
        return name if isinstance(name, str) and name else None

    def fileno(self) -> int:
        """The socket's descriptor, for polling; -1 once closed."""
        return self._socket.fileno()

    def accept(
        self,
        *,
        stop: int | None = None,
        timeout: float | None = None,
        connection_timeout: float | None = None,
    ) -> Connection | None:
        """Wait for a connection; None when ``stop`` (an eventfd or pipe) becomes readable first.

        ``timeout`` in seconds, after which PeerTimeout is raised. ``connection_timeout`` goes to the
        Connection. OSError with an errno of ``EXHAUSTED`` leaves the connection in the backlog: try again
        later.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            if self._socket.fileno() < 0:
                raise SocketError(errno.EBADF, "nobody can be accepted: the listener is closed")
            if not wait_ready(self._socket.fileno(), select.POLLIN, deadline, stop):
                return None
            if (sock := self.accept_waiting()) is not None:
                return Connection(sock, timeout=connection_timeout)

    def accept_waiting(self) -> socket.socket | None:
        """The socket of somebody who waits in the backlog; None when nobody does. Does not wait.

        Raises what ``accept`` raises.
        """
        self._socket.setblocking(False)
        try:
            sock, _ = self._socket.accept()
        except (BlockingIOError, ConnectionAbortedError):  # the peer gave up between poll and accept
            if self._shut_down():
                raise SocketError(errno.EINVAL, "nobody can connect: the listener was shut down") from None
            return None
        return sock

    def _shut_down(self) -> bool:
        poll = select.poll()
        poll.register(self._socket.fileno(), 0)
        return bool(poll.poll(0))  # POLLHUP, which a listening socket has no other reason for

    def close(self) -> None:
        """Stop listening and remove the socket file if it is still ours. May be called again."""
        if self._socket.fileno() < 0:
            return
        if self._path is not None and self._identity is not None and _identity(self._path) == self._identity:
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def from_fd(fd: int) -> Listener | Connection:
    """A listener or a connection, as the socket behind ``fd`` is listening or connected (C140).

    ``fd`` belongs to the result. Raises SocketError when it is not open or not a Unix stream socket.
    """
    try:
        sock = duplicate_socket(fd)
    except (OSError, ValueError) as error:
        raise SocketError(errno.ENOTSOCK, f"file descriptor {fd} can not be used: {error}") from error
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return Listener(sock)
    try:
        sock.getpeername()
    except OSError as error:
        sock.close()
        raise SocketError(
            error.errno, f"file descriptor {fd} is a socket that neither listens nor is connected"
        ) from error
    return Connection(sock)


def connect(path: str | os.PathLike[str], *, timeout: float | None = None) -> Connection:
    """Connect to whoever listens at ``path``.

    ``timeout`` (seconds) goes to the Connection; it also bounds the wait of a listener that accepts nobody
    and whose backlog is full. Raises SocketError when there is no socket or nobody listens at it.
    """
    return Connection(connect_socket(path, timeout=timeout), timeout=timeout)


def connect_socket(path: str | os.PathLike[str], *, timeout: float | None = None) -> socket.socket:
    """The same for who speaks another protocol: the plain socket, blocking; ``timeout`` bounds the wait."""
    path = _checked_path(path)
    sock = _new_socket(f"can not connect to {path}")
    try:
        if timeout is not None:  # the only thing that bounds connect() of a Unix socket
            limit = struct.pack("ll", int(timeout), int(timeout % 1 * 1e6))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        sock.connect(str(path))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 0))
    except OSError as error:
        sock.close()
        hint = {
            errno.ECONNREFUSED: "nobody listens there",
            errno.EAGAIN: f"whoever listens there has accepted nobody for {timeout} s",
        }.get(error.errno or 0, error.strerror)
        raise SocketError(error.errno, f"can not connect to {path}: {hint}") from error
    return sock


def _new_socket(problem: str) -> socket.socket:
    """A new Unix stream socket; SocketError says what cannot be done without it."""
    try:
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError as error:
        raise SocketError(error.errno, f"{problem}: {error.strerror}") from error


def _checked_path(given: str | os.PathLike[str]) -> Path:
    if not os.fspath(given):
        raise SocketError(errno.ENOENT, "the socket path is empty: give one, such as /tmp/device.sock")
    path = Path(given)
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise SocketError(
            errno.ENAMETOOLONG, f"socket path {path} is longer than {_LONGEST_PATH} bytes: use a shorter one"
        )
    if not path.parent.is_dir():
        raise SocketError(
            errno.ENOENT, f"directory {path.parent} of socket path {path} does not exist: create it first"
        )
    return path


def _give(path: Path, owner: int | None, group: int | None) -> None:
    try:
        os.chown(path, -1 if owner is None else owner, -1 if group is None else group, follow_symlinks=False)
    except OSError as error:
        receivers = [f"user {owner}"] * (owner is not None) + [f"group {group}"] * (group is not None)
        raise OSError(
            error.errno,
            f"the socket cannot be given to {' and '.join(receivers)} ({error.strerror}): only root may do "
            "that, and its owner for a group that they are in",
        ) from error


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _clear(path: Path) -> None:
    """Remove a stale socket at ``path``; raise SocketError when what is there must stay (C146)."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise SocketError(
            errno.EEXIST, f"{path} exists and is not a socket: remove it or choose another path"
        )
    with _new_socket(f"can not tell whether {path} is in use") as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            pass
        except BlockingIOError:
            raise _in_use(path) from None
        except OSError as error:
            raise SocketError(
                error.errno, f"can not tell whether {path} is in use: {error.strerror}"
            ) from error
        else:
            raise _in_use(path)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def _in_use(path: Path) -> SocketError:
    return SocketError(
        errno.EADDRINUSE, f"{path} is in use by a live process: stop it or choose another path"
    )
