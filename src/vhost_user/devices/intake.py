"""``Intake``: what a guest writes, on its way from the worker to the device's loop, with a bound."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from vhost_user.backend.limited_log import LimitedLog
from vhost_user.engine.errors import EngineError

if TYPE_CHECKING:
    import asyncio

    from vhost_user.engine.device.request import Request

_report = LimitedLog(logging.getLogger(__name__))


class Intake:
    """Reads requests in their order and gives their bytes to ``deliver`` in a loop.

    Whoever gets them says ``done`` as soon as they are dealt with. While more than ``room`` bytes are on
    their way, requests are held, unread: the guest waits. When the queue stops, ``set_aside`` leaves them to
    go back as they are. ``most`` bytes of a request are delivered at a time; with ``whole`` that is all of
    it, and what is beyond is left out. Before ``begin`` everything is held.
    """

    def __init__(
        self, deliver: Callable[[bytes], object], *, room: int, most: int, whole: bool = False
    ) -> None:
        self._deliver = deliver
        self._room = room
        self._most = most
        self._whole = whole
        # The worker reads requests, and so does the loop when there is room again.
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_its_way = 0
        self._held: deque[Request] = deque()
        self._set_aside: list[Request] = []

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Deliver in this loop from now on."""
        with self._lock:
            self._loop = loop
            self._read_what_is_held()

    def end(self) -> None:
        """Deliver no more."""
        with self._lock:
            self._loop = None

    def offer(self, request: Request) -> None:
        """The guest wrote this, in the worker: read while there is room, else held."""
        with self._lock:
            if self._loop is not None and not self._held:
                self._read(request)
            if request.readable:
                request.hold()
                self._held.append(request)

    def put(self, data: bytes) -> None:
        """Deliver these bytes as if they had been written; without room they are dropped."""
        with self._lock:
            if self._loop is not None and self._on_its_way < self._room:
                self._give(data)

    def done(self, length: int) -> None:
        """So many bytes of what was delivered are dealt with; in the loop."""
        with self._lock:
            self._on_its_way -= length
            self._read_what_is_held()

    def set_aside(self) -> int:
        """The queue stops: what is held is not read any more, and goes back. Gives how many those are."""
        with self._lock:
            # A reference is kept: without one they go back used. They are dead when the queue has stopped.
            self._set_aside = [request for request in (*self._set_aside, *self._held) if request.alive]
            self._held.clear()
            for request in self._set_aside:
                if request.readable < request.readable_total:  # a part of it is on its way: not once more
                    request.complete()
            return sum(request.alive for request in self._set_aside)

    # With the lock held

    def _read(self, request: Request) -> None:
        while request.readable and self._on_its_way < self._room:
            self._give(request.read(self._most))
            if self._whole:
                request.skip_readable(request.readable)

    def _give(self, data: bytes) -> None:
        assert self._loop is not None  # whoever calls has looked
        self._on_its_way += len(data)
        self._loop.call_soon_threadsafe(self._deliver, data)

    def _read_what_is_held(self) -> None:
        while self._loop is not None and self._held and self._on_its_way < self._room:
            request = self._held[0]
            if request.alive:
                try:
                    self._read(request)
                except EngineError as error:  # it lies in memory that is gone
                    _report.warning("queue %d, head %d: %s", request.queue, request.head, error)
                    request.skip_readable(request.readable)
                if request.readable:
                    return
                request.complete()
            self._held.popleft()
