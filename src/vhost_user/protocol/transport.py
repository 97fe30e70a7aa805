"""A connected socket: whole messages with their descriptors, blocking, interruptible, bounded in time."""

import array
import contextlib
import errno
import os
import resource
import select
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, TypeVar

from vhost_user.protocol.errors import Disconnected, PeerTimeout, ProtocolError
from vhost_user.protocol.fds import OwnedFds
from vhost_user.protocol.framing import Message
from vhost_user.protocol.requester import Reply, Requester
from vhost_user.spec.structs import Payload

_KERNEL_MAXIMUM_FDS = 253
"""SCM_MAX_FD of Linux: with room for that many, each descriptor that was sent is seen, counted and closed."""
_ANCILLARY_SPACE = socket.CMSG_SPACE(_KERNEL_MAXIMUM_FDS * array.array("i").itemsize)
_RECEIVE_FLAGS = socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
_SEND_FLAGS = socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT
_GONE = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.ESHUTDOWN)

Result_co = TypeVar("Result_co", covariant=True)


class Receiver(Protocol[Result_co]):
    """What a connection feeds: any session of this package."""

    @property
    def wanted(self) -> int:
        """How many bytes to read next at most."""

    @property
    def inside_message(self) -> bool:
        """Whether a message has begun to arrive."""

    def receive(self, data: bytes, fds: Sequence[int] = (), *, truncated: bool = False) -> Result_co:
        """Take what was read; something else than None when a message is complete."""


class HasFileno(Protocol):
    """Something that can be polled."""

    def fileno(self) -> int:
        """Its descriptor; -1 once closed."""


@dataclass(slots=True, eq=False)
class Onlooker:
    """Something else that may become readable while a peer is waited for, and whom to tell, once."""

    what: HasFileno
    notice: Callable[[], None]
    told: bool = False


class Connection:
    """One connected Unix stream socket, which it owns.

    ``timeout`` (seconds) bounds the sending of one message and, once its first byte has arrived, the arrival
    of the rest (H90); waiting for a message to begin is not bounded by it. None waits for ever.
    """

    def __init__(self, sock: socket.socket, *, timeout: float | None = None) -> None:
        self._socket = sock
        self._socket.setblocking(True)
        self.timeout = timeout
        self._onlooker: Onlooker | None = None

    def fileno(self) -> int:
        """The socket's descriptor, for polling; -1 once closed."""
        return self._socket.fileno()

    def watch(self, what: HasFileno, notice: Callable[[], None]) -> None:
        """While messages are waited for, call ``notice`` once when ``what`` is readable."""
        self._onlooker = Onlooker(what, notice)

    def receive(
        self, session: Receiver[Result_co], *, stop: int | None = None, timeout: float | None = None
    ) -> Result_co | None:
        """Read until ``session`` has something to say, and return that.

        Returns None when ``stop`` (an eventfd or pipe) becomes readable first; it is not read. ``timeout``
        bounds the whole in seconds. Raises what the session raises (ProtocolError, Disconnected,
        RequestRefused) and PeerTimeout. The socket is never read beyond the current message (C015).
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        inside = session.inside_message
        while True:
            if session.inside_message and not inside and self.timeout is not None:
                end = time.monotonic() + self.timeout
                deadline = end if deadline is None else min(deadline, end)
            inside = session.inside_message
            if not self._wait(select.POLLIN, deadline, stop):
                return None
            try:
                data, ancillary, flags, _ = self._socket.recvmsg(
                    session.wanted, _ANCILLARY_SPACE, _RECEIVE_FLAGS
                )
            except BlockingIOError:
                continue
            except ConnectionError as error:
                raise Disconnected(str(error), clean=not session.inside_message) from error
            truncated = bool(flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC))
            with OwnedFds(_descriptors(ancillary)) as fds:
                self._refuse_own_end(fds)
                # While those that did arrive are still held: what they leave is what there was.
                shortage = _shortage() if truncated else None
                try:
                    result = session.receive(data, fds.take(), truncated=truncated)
                except ProtocolError as error:
                    if shortage is None:
                        raise
                    raise ProtocolError(shortage, rule="C011", message=error.message) from error
            if result is not None:
                return result

    def _refuse_own_end(self, fds: OwnedFds) -> None:
        """End the connection when the peer sends its own end of it.

        While we held that, we would never see the peer go. Known by the name of the listener that made the
        connection; the ends of a socketpair have none.
        """
        own = None
        for fd in fds:
            names = _foreign_names(fd)
            if names:
                own = own if own is not None else _names(self._socket)
                if own & names:
                    raise ProtocolError("the peer sent its own end of this connection", rule="H89")

    def send(self, message: Message | None) -> None:
        """Send a whole message, its descriptors with the first byte (C009, C017); None sends nothing.

        Raises Disconnected when the peer is gone, PeerTimeout when it does not read for ``timeout`` seconds.
        """
        if message is None:
            return
        deadline = None if self.timeout is None else time.monotonic() + self.timeout
        rest = memoryview(message.data)
        ancillary = (
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", message.fds))] if message.fds else []
        )
        while rest:
            try:
                sent = self._socket.sendmsg([rest], ancillary, _SEND_FLAGS)
            except BlockingIOError:
                self._wait(select.POLLOUT, deadline, None)
                continue
            except OSError as error:
                if error.errno not in _GONE:
                    raise
                raise Disconnected(f"the peer is gone: {error.strerror}", clean=False) from error
            rest = rest[sent:]
            ancillary = []

    def call(
        self,
        session: Requester,
        request: int,
        payload: Payload | None = None,
        fds: Sequence[int] = (),
        *,
        need_reply: bool | None = None,
        stop: int | None = None,
        timeout: float | None = None,
    ) -> Reply | None:
        """Send a request and wait for its reply.

        Returns None when no reply is due, or when ``stop`` became readable first. Raises what
        ``session.send`` and ``receive`` raise; a request that the peer refused is RequestRefused, and the
        connection lives on (C096).
        """
        self.send(session.send(request, payload, fds, need_reply=need_reply))
        if not session.expects_reply:
            return None
        return self.receive(session, stop=stop, timeout=timeout)

    def shutdown(self) -> None:
        """End the stream in both directions: whoever is blocked on it, here or there, sees its end."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError as error:
            if error.errno not in (*_GONE, errno.EBADF):
                raise

    def close(self) -> None:
        """Close the socket. May be called again."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wait(self, events: int, deadline: float | None, stop: int | None) -> bool:
        """Wait until the socket is ready; False when ``stop`` is readable first."""
        return wait_ready(self._socket.fileno(), events, deadline, stop, self._onlooker)


def wait_ready(
    fd: int, events: int, deadline: float | None, stop: int | None, onlooker: Onlooker | None = None
) -> bool:
    """Wait for ``events`` of poll on ``fd``; False when ``stop`` becomes readable, which goes first.

    ``deadline`` is a time of ``time.monotonic``; PeerTimeout is raised when it passes. Signals are handled
    and the wait goes on. ``onlooker`` is told the first time that what it watches is readable.
    """
    poll = select.poll()
    poll.register(fd, events)
    if stop is not None:
        poll.register(stop, select.POLLIN)
    watched = -1 if onlooker is None or onlooker.told else onlooker.what.fileno()
    if watched >= 0:
        poll.register(watched, select.POLLIN)
    while True:
        ready = dict(poll.poll(None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000))
        if stop is not None and stop in ready:
            return False
        # Not while the peer has something to say: it may be about to go, and the other to come in its place.
        if onlooker is None or fd in ready or watched not in ready:
            break
        poll.unregister(watched)
        onlooker.told = True
        if ready[watched] & select.POLLIN:
            onlooker.notice()
    if fd not in ready:
        raise PeerTimeout(
            f"the peer did not {'read' if events == select.POLLOUT else 'write'} in time", rule="H90"
        )
    return True


def _names(sock: socket.socket) -> set[str]:
    """The names of both ends of a Unix socket, as far as they have any."""
    names = set()
    for name in (sock.getsockname, sock.getpeername):
        with contextlib.suppress(OSError):  # it is not connected
            names.add(str(name()))
    return names - {"", "b''"}


def _foreign_names(fd: int) -> set[str]:
    """The names of a socket that a peer sent, which stays its owner's.

    None when it has none: it is not a socket (``fstat`` could say so, but asks a file system that may never
    answer, and says it of an O_PATH descriptor of a socket's file as well), or of a family without addresses.
    """
    try:
        # Not of a duplicate: that needs a descriptor, of which there may be no more.
        sock = socket.socket(fileno=fd)
    except OSError:
        return set()
    try:
        return _names(sock)
    finally:
        sock.detach()


def _shortage() -> str | None:
    """Why descriptors of a message were cut off although there was room for all that can be sent.

    The kernel drops what it finds no number for. None when a new one can be had.
    """
    try:
        os.close(os.eventfd(0, os.EFD_CLOEXEC))
    except OSError as error:
        if error.errno == errno.EMFILE:
            limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
            return (
                f"descriptors of the message were lost: this process may have {limit} open (RLIMIT_NOFILE); "
                f"raise the limit, up to {most} with ulimit -n (each queue needs 2 or 3)"
            )
        if error.errno == errno.ENFILE:
            return "descriptors of the message were lost: the system has no more (fs.file-max)"
    return None


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """All descriptors of the ancillary data, in order; what truncation left of one is dropped."""
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return fds.tolist()


def duplicate_socket(fd: int) -> socket.socket:
    """The Unix stream socket behind ``fd``, which belongs to the result from now on.

    Raises OSError when ``fd`` is not an open socket, ValueError when it is a socket of another kind; it stays
    the caller's then.
    """
    sock = socket.socket(fileno=fd)
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
        sock.detach()
        raise ValueError(f"descriptor {fd} is not a Unix stream socket")
    os.set_inheritable(fd, False)
    return sock
