"""The main channel as the front-end holds it.

There is one request at a time, every reply is bounded in time, and nothing is trusted (C018, H101).
"""

import itertools
import os
import select
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from vhost_user.protocol.errors import Disconnected, PeerTimeout, ProtocolError, SocketError
from vhost_user.protocol.framing import Message, encode
from vhost_user.protocol.listener import Listener, connect
from vhost_user.protocol.requester import Quirk, Reply
from vhost_user.protocol.sessions import FrontendSession
from vhost_user.protocol.trace import TraceLog, Tracer, of_connection
from vhost_user.protocol.transport import Connection
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.structs import PROTOCOL_VERSION, HeaderFlag, Payload

DEFAULT_TIMEOUT = 10.0
"""Seconds that a back-end gets for a reply."""


_NUMBERS = itertools.count(1)
"""Of the connections of this process."""


class MainChannel:
    """A connection to a back-end and the front-end's session on it.

    ``connection`` is owned from now on. ``timeout`` (seconds) bounds the wait for each reply and the sending
    of each message. ``trace`` keeps the last messages of both channels; ``tracer`` is called for each as
    well. After a ProtocolError, a PeerTimeout or the end of the stream the channel is closed: where the next
    message starts is not known (C018).
    """

    def __init__(
        self,
        connection: Connection | socket.socket,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        quirks: Quirk = Quirk.TOLERANT,
        tracer: Tracer | None = None,
        path: str | os.PathLike[str] | None = None,
    ) -> None:
        if isinstance(connection, socket.socket):
            connection = Connection(connection, timeout=timeout)
        connection.timeout = timeout
        self.connection = connection
        self.timeout = timeout
        self.path = path
        self.trace = TraceLog()
        tracers = (self.trace,) if tracer is None else (self.trace, tracer)
        self.tracer = of_connection(next(_NUMBERS), *tracers)
        """For the back channel of this connection: its messages belong to the same trace."""
        self.session = FrontendSession(quirks=quirks, tracer=self.tracer)
        self._lock = threading.Lock()
        self._closed = False

    @classmethod
    def connect(
        cls,
        path: str | os.PathLike[str],
        *,
        timeout: float = DEFAULT_TIMEOUT,
        retry_seconds: float = 0.0,
        quirks: Quirk = Quirk.TOLERANT,
        tracer: Tracer | None = None,
    ) -> Self:
        """Connect to the back-end that listens at ``path``.

        With ``retry_seconds`` wait that long for it to appear.

        Raises SocketError.
        """
        deadline = time.monotonic() + retry_seconds
        while True:
            try:
                connection = connect(path, timeout=timeout)
            except SocketError:
                if time.monotonic() >= deadline or not Path(path).parent.is_dir():
                    raise
                time.sleep(0.01)
                continue
            return cls(connection, timeout=timeout, quirks=quirks, tracer=tracer, path=path)

    @classmethod
    def listen(
        cls,
        path: str | os.PathLike[str],
        *,
        timeout: float = DEFAULT_TIMEOUT,
        quirks: Quirk = Quirk.TOLERANT,
        tracer: Tracer | None = None,
    ) -> Self:
        """Wait up to ``timeout`` seconds at ``path`` for a back-end to connect (C136).

        Raises SocketError or PeerTimeout.
        """
        with Listener.bind(path) as listener:
            connection = listener.accept(timeout=timeout)
        if connection is None:
            raise PeerTimeout(f"no back-end connected to {path} within {timeout} seconds")
        return cls(connection, timeout=timeout, quirks=quirks, tracer=tracer, path=path)

    @property
    def closed(self) -> bool:
        """Whether the channel was closed, by us or because it could not go on."""
        return self._closed

    def fileno(self) -> int:
        """The socket's descriptor, -1 once closed."""
        return self.connection.fileno()

    def hung_up(self) -> bool:
        """Whether the back-end closed its end."""
        if self._closed:
            return True
        poll = select.poll()
        poll.register(self.connection.fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))

    def call(
        self,
        request: int,
        payload: Payload | None = None,
        fds: Sequence[int] = (),
        *,
        need_reply: bool | None = None,
        postcopy: bool = False,
        timeout: float | None = None,
    ) -> Reply | None:
        """Send one request and wait for its reply; None when none is due. ``fds`` stay the caller's.

        Raises RequestRefused when the request is illegal now (nothing was sent) or the back-end refused it
        (the channel lives on, C096); ProtocolError, PeerTimeout or Disconnected when the channel is over.
        """
        with self._lock:
            self._alive()
            try:
                self._take_unasked()
                self.connection.send(
                    self.session.send(request, payload, fds, need_reply=need_reply, postcopy=postcopy)
                )
                if not self.session.expects_reply:
                    return None
                seconds = self.timeout if timeout is None else timeout
                return self.connection.receive(self.session, timeout=seconds)
            except PeerTimeout as error:
                self._close()
                name = FrontendRequest(request).name
                raise PeerTimeout(
                    f"{name}: the back-end gave no reply in time; the connection was closed", rule="H101"
                ) from error
            except (ProtocolError, Disconnected):
                self._close()
                raise

    def _take_unasked(self) -> None:
        """Two replies to one request end the channel, unless a known quirk allows the second (H101).

        Called when nothing may wait in the socket.
        """
        poll = select.poll()
        poll.register(self.connection.fileno(), select.POLLIN)
        while poll.poll(0):
            try:
                self.connection.receive(self.session, timeout=0)
            except PeerTimeout:
                return

    def raw(
        self,
        request: int,
        payload: bytes = b"",
        fds: Sequence[int] = (),
        *,
        need_reply: bool = False,
        flags: int | None = None,
    ) -> None:
        """Send any message at all, unchecked: for tests that break rules. No reply is read."""
        if flags is None:
            flags = PROTOCOL_VERSION | (HeaderFlag.NEED_REPLY if need_reply else 0)
        self.send_bytes(encode(request, flags, payload), fds)

    def send_bytes(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send bytes that need not even be a message."""
        with self._lock:
            self._alive()
            self.connection.send(Message(data, tuple(fds)))

    def receive_bytes(self, length: int, *, timeout: float | None = None) -> bytes:
        """Read exactly ``length`` bytes after ``raw``; b"" at the end of the stream.

        Descriptors that come along are closed.
        """
        with self._lock:
            self._alive()
            sink = _Sink(length)
            try:
                self.connection.receive(sink, timeout=self.timeout if timeout is None else timeout)
            except Disconnected:
                return b""
            return bytes(sink.data)

    def _alive(self) -> None:
        if self._closed:
            raise Disconnected("the connection to the back-end was closed")

    def _close(self) -> None:
        self._closed = True
        self.session.close()
        self.connection.close()

    def close(self) -> None:
        """Close the connection.

        May be called again, and from another thread: a call in progress ends with Disconnected.
        """
        if self._closed:
            return
        self.connection.shutdown()
        with self._lock:
            self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Sink:
    """Takes a fixed number of bytes off a connection, whatever they say."""

    def __init__(self, length: int) -> None:
        self._length = length
        self.data = bytearray()

    @property
    def wanted(self) -> int:
        return self._length - len(self.data)

    @property
    def inside_message(self) -> bool:
        return bool(self.data)

    def receive(self, data: bytes, fds: Sequence[int] = (), *, truncated: bool = False) -> bool | None:
        for fd in fds:
            os.close(fd)
        if not data:
            raise Disconnected
        self.data += data
        return True if truncated or not self.wanted else None
