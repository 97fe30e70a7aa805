"""One session: each request is carried out by the method that its row of the table names, and answered."""

from __future__ import annotations

import logging
import os
import select
from collections.abc import Callable
from typing import cast

from vhost_user.backend.device_requests import DeviceRequests
from vhost_user.backend.handshake import HandshakeRequests
from vhost_user.backend.memory_requests import MemoryRequests
from vhost_user.backend.refusal import refusal_of
from vhost_user.backend.ring import file_identity
from vhost_user.backend.ring_requests import RingRequests
from vhost_user.backend.state import FdReply, SessionEnded
from vhost_user.backend.wakeup import WakeUp
from vhost_user.engine.errors import EngineError, MemoryLost
from vhost_user.protocol.errors import Disconnected, PeerTimeout, ProtocolError, RequestRefused
from vhost_user.protocol.fds import OwnedFds
from vhost_user.protocol.responder import Refusal, Request
from vhost_user.protocol.sessions import BackendSession
from vhost_user.protocol.transport import Connection
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.structs import Payload


class VhostUserHandler(HandshakeRequests, MemoryRequests, RingRequests, DeviceRequests):
    """All requests of the front-end, one method for each row of the request table."""

    def serve(self, connection: Connection, session: BackendSession, wake: WakeUp) -> str:
        """Carry requests out, strictly in order (C015), until the connection ends; tells in words why it did.

        ``wake`` can end the session too. Raises MemoryLost when the front-end took its memory away.
        """
        session.report = self.report
        self.own_socket = file_identity(connection.fileno())
        try:
            while True:
                self._check_memory()
                request = cast("Request | Refusal | None", connection.receive(session, stop=wake.fileno()))
                if request is None:
                    wake.clear()
                    if wake.stopping:
                        return "the back-end was stopped"
                elif isinstance(request, Refusal):
                    if request.error.message == FrontendRequest.SET_FEATURES.name:
                        self.features_refused = True
                    connection.send(request.response)
                else:
                    self._answer(connection, session, request)
        except Disconnected as end:
            return str(end)
        except SessionEnded as end:
            self._check_memory()
            return f"it ended while requests were waited for: {end}"
        except (ProtocolError, PeerTimeout) as error:
            self.report.error("%s: %s", self.name, error)  # the peer's mistake: a traceback says nothing
            return f"the connection was closed after an error: {error}"

    def _answer(self, connection: Connection, session: BackendSession, request: Request) -> None:
        refusal: RequestRefused | None = None
        result: Payload | FdReply | None = None
        try:
            result = self.carry_out(request)
        except RequestRefused as refused:
            # A fresh one: a log handler may keep it, and a traceback would keep the memory that was refused.
            refusal = RequestRefused(refused.reason, rule=refused.rule, queue=refused.queue)
        if refusal is not None:
            connection.send(session.refuse(request, refusal))
            return
        if isinstance(result, FdReply):
            try:
                connection.send(session.reply(request, result.payload, [result.fd]))
            finally:
                os.close(result.fd)
        else:
            connection.send(session.reply(request, result))

    def carry_out(self, request: Request) -> Payload | FdReply | None:
        """Do what the request says. Raises RequestRefused, whatever the device raised (C093)."""
        queue = request.queue
        if queue is not None and queue >= len(self.rings):
            raise RequestRefused(f"there are {len(self.rings)} queues", rule="C069")
        try:
            method: Callable[[Payload, OwnedFds], Payload | FdReply | None] = getattr(
                self, request.row.handler
            )
            result = method(request.payload, request.fds)
        except (RequestRefused, SessionEnded, MemoryLost):
            raise
        except EngineError as error:
            raise refusal_of(error) from error
        except BaseException as error:  # SystemExit too: it is the answer to this one message
            self.report.log(
                logging.ERROR, "%s: %s failed in the device", self.name, request.name, exception=error
            )
            raise RequestRefused(f"{type(error).__name__}: {error}") from error
        self.prepares(request.row.id)
        return result

    def _check_memory(self) -> None:
        memory = self.memory.memory()
        if memory.lost:
            gone = ", ".join(
                f"{region.guest_address:#x}+{region.size:#x}" for region in memory.regions if region.lost
            )
            raise MemoryLost(
                f"the front-end took its memory away (truncated the file) under guest addresses {gone}",
                rule="C039",
            )


def peer_gone(connection: Connection) -> bool:
    """Whether the front-end hung up; does not wait."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLRDHUP)
    return bool(poll.poll(0))
