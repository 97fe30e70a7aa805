"""One port of a console: between its queues and its end."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeAlias

from vhost_user.devices.console_ends import End
from vhost_user.devices.console_words import SessionFunction, end_of
from vhost_user.engine.errors import EngineError

if TYPE_CHECKING:
    from vhost_user.backend import BufferQueue
    from vhost_user.engine.device.request import Request

_log = logging.getLogger(__name__)

EndLike: TypeAlias = "End | str | SessionFunction"
"""An end, a word for one, or an async function of a reader and a writer."""
ROOM = 1 << 16
"""Bytes on their way to an end that is slow; then requests are held, and the guest waits."""


class Port:
    """A line of a console: what the guest writes goes to the end, what comes there goes to the guest.

    ``name`` makes it ``/dev/virtio-ports/NAME`` in a Linux guest. With ``console`` the guest may log in on
    it; without, it is a plain line between two programs. Raises ValueError for an end or a name that cannot
    be.
    """

    def __init__(self, end: EndLike = "null", *, name: str = "", console: bool = True) -> None:
        if "\0" in name or "/" in name:
            raise ValueError(f"a port cannot be named {name!r}: that becomes the name of a file in the guest")
        self.end = end_of(end)
        self.name = name
        self.console = console
        self.number = -1
        self.size = (0, 0)
        """Columns and rows; zeroes: not known."""
        self.ready = False
        """The driver has a device for this port (PORT_READY)."""
        self.connected = False
        """Somebody is at the other end."""
        self.task: Future[None] | None = None
        self._guest_open = asyncio.Event()
        self._to_guest: BufferQueue | None = None
        self._changed: Callable[[Port], object] = lambda _port: None
        self._resized: Callable[[int, int, int], object] = lambda _cols, _rows, _port: None
        self._to_guest_turn = asyncio.Lock()  # fair: data keeps its order
        self._lock = threading.Lock()
        """For what follows: the worker reads requests, and so does the loop when there is room again."""
        self._begun = False
        self._loop: asyncio.AbstractEventLoop
        self._data: asyncio.Queue[bytes] = asyncio.Queue()
        self._on_its_way = 0
        """Bytes in it."""
        self._held: deque[Request] = deque()
        self._set_aside: list[Request] = []

    # For its end, in the loop

    async def send(self, data: bytes) -> None:
        """Give data to the guest. Waits while the guest has not opened the port, or does not read."""
        async with self._to_guest_turn:
            await self._guest_open.wait()
            assert self._to_guest is not None  # or nobody runs the end
            await self._to_guest.send(data)

    def connection(self, connected: bool) -> None:
        """Somebody came to the other end, or went away."""
        if connected != self.connected:
            self.connected = connected
            self._changed(self)

    def window(self, cols: int, rows: int) -> None:
        """The end is a terminal, and has this size now."""
        if (cols, rows) != self.size:
            self._resized(cols, rows, self.number)

    # For the console

    def plugged(
        self,
        number: int,
        to_guest: BufferQueue,
        changed: Callable[[Port], object],
        resized: Callable[[int, int, int], object],
    ) -> None:
        """It is number ``number`` of a console. RuntimeError if it is one of a console already."""
        if self._to_guest is not None:
            raise RuntimeError(f"{self!r} is plugged already")
        self.number, self._to_guest, self._changed, self._resized = number, to_guest, changed, resized

    async def run(self) -> None:
        """Carry what comes from the end until cancelled."""
        self._loop = asyncio.get_running_loop()
        with self._lock:
            self._begun = True
            self._read_what_is_held()
        writing = self._loop.create_task(self._write())
        try:
            await self.end.carry(self)
            await asyncio.Event().wait()
        finally:
            with self._lock:
                self._begun = False
            writing.cancel()
            self.end.close()

    def end_now(self) -> None:
        """It is unplugged."""
        if self.task is not None:
            self.task.cancel()
        self._to_guest, self.task, self.ready = None, None, False

    def guest_is(self, is_open: bool) -> None:
        """The guest has opened or closed its side."""
        (self._guest_open.set if is_open else self._guest_open.clear)()

    # What the guest writes: from the worker to the loop

    def written(self, request: Request) -> None:
        """The guest wrote this. Taken while there is room, else held: then the guest waits."""
        with self._lock:
            if self._begun and not self._held and self._on_its_way < ROOM:
                self._read(request)
            if request.readable:
                request.hold()
                self._held.append(request)

    def push(self, data: bytes) -> None:
        """Show these bytes as if the guest had written them; without room they are dropped."""
        with self._lock:
            if self._begun and self._on_its_way < ROOM:
                self._give(data)

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

    def _read(self, request: Request) -> None:
        """As much of it as there is room for. Called with the lock held."""
        while request.readable and self._on_its_way < ROOM:
            self._give(request.read(ROOM))

    def _give(self, data: bytes) -> None:
        self._on_its_way += len(data)
        self._loop.call_soon_threadsafe(self._data.put_nowait, data)

    async def _write(self) -> None:
        """To the end, at its pace."""
        while True:
            data = await self._data.get()
            await self.end.drained()
            self.end.write(data)
            with self._lock:
                self._on_its_way -= len(data)
                self._read_what_is_held()

    def _read_what_is_held(self) -> None:
        """As far as there is room now. Called with the lock held."""
        while self._held and self._on_its_way < ROOM:
            request = self._held[0]
            if request.alive:
                try:
                    self._read(request)
                except EngineError as error:  # it lies in memory that is gone
                    _log.warning("port %d: %s", self.number, error)
                    request.skip_readable(request.readable)
                if request.readable:
                    return
                request.complete()
            self._held.popleft()

    def __repr__(self) -> str:
        return f"<Port {self.number} {self.name or '(no name)'}: {self.end!r}>"
