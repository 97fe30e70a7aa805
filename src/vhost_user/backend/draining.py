"""How requests end when their ring stops: in their own time, in a moment, or not at all (C053, C054)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from vhost_user.backend.ring import Ring
    from vhost_user.protocol.limited_log import LimitedLog

DRAIN_SLICE = 0.05
"""Seconds between two looks at the connection while requests are waited for."""
DRAIN_WARNING = 5.0
"""Seconds between two warnings about requests that do not end (H92)."""
RESET_DRAIN = 1.0
"""Seconds that a reset or a disconnect waits for requests before it gives them up."""
OVERDUE_DRAIN = 0.1
"""Seconds that requests have after the device heard that they are overdue: coroutines were cancelled."""


class Session(Protocol):
    """What is needed of the session, ``vhost_user.backend.state.SessionState``."""

    name: str
    report: LimitedLog
    interrupted: Callable[[], bool]
    """Whether the session is to end at once."""

    def must_go_on(self, doing: str) -> None:
        """Raise when the session is to end at once."""

    def tell(self, method: str, ring: Ring) -> object:
        """Call a hook of the device."""


class Draining:
    """Used by the control thread of a session only."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def bring_to_rest(self, ring: Ring) -> None:
        """A ring stopped: let its requests end (C053, C054), and give back what only waits.

        The device says how long requests may take; those that take longer go back to the driver.
        """
        patience = self.stopping(ring)
        if not self.drain(ring, patience=patience):
            if patience:
                self._session.tell("vring_overdue", ring)
                ring.vring.drain(OVERDUE_DRAIN)
                if left := ring.vring.in_flight:
                    self._session.report.warning(
                        "%s: queue %d: %d requests did not end in %.3g s and are given back",
                        self._session.name, ring.index, left, patience,
                    )  # fmt: skip
            ring.vring.give_back()
        self._session.tell("vring_stopped", ring)

    def stopping(self, ring: Ring) -> float | None:
        """The seconds that the device gives its requests to end; None: as long as they need."""
        answer = self._session.tell("vring_stopping", ring)
        return max(0.0, float(answer)) if isinstance(answer, (int, float)) else None

    def drain(self, ring: Ring, *, patience: float | None = None) -> bool:
        """Wait until no request of ``ring`` is in flight (C054), at most ``patience`` seconds.

        False when there still are some. Warns every few seconds (H92). Raises what ``must_go_on`` raises,
        with the requests given up, when the session is to end.
        """
        began = warned = time.monotonic()
        while True:
            left = DRAIN_SLICE if patience is None else began + patience - time.monotonic()
            if ring.vring.drain(max(0.0, min(DRAIN_SLICE, left))):
                return True
            now = time.monotonic()
            if patience is not None and now - began >= patience:
                return False
            if self._session.interrupted():
                in_flight = ring.vring.in_flight
                ring.vring.abandon()
                self._session.must_go_on(f"{in_flight} requests of queue {ring.index} had not ended")
            if now - warned >= DRAIN_WARNING:
                warned = now
                self._session.report.warning(
                    "%s: queue %d cannot stop before its %d requests end (heads %s), for %.0f s now [H92]",
                    self._session.name, ring.index, ring.vring.in_flight,
                    ", ".join(map(str, ring.vring.heads_in_flight()[:16])), now - began,
                )  # fmt: skip

    def give_up(self, rings: Sequence[Ring]) -> None:
        """The guest wants nothing of these rings any more: their requests have a moment to end, no longer."""
        until = time.monotonic() + RESET_DRAIN
        for ring in rings:
            patience = self.stopping(ring)
            left = max(0.0, until - time.monotonic())
            left = left if patience is None else min(left, patience)
            if not ring.vring.drain(left) and patience != 0:
                if ring.vring.recovery.tracked:
                    # They stay in flight, in the area of the front-end: what is cancelled now answers nobody.
                    ring.vring.abandon()
                self._session.tell("vring_overdue", ring)
                ring.vring.drain(max(0.0, min(OVERDUE_DRAIN, until - time.monotonic())))
                if in_flight := ring.vring.in_flight:
                    self._session.report.warning(
                        "%s: queue %d: %d requests in flight are dropped",
                        self._session.name, ring.index, in_flight,
                    )  # fmt: skip
            ring.vring.abandon()
            self._session.tell("vring_stopped", ring)
