"""The part of a daemon that serves one session, from its connection to its end, or to its handover."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from vhost_user.backend.answers import checked_offer
from vhost_user.backend.handler import VhostUserHandler, peer_gone
from vhost_user.backend.handover import Handover, SuccessorLostError, UpgradeError
from vhost_user.backend.inheritance import Inheritance
from vhost_user.backend.postcopy import offered
from vhost_user.backend.state import SessionState
from vhost_user.engine.errors import MemoryLost
from vhost_user.protocol.sessions import BackendSession
from vhost_user.protocol.trace import Tracer, log_tracer, of_connection
from vhost_user.spec.features import VirtioFeature

if TYPE_CHECKING:
    from vhost_user.backend.backend import VhostUserBackend
    from vhost_user.backend.ring import Ring
    from vhost_user.backend.wakeup import WakeUp
    from vhost_user.backend.worker_threads import WorkerThreads
    from vhost_user.engine.memory.atomic import GuestMemoryAtomic
    from vhost_user.protocol.limited_log import LimitedLog
    from vhost_user.protocol.transport import Connection

log = logging.getLogger("vhost_user.backend")

SEND_TIMEOUT = 30.0
"""Seconds that a front-end may leave a reply unread or a message unfinished (H90, H97)."""


class SessionServing:
    """What ``VhostUserDaemon`` does with a connection. Its control thread calls what has an underscore."""

    name: str
    backend: VhostUserBackend
    memory: GuestMemoryAtomic
    sessions: int
    session: SessionState | None
    session_end_reason: str | None
    offered: tuple[int, int]
    _rings: list[Ring]
    _wake: WakeUp
    _threads: WorkerThreads
    _failures: LimitedLog
    _tracer: Tracer | None
    _allow_remote_memory: bool
    _in_band: int
    _iommu: bool
    _control: threading.Thread | None
    _handover: Handover | None = None
    _inheritance: Inheritance | None = None

    def statistics(self) -> dict[str, dict[str, int]]:
        """See ``VhostUserDaemon``."""
        raise NotImplementedError

    def hand_over(self, handover: Handover) -> None:
        """Have the control thread carry this out, between two messages; any thread, does not wait.

        When it was, and came to something, the daemon serves nobody any more.
        """
        if self._control is None or not self._control.is_alive():
            handover.refuse(UpgradeError("nobody is served any more"))
            return
        self._handover = handover
        self._wake.nudge()

    def inherit(self, inheritance: Inheritance) -> None:
        """Before a start: go on with the session of another process before anybody else is served."""
        self._inheritance = inheritance

    def _offer(self) -> tuple[int, int]:
        """What the device offers, and what the framework does for any device."""
        features, protocol_features = checked_offer(self.backend, self._in_band)
        if protocol_features and not self._iommu:
            protocol_features |= offered(features)
        return features, protocol_features

    def _take_over(self, inheritance: Inheritance, *, once: bool) -> bool:
        """Go on where another process was; whether there is more to do."""
        connection: Connection | None = None
        try:
            connection = inheritance.receive(timeout=SEND_TIMEOUT)
            inheritance.load_device(self.backend)
            if connection is None:
                inheritance.loaded()
                inheritance.running()
                return True
        except BaseException as error:  # noqa: BLE001  # the predecessor hears of it, and goes on
            inheritance.close()
            if connection is not None:
                connection.close()
            inheritance.failed(error)
            return False
        finally:
            self._inheritance = None
        self._serve_one(connection, inheritance)
        return not once and inheritance.ours

    def _given_away(self, connection: Connection | None) -> str | None:
        """Carry a handover out if one is wanted; why the session ends, if it was."""
        handover, self._handover = self._handover, None
        if handover is None or not handover.carry_out(self.backend, self.session, connection):
            return None
        if isinstance(handover.failure, SuccessorLostError):
            return str(handover.failure)
        self._wake.stopping = True
        return "another process goes on with it"

    def _serve_one(self, connection: Connection, inheritance: Inheritance | None = None) -> None:
        log = self._failures  # a front-end can provoke every line of a session, as often as it connects
        try:
            features, protocol_features = self.offered = self._offer()
        except BaseException as error:  # noqa: BLE001  # a device that is unwell today may be well tomorrow
            log.log(
                logging.ERROR, "%s: a front-end is refused: the device cannot say what it offers", self.name,
                exception=error,
            )  # fmt: skip
            self.session_end_reason = f"it was refused: {type(error).__name__}: {error}"
            connection.close()
            return
        if self._iommu:
            features |= VirtioFeature.ACCESS_PLATFORM
        self.sessions += 1
        tracers = [tracer for tracer in (self._tracer, log_tracer) if tracer is not None]
        if not log.isEnabledFor(logging.DEBUG):
            tracers.remove(log_tracer)
        session = BackendSession(features, protocol_features, tracer=of_connection(self.sessions, *tracers))
        state = SessionState(
            self.name,
            self.backend,
            self._rings,
            self.memory,
            session.negotiation,
            lambda: self._wake.stopping or self.memory.memory().lost or peer_gone(connection),
            report=self._failures,
        )
        state.allow_remote_memory = self._allow_remote_memory
        self.session = state
        log.info("%s: a front-end connected%s", self.name, " to another process" if inheritance else "")
        for number in self._threads.ended():
            log.warning(
                "%s: worker %d has ended: nobody serves %s",
                self.name,
                number,
                self._threads.queues_of(number),
            )
        reason = "an error"
        try:
            handler = VhostUserHandler(state)
            handler.between = self._given_away
            if inheritance is not None:
                inheritance.take_up(state, connection)
            reason = handler.serve(connection, session, self._wake)
        except MemoryLost as lost:
            log.error("%s: the session ends: %s", self.name, lost)  # noqa: TRY400  # the front-end's doing: a traceback says nothing
            reason = f"its memory is gone: {lost}"
        except UpgradeError as error:  # told where it matters
            reason = str(error)
        except BaseException as error:
            log.exception("%s: the session ends after an error", self.name)
            reason = f"{type(error).__name__}: {error}"
        finally:
            self.session_end_reason = reason
            self._end(state, session, connection)
        log.info("%s: the front-end's session ended: %s", self.name, reason)
        for who, counters in self.statistics().items():
            log.debug("%s: %s: %s", self.name, who, counters)

    def _end(self, state: SessionState, session: BackendSession, connection: Connection) -> None:
        log = self._failures
        try:
            state.end()
        except BaseException:  # SystemExit out of the device among them
            log.exception("%s: the session could not be taken down in order", self.name)
        finally:
            session.close()
            connection.close()
            self.session = None
