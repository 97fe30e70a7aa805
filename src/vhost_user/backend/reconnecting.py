"""Front-ends that listen themselves: connected to again and again, with growing pauses (C136)."""

from __future__ import annotations

import logging
import os
import time

from vhost_user.backend.wakeup import WakeUp
from vhost_user.protocol.errors import SocketError
from vhost_user.protocol.limited_log import LimitedLog
from vhost_user.protocol.listener import connect
from vhost_user.protocol.transport import Connection

FIRST_BACKOFF = 0.1
MAX_BACKOFF = 5.0
"""Seconds between attempts to connect again."""


class Reconnecting:
    """The connections to one path. Used by the control thread.

    A pause follows an attempt that failed, and a connection that did not last: whoever accepts and hangs up
    at once must not have us turn in a circle. It doubles each time, and is short again after a connection
    that lasted for the longest of them.
    """

    def __init__(
        self, name: str, path: str | os.PathLike[str], wake: WakeUp, log: LimitedLog, timeout: float
    ) -> None:
        self._name = name
        self._path = path
        self._wake = wake
        self._log = log
        self._timeout = timeout
        self._pause = FIRST_BACKOFF
        self._connected_at: float | None = None

    def next(self) -> Connection | None:
        """Connect, when it is time to; None when the daemon stops."""
        if self._connected_at is not None:
            if time.monotonic() - self._connected_at >= MAX_BACKOFF:
                self._pause = FIRST_BACKOFF
            else:
                self._rest()
        while not self._wake.stopping:
            try:
                connection = connect(self._path, timeout=self._timeout)
            except SocketError as error:
                self._log.log(logging.INFO, "%s: %s; trying again", self._name, error)
                self._rest()
            else:
                self._connected_at = time.monotonic()
                return connection
        return None

    def _rest(self) -> None:
        until = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, MAX_BACKOFF)
        while not self._wake.stopping and (left := until - time.monotonic()) > 0:
            self._wake.sleep(left)
            # Somebody may have nudged us about a session that is over.
            self._wake.clear()
