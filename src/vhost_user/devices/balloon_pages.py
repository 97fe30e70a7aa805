"""Which memory of a guest is nobody's, and how it goes back to the host."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from vhost_user.engine.errors import MemoryFault
from vhost_user.engine.memory.holes import give_back
from vhost_user.protocol.limited_log import LimitedLog
from vhost_user.spec.balloon import PAGE_SIZE

if TYPE_CHECKING:
    from vhost_user.engine.device.request import Request
    from vhost_user.engine.memory.atomic import GuestMemoryAtomic

_report = LimitedLog(logging.getLogger(__name__))

PIECE = 32 << 20
"""Bytes that are given back at a time: a front-end that changes its memory waits for no more."""
Range = tuple[int, int]
"""Guest address and bytes."""


def runs(numbers: Iterable[int]) -> Iterator[Range]:
    """Page frame numbers as ranges: neighbours together, none twice."""
    begin = end = -1
    for number in sorted(set(numbers)):
        if number != end:
            if begin >= 0:
                yield begin * PAGE_SIZE, (end - begin) * PAGE_SIZE
            begin = number
        end = number + 1
    if begin >= 0:
        yield begin * PAGE_SIZE, (end - begin) * PAGE_SIZE


def _pieces(ranges: Iterable[Range]) -> Iterator[Range]:
    for address, length in ranges:
        for begin in range(0, length, PIECE):
            yield address + begin, min(PIECE, length - begin)


class Holes:
    """Gives pages of the present session's memory back, and no others.

    A hole in memory that is in use again is lost data. So it is made only while the request that names the
    pages is alive, in the table of memory of that moment, and whoever ends one of the two (``settle``) waits
    until the piece that is being given back is done. What cannot be given back is said once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        """Whoever settles has it first: the lock alone could go to the next piece again and again."""
        self._memory: GuestMemoryAtomic | None = None
        self._said: set[str] = set()
        self.bytes = 0
        """So many went back to the host so far."""

    def settle(self, memory: GuestMemoryAtomic | None = None) -> None:
        """When this returns, nothing is done that was begun with another table or for requests that are dead.

        ``memory`` is the cell of the session's table.
        """
        with self._turn, self._lock:
            self._memory = memory or self._memory

    def give_back(self, request: Request, ranges: Iterable[Range]) -> None:
        """Give the pages back that this request names."""
        for address, length in _pieces(ranges):
            with self._turn:
                pass
            with self._lock:
                if self._memory is None or not request.alive:
                    return
                try:
                    done = give_back(self._memory.memory(), address, length)
                except MemoryFault as error:
                    _report.warning(
                        "queue %d: the guest gives away memory that it does not have: %s",
                        request.queue,
                        error,
                    )
                    continue
                except OSError as error:
                    self._say(f"this memory cannot be given back to the host: {error.strerror}")
                    continue
            self.bytes += done
            if done < length:
                self._say("pages that are only a part of a page of the host are not given back to it")

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            _report.warning("%s", text)
