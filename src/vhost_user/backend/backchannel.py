"""Requests from the device to the front-end.

The object that ``set_backend_req_fd`` receives (C098 to C105).
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
import uuid
from collections.abc import Sequence

from vhost_user.protocol.errors import (
    Disconnected,
    PeerTimeout,
    ProtocolError,
    RequestRefused,
    VhostUserError,
)
from vhost_user.protocol.framing import Message
from vhost_user.protocol.negotiation import Negotiation
from vhost_user.protocol.requester import Reply
from vhost_user.protocol.sessions import BackChannelRequester
from vhost_user.protocol.trace import Tracer
from vhost_user.protocol.transport import Connection, wait_ready
from vhost_user.spec.requests import BackendRequest
from vhost_user.spec.structs import Payload, SharedUuid, ShmemMap, ShmemMapFlag, VringArea

REPLY_TIMEOUT = 10.0
"""Seconds that the front-end has for a reply."""
SEND_TIMEOUT = 1.0
"""Seconds that the front-end has for reading the rest of a message that was begun."""


class BackChannelError(VhostUserError):
    """The request could not be sent, or no reply came: closed, kept quiet, or the front-end does not read.

    ``rule`` is the rule that forbids it, if one does.
    """

    def __init__(self, message: str, *, rule: str | None = None) -> None:
        super().__init__(f"{message} [{rule}]" if rule else message)
        self.rule = rule


class BackChannel:
    """The back channel of one connection. Every method may be called from any thread.

    One request is outstanding at a time (C102). While all rings are stopped nothing is sent (C076). Methods
    raise RequestRefused when a needed feature is not negotiated or the front-end refuses, and
    BackChannelError when the channel is closed or all rings are stopped, or no reply comes in 10 seconds.
    Waiting for a reply in the thread that serves the front-end's own requests would block both for ever, so
    that raises BackChannelError too.
    """

    def __init__(
        self, connection: socket.socket, negotiation: Negotiation, *, tracer: Tracer | None = None
    ) -> None:
        """Take the connected socket over; it is closed if this raises.

        The calling thread is the one that must not wait for replies. ``tracer`` is called for every message.
        """
        self._connection = Connection(connection, timeout=SEND_TIMEOUT)
        try:
            self._end_event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except BaseException:
            self._connection.close()
            raise
        self._requester = BackChannelRequester(negotiation, tracer=tracer)
        self._control_thread = threading.get_ident()
        # Guards the flags and the sending; never held while a reply is waited for.
        self._state = threading.Condition()
        self._busy = False
        self._quiet = True
        self._undecided = False
        """A ring is being started."""
        self._config_pending = False
        self._closed = False

    def fileno(self) -> int:
        """The socket's descriptor, which stays the channel's; -1 once it is closed."""
        return self._connection.fileno()

    @property
    def config_pending(self) -> bool:
        """A CONFIG_CHANGE waits to be sent."""
        return self._config_pending

    @config_pending.setter
    def config_pending(self, pending: bool) -> None:
        with self._state:
            self._config_pending = pending

    def at_rest(self, patience: float) -> bool:
        """Wait until no request waits for its answer; kept quiet, it stays so. False if it took too long."""
        with self._state:
            return self._state.wait_for(lambda: not self._busy, patience)

    @property
    def closed(self) -> bool:
        """The connection ended, or another channel replaced this one."""
        return self._closed

    def config_change(self, *, wait: bool = False) -> None:
        """Tell the front-end that the configuration space changed (C130).

        Does not wait for it unless asked to. While all rings are stopped, or another request waits for its
        reply, the message is kept and sent afterwards, once.
        """
        if wait:
            self.request(BackendRequest.CONFIG_CHANGE_MSG)
            return
        with self._state:
            self._check_open()
            self._config_pending = True
            self._send_pending()

    def shared_object_add(self, identifier: uuid.UUID) -> None:
        """Export an object that GET_SHARED_OBJECT can ask for."""
        self.request(BackendRequest.SHARED_OBJECT_ADD, SharedUuid.of(identifier))

    def shared_object_remove(self, identifier: uuid.UUID) -> None:
        """Take an exported object back (C103)."""
        self.request(BackendRequest.SHARED_OBJECT_REMOVE, SharedUuid.of(identifier))

    def shared_object_lookup(self, identifier: uuid.UUID) -> int:
        """A file descriptor, the caller's to close, of an object that another device exports (C100)."""
        reply = self.request(BackendRequest.SHARED_OBJECT_LOOKUP, SharedUuid.of(identifier))
        assert reply is not None  # this message always has a reply
        with reply.fds as fds:
            fd = fds.take_one()
        assert fd is not None  # checked by the session
        return fd

    def shmem_map(
        self, shmid: int, fd: int, *, fd_offset: int, shm_offset: int, length: int, writable: bool = False
    ) -> None:
        """Map ``length`` bytes of ``fd`` into shared memory region ``shmid`` of the guest (C104).

        ``fd`` stays the caller's.
        """
        flags = ShmemMapFlag.WRITABLE if writable else 0
        self.request(BackendRequest.SHMEM_MAP, ShmemMap(shmid, fd_offset, shm_offset, length, flags), [fd])

    def shmem_unmap(self, shmid: int, *, shm_offset: int, length: int, fd_offset: int = 0) -> None:
        """Remove one whole earlier mapping (C104)."""
        self.request(BackendRequest.SHMEM_UNMAP, ShmemMap(shmid, fd_offset, shm_offset, length))

    def host_notifier(self, queue: int, fd: int | None, *, size: int, offset: int = 0) -> None:
        """Map a doorbell page for a queue, or take it back with None. ``fd`` stays the caller's."""
        no_fd = 0 if fd is not None else 1 << 8
        self.request(
            BackendRequest.VRING_HOST_NOTIFIER_MSG,
            VringArea(queue | no_fd, size, offset),
            [] if fd is None else [fd],
        )

    def request(
        self,
        request: BackendRequest,
        payload: Payload | None = None,
        fds: Sequence[int] = (),
        *,
        need_reply: bool | None = None,
        timeout: float = REPLY_TIMEOUT,
    ) -> Reply | None:
        """Send any message of the table and wait for its reply, if it has one or REPLY_ACK is negotiated.

        With ``need_reply`` False no ack is asked for. ``timeout`` is in seconds.
        """
        if threading.get_ident() == self._control_thread:
            raise BackChannelError(
                f"{request.name}: the thread that answers the front-end cannot wait for it; "
                "call from another thread",
                rule="C102",
            )
        with self._state:
            while (self._busy or self._undecided) and not self._closed:
                self._state.wait()
            self._check_open()
            if self._quiet:
                raise BackChannelError(
                    f"{request.name}: all rings are stopped, nothing may be sent", rule="C076"
                )
            self._transmit(self._requester.send(request, payload, fds, need_reply=need_reply))
            if not self._requester.expects_reply:
                return None
            self._busy = True
        return self._reply(request, timeout)

    def _reply(self, request: BackendRequest, timeout: float) -> Reply | None:
        broken = True
        try:
            reply = self._connection.receive(self._requester, stop=self._end_event, timeout=timeout)
            broken = reply is None
        except RequestRefused:
            broken = False
            raise
        except (Disconnected, PeerTimeout, ProtocolError, OSError) as error:
            raise BackChannelError(f"{request.name}: {error}; the back channel is closed") from error
        finally:
            with self._state:
                self._busy = False
                if broken:
                    self._closed = True
                if self._closed:
                    self._release()
                else:
                    with contextlib.suppress(VhostUserError):
                        self._send_pending()
                self._state.notify_all()
        if reply is None:
            raise BackChannelError(f"{request.name}: the connection ended")
        return reply

    # Called by the control thread.

    def await_start(self) -> None:
        """A ring is about to start: requests wait for ``keep_quiet``, which says whether it did.

        Its worker may have something to send before the thread that started it goes on.
        """
        with self._state:
            self._undecided = True

    def keep_quiet(self, quiet: bool) -> None:
        """When this returns, nothing is sent any more, or what was kept has been sent (C076)."""
        with self._state:
            self._quiet = quiet
            self._undecided = False
            self._state.notify_all()
            if not self._closed:
                with contextlib.suppress(VhostUserError):
                    self._send_pending()

    def inherit(self, older: BackChannel) -> None:
        """Take over what an earlier channel of the connection has kept."""
        with older._state:
            pending = older._config_pending
        with self._state:
            self._config_pending = self._config_pending or pending

    def close(self) -> None:
        """End of the connection; waiting callers get BackChannelError. May be called again."""
        with self._state:
            if self._closed:
                return
            self._closed = True
            os.eventfd_write(self._end_event, 1)
            if (
                not self._busy
            ):  # else the thread that waits releases everything: its poll set must not go under it
                self._release()
            self._state.notify_all()

    # With the state locked.

    def _check_open(self) -> None:
        if self._closed:
            raise BackChannelError("the back channel is closed")

    def _send_pending(self) -> None:
        if self._config_pending and not self._quiet and not self._busy:
            self._config_pending = False
            self._transmit(self._requester.send(BackendRequest.CONFIG_CHANGE_MSG, need_reply=False))

    def _transmit(self, message: Message) -> None:
        try:
            # Never blocks for long: the control thread waits for this lock too.
            wait_ready(self._connection.fileno(), select.POLLOUT, time.monotonic(), None)
            self._connection.send(message)
        except (Disconnected, PeerTimeout, OSError) as error:
            self._closed = True
            self._release()
            raise BackChannelError(f"{error}; the back channel is closed") from error

    def _release(self) -> None:
        self._requester.close()
        self._connection.close()
        if self._end_event >= 0:
            os.close(self._end_event)
            self._end_event = -1
