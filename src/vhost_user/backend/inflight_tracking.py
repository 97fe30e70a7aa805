"""The in-flight area of a session: who gets it, what came of it, how rings stop (C055, C107)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from vhost_user.backend.draining import Draining
    from vhost_user.backend.ring import Ring
    from vhost_user.engine.device.inflight import InflightArea
    from vhost_user.protocol.limited_log import LimitedLog

RECOVERY_SLICE = 0.001
"""Seconds between two looks whether recovered requests were taken."""


class Session(Protocol):
    """What is needed of a session; see :class:`vhost_user.backend.state.SessionState`."""

    name: str
    report: LimitedLog
    rings: Sequence[Ring]
    draining: Draining

    def must_go_on(self, doing: str) -> None:
        """Raise when the session is to end at once."""

    def tell(self, method: str, ring: Ring) -> object:
        """Call a hook of the device."""


class InflightTracking:
    """Used by the control thread of a session only.

    ``area`` is the front-end's, which keeps it when we are gone.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.area: InflightArea | None = None
        self._told = False
        """It was told that the front-end took the area away."""

    def set(self, area: InflightArea | None) -> None:
        """Record requests in flight in ``area`` from the next start of each ring on.

        An earlier one is dropped (C116).
        """
        for ring in self._session.rings:
            ring.vring.recovery.set_inflight(area)
        old, self.area = self.area, area
        self._told = False
        if old is not None:
            old.close()

    def check(self) -> None:
        """The front-end truncated the area: say so, once (H85).

        Rings do not notice, but nobody will find what they record.
        """
        if self.area is not None and self.area.lost and not self._told:
            self._told = True
            self._session.report.warning(
                "%s: the front-end took the in-flight area away (truncated the file): what is in flight is "
                "not tracked any more", self._session.name,
            )  # fmt: skip

    def tell_of(self, ring: Ring) -> None:
        """A ring started: say what came of the area."""
        if (problem := ring.vring.recovery.problem) is not None:
            self._session.report.warning(
                "%s: queue %d: the in-flight area: %s", self._session.name, ring.index, problem
            )
        if count := ring.vring.recovery.recovering:
            self._session.report.info(
                "%s: queue %d: %d requests were in flight when the back-end ended and are taken up again",
                self._session.name, ring.index, count,
            )  # fmt: skip

    def finish_recovery(self, ring: Ring) -> None:
        """A ring is about to stop: what a process before us left in flight is taken before, if it can be.

        Otherwise nobody would know of it but the area, and the base counts it as taken.
        """
        while ring.vring.recovery.recovering and ring.vring.runnable:
            self._session.must_go_on(f"requests of queue {ring.index} were to be taken up again")
            time.sleep(RECOVERY_SLICE)

    def suspend(self, ring: Ring) -> None:
        """A ring stopped whose requests stay in flight, in the area: whoever gets that takes them up (C055).

        A device whose late writes would do harm ends them all the same.
        """
        if self._session.draining.stopping(ring) is None:
            self._session.draining.drain(ring)
        else:
            # First: what is cancelled answers nobody.
            ring.vring.abandon()
            self._session.tell("vring_overdue", ring)
        self._session.tell("vring_stopped", ring)
