"""A log that a hostile guest cannot fill.

So many lines in so many seconds, then a count of what was left out.
"""

from __future__ import annotations

import logging
import threading
import time


class LimitedLog:
    """Passes at most ``burst`` lines in ``seconds`` seconds to ``logger``.

    Says how many it swallowed when it goes on.
    """

    def __init__(self, logger: logging.Logger, *, burst: int = 20, seconds: float = 10.0) -> None:
        self._logger = logger
        self._burst = burst
        self._seconds = seconds
        self._lock = threading.Lock()
        self._window = 0.0
        self._lines = 0
        self._swallowed = 0

    def log(
        self, level: int, message: str, *arguments: object, exception: BaseException | None = None
    ) -> None:
        """One line, with the traceback of ``exception`` if given, or nothing when there were too many."""
        now = time.monotonic()
        with self._lock:
            if now - self._window >= self._seconds:
                self._window, self._lines = now, 0
            self._lines += 1
            if self._lines > self._burst:
                self._swallowed += 1
                return
            swallowed, self._swallowed = self._swallowed, 0
        if swallowed:
            self._logger.log(level, "%d similar lines were left out", swallowed)
        self._logger.log(level, message, *arguments, exc_info=exception)
