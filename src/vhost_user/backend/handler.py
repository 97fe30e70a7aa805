"""One session: each request is carried out by the method that its row of the table names, and answered."""

from __future__ import annotations

import logging
import os
import select
from collections.abc import Callable
from typing import cast

from vhost_user.backend.device_requests import DeviceRequests
from vhost_user.backend.dispatch import Dispatcher, FdReply
from vhost_user.backend.handshake import HandshakeRequests
from vhost_user.backend.inflight_requests import InflightRequests
from vhost_user.backend.memory_requests import MemoryRequests
from vhost_user.backend.refusal import refusal_of
from vhost_user.backend.ring import file_identity
from vhost_user.backend.ring_requests import RingRequests
from vhost_user.backend.state import SessionEnded, SessionState
from vhost_user.backend.wakeup import WakeUp
from vhost_user.engine.errors import EngineError, MemoryLost
from vhost_user.protocol.errors import Disconnected, PeerTimeout, ProtocolError, RequestRefused
from vhost_user.protocol.responder import ReceivedMessage, Refusal
from vhost_user.protocol.sessions import BackendSession
from vhost_user.protocol.transport import Connection
from vhost_user.spec.requests import FRONTEND_REQUESTS, FrontendRequest
from vhost_user.spec.structs import Payload

GROUPS = (HandshakeRequests, MemoryRequests, RingRequests, InflightRequests, DeviceRequests)
"""Between them every row of the request table has its method."""


class VhostUserHandler:
    """Carries out and answers the requests of one front-end, one after the other.

    ``session`` is what they work on; the groups are what carries them out.
    """

    def __init__(self, session: SessionState) -> None:
        self.session = session
        self.groups = tuple(group(session) for group in GROUPS)
        self.between: Callable[[Connection], str | None] = lambda _connection: None
        """Called between two messages; what it says ends the session."""
        self._dispatcher = Dispatcher(FRONTEND_REQUESTS, self.groups)

    def serve(self, connection: Connection, messages: BackendSession, wake: WakeUp) -> str:
        """Carry requests out, strictly in order (C015), until the connection ends; tells in words why it did.

        ``wake`` can end the session too. Raises MemoryLost when the front-end took its memory away.
        """
        messages.report = self.session.report
        self.session.tracer = messages.tracer
        self.session.nudge = wake.nudge
        self.session.own_socket = file_identity(connection.fileno())
        try:
            while True:
                self._check_memory()
                self.session.inflight.check()
                if not messages.inside_message and (reason := self.between(connection)) is not None:
                    return reason
                request = cast(
                    "ReceivedMessage | Refusal | None", connection.receive(messages, stop=wake.fileno())
                )
                if request is None:
                    wake.clear()
                    if wake.stopping:
                        return "the back-end was stopped"
                    if self.session.iommu is not None:
                        self.session.iommu.attend()
                    self.session.postcopy.attend()
                elif isinstance(request, Refusal):
                    if request.error.message == FrontendRequest.SET_FEATURES.name:
                        self.session.features_refused = True
                    connection.send(request.response)
                else:
                    self._answer(connection, messages, request)
        except Disconnected as end:
            return str(end)
        except SessionEnded as end:
            self._check_memory()
            return f"it ended while requests were waited for: {end}"
        except (ProtocolError, PeerTimeout) as error:
            self.session.report.error(
                "%s: %s", self.session.name, error
            )  # the peer's mistake: a traceback says nothing
            return f"the connection was closed after an error: {error}"

    def _answer(self, connection: Connection, messages: BackendSession, request: ReceivedMessage) -> None:
        refusal: RequestRefused | None = None
        result: Payload | FdReply | None = None
        try:
            result = self.carry_out(request)
        except RequestRefused as refused:
            # A fresh one: a log handler may keep it, and a traceback would keep the memory that was refused.
            refusal = RequestRefused(refused.reason, rule=refused.rule, queue=refused.queue)
        if refusal is not None:
            connection.send(messages.refuse(request, refusal))
            return
        if isinstance(result, FdReply):
            try:
                connection.send(messages.reply(request, result.payload, [result.fd]))
            finally:
                os.close(result.fd)
        else:
            connection.send(messages.reply(request, result))

    def carry_out(self, request: ReceivedMessage) -> Payload | FdReply | None:
        """Do what the request says. Raises RequestRefused, whatever the device raised (C093)."""
        queue = request.queue
        if queue is not None and queue >= len(self.session.rings):
            raise RequestRefused(f"there are {len(self.session.rings)} queues", rule="C069")
        try:
            result = self._dispatcher.carry_out(request)
        except (RequestRefused, SessionEnded, MemoryLost):
            raise
        except EngineError as error:
            raise refusal_of(error) from error
        except BaseException as error:  # SystemExit too: it is the answer to this one message
            self.session.report.log(
                logging.ERROR, "%s: %s failed in the device", self.session.name, request.name, exception=error
            )
            raise RequestRefused(f"{type(error).__name__}: {error}") from error
        self.session.prepares(request.row.id)
        return result

    def _check_memory(self) -> None:
        memory = self.session.memory.memory()
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
