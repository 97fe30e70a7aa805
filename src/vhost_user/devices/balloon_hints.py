"""Free page hinting (virtio 1.4, 5.5.6.5): the guest names pages that it does not use at the moment."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from vhost_user.spec.balloon import FIRST_HINT_ROUND, HintCommand

if TYPE_CHECKING:
    from vhost_user.devices.balloon_pages import Range
    from vhost_user.devices.waiting import Waiting
    from vhost_user.engine.device.request import Request

MOST_HINTS = 1 << 16
"""Ranges of one round that are kept."""


class Hints:
    """Asks for hints and collects them, one round at a time.

    A hinted page is not ours. The guest may take it back as soon as it likes, without a word, and from then
    on a hole in it would be lost data: QEMU may drop it from a migration only because it sees later writes.
    So hints are told to whoever asks, and that is all.
    """

    def __init__(self, waiting: Waiting, command: Callable[[int], None]) -> None:
        self.last = FIRST_HINT_ROUND - 1
        """The number of the last round; the specification forbids to use it again too early."""
        self._waiting = waiting
        self._command = command
        self._lock = threading.Lock()
        self._current = 0
        self._heard = False
        self._found: list[Range] = []
        self._over = True
        self._lost = False

    async def ask(self) -> list[Range]:
        """One round; those who ask meanwhile get the same. Raises ConnectionError when the guest goes."""
        with self._lock:
            begins = self._over
            if begins:
                self.last = self.last + 1 if self.last < 0xFFFF_FFFF else FIRST_HINT_ROUND
                self._current, self._found = self.last, []
                self._heard = self._over = self._lost = False
        if begins:
            self._command(self._current)
        try:
            await self._waiting.until(lambda: self._over)
        except BaseException:
            if begins:
                self._end(lost=True)
            raise
        if self._lost:
            raise ConnectionError("the guest went before it had named its free pages")
        return self._found

    def taken(self, request: Request) -> None:
        """A request of the queue of hints: a command, or pages."""
        command = int.from_bytes(request.read(4), "little") if request.readable >= 4 else None
        with self._lock:
            if self._over:
                return
            if command is not None:
                self._heard = command == self._current
            elif self._heard and len(self._found) < MOST_HINTS:
                self._found += [(address, size) for address, size, writable in request.segments() if writable]
        if command == HintCommand.STOP:
            self._end()

    def forget(self) -> None:
        """The driver is gone, or another has come: whoever waits is told."""
        self._end(lost=True)
        self._command(HintCommand.DONE)

    def _end(self, *, lost: bool = False) -> None:
        """The driver may use the pages of the round again, and the numbers go on."""
        with self._lock:
            if self._over:
                return
            self._over, self._lost = True, lost
        self._command(HintCommand.DONE)
        self._waiting.tell()
