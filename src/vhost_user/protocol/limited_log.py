"""A log that a hostile peer cannot fill: so many lines of a kind in so many seconds, then a count."""

from __future__ import annotations

import logging
import sys
import threading
import time
from dataclasses import dataclass


@dataclass(slots=True)
class _Window:
    began: float
    lines: int = 0
    swallowed: int = 0


class LimitedLog:
    """Passes at most ``burst`` lines of a kind in ``seconds`` seconds to ``logger``.

    Lines are of one kind when level and message are equal before the arguments are put in: a flood of one
    kind hides no other. What was swallowed is counted, and told with the next line of its kind. One such log
    belongs to a daemon, not to a connection: who is stopped here could connect again. Any thread may use it.
    """

    def __init__(self, logger: logging.Logger, *, burst: int = 20, seconds: float = 10.0) -> None:
        self._logger = logger
        self._burst = burst
        self._seconds = seconds
        self._lock = threading.Lock()
        self._windows: dict[tuple[int, str], _Window] = {}

    def log(
        self, level: int, message: str, *arguments: object, exception: BaseException | None = None
    ) -> None:
        """One line, with the traceback of ``exception`` if given, or nothing when there were too many.

        ``message`` is a constant of the program: what a peer sends belongs in ``arguments``.
        """
        if not self._logger.isEnabledFor(level):
            return
        now = time.monotonic()
        with self._lock:
            window = self._windows.setdefault((level, message), _Window(now))
            if now - window.began >= self._seconds:
                window.began, window.lines = now, 0
            window.lines += 1
            if window.lines > self._burst:
                window.swallowed += 1
                return
            swallowed, window.swallowed = window.swallowed, 0
        if swallowed:
            self._logger.log(level, "%d similar lines were left out", swallowed)
        self._logger.log(level, message, *arguments, exc_info=exception)

    def debug(self, message: str, *arguments: object) -> None:
        """A line for who looks for a fault: not limited."""
        self._logger.debug(message, *arguments)

    def info(self, message: str, *arguments: object) -> None:
        """A line about the ordinary course of things."""
        self.log(logging.INFO, message, *arguments)

    def warning(self, message: str, *arguments: object) -> None:
        """A line about something that should not be."""
        self.log(logging.WARNING, message, *arguments)

    def error(self, message: str, *arguments: object) -> None:
        """A line about something that does not work."""
        self.log(logging.ERROR, message, *arguments)

    def exception(self, message: str, *arguments: object) -> None:
        """A line with the traceback of the exception that is being handled."""
        self.log(logging.ERROR, message, *arguments, exception=sys.exception())

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802  # named as the Logger's
        """Whether lines of this level are wanted at all."""
        return self._logger.isEnabledFor(level)
