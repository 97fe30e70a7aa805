"""Front-ends that connect to a listening socket: one after the other, whatever the process runs out of."""

from __future__ import annotations

from vhost_user.backend.wakeup import WakeUp
from vhost_user.protocol.limited_log import LimitedLog
from vhost_user.protocol.listener import EXHAUSTED, Listener
from vhost_user.protocol.transport import Connection

FIRST_PAUSE = 0.05
MAX_PAUSE = 1.0
"""Seconds before another attempt to accept when there were no descriptors, or no memory."""


class Arrivals:
    """The connections of one listener, which stays the caller's. Used by the control thread."""

    def __init__(self, name: str, listener: Listener, wake: WakeUp, log: LimitedLog, timeout: float) -> None:
        self._name = name
        self._listener = listener
        self._wake = wake
        self._log = log
        self._timeout = timeout
        self._pause = FIRST_PAUSE

    def next(self) -> Connection | None:
        """Wait for a front-end; None when somebody has called ``wake``, or there was none to be had by now.

        Raises OSError when the listener is of no use any more.
        """
        try:
            connection = self._listener.accept(stop=self._wake.fileno(), connection_timeout=self._timeout)
        except OSError as error:
            if error.errno not in EXHAUSTED:
                raise
            # It stays in the backlog, and the listener readable: without a pause this would burn a CPU.
            self._log.error(
                "%s: a front-end cannot be accepted: %s; trying again (limit of open files: ulimit -n)",
                self._name,
                error.strerror,
            )
            self._wake.sleep(self._pause)
            self._pause = min(2 * self._pause, MAX_PAUSE)
            return None
        self._pause = FIRST_PAUSE
        if connection is not None:
            connection.watch(self._listener, self._another_waits)
        return connection

    def _another_waits(self) -> None:
        self._log.warning(
            "%s: another front-end waits%s: they are served one at a time [C137]",
            self._name,
            "" if self._listener.path is None else f" at {self._listener.path}",
        )
