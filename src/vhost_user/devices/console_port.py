"""One port of a console: between its queues and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeAlias

from vhost_user.devices.console_ends import End
from vhost_user.devices.console_words import SessionFunction, end_of
from vhost_user.devices.intake import Intake

if TYPE_CHECKING:
    from vhost_user.backend import BufferQueue

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
        self._data: asyncio.Queue[bytes] = asyncio.Queue()
        self.from_guest = Intake(self._data.put_nowait, room=ROOM, most=ROOM)
        """What the guest writes, from the worker to the loop."""

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
        loop = asyncio.get_running_loop()
        self.from_guest.begin(loop)
        writing = loop.create_task(self._write())
        try:
            await self.end.carry(self)
            await asyncio.Event().wait()
        finally:
            self.from_guest.end()
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

    async def _write(self) -> None:
        """What the guest writes goes to the end, at its pace."""
        while True:
            data = await self._data.get()
            await self.end.drained()
            self.end.write(data)
            self.from_guest.done(len(data))

    def __repr__(self) -> str:
        return f"<Port {self.number} {self.name or '(no name)'}: {self.end!r}>"
