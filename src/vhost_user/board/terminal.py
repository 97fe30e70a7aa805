"""``Terminal``: the other end of a console's port, for any number of pages at once."""

from __future__ import annotations

import asyncio
import base64
import threading
from typing import Any

from vhost_user.board.control import Control, Json
from vhost_user.devices.console_ends import End, Line
from vhost_user.devices.console_port import Port

HISTORY = 1 << 16
"""Bytes of what the guest wrote last: what a page that is opened, or was slow, still gets."""
ROOM = 1 << 12
"""Bytes that are typed and that the guest has not read yet; more are refused."""
LONGEST_SIDE = 500
"""Columns or rows that a terminal has at most."""


class Terminal(End):
    """Keeps what the guest wrote last, and hands on what is typed.

    It takes whatever comes, at once: no page, and no page that is slow, holds up the guest.
    """

    def __init__(self) -> None:
        # Taken in the loop of the console and in the thread of the server; held no longer than a copy takes.
        self._lock = threading.Lock()
        self._history = bytearray()
        self._written = 0
        self._waiting = 0
        self._typed: asyncio.Queue[bytes] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._line: Line | None = None

    # The end of the console, in its loop

    async def carry(self, line: Line) -> None:
        """Hand on what is typed."""
        typed: asyncio.Queue[bytes] = asyncio.Queue()
        with self._lock:
            self._line, self._loop, self._typed, self._waiting = line, asyncio.get_running_loop(), typed, 0
        line.connection(True)
        while True:
            data = await typed.get()
            await line.send(data)
            with self._lock:
                self._waiting -= len(data)

    def write(self, data: bytes) -> None:
        """The guest wrote this."""
        with self._lock:
            self._history += data
            self._written += len(data)
            if len(self._history) > 2 * HISTORY:  # not for each byte: what is behind moves to the front
                del self._history[:-HISTORY]

    def close(self) -> None:
        """The device is closed."""
        with self._lock:
            self._line = self._loop = self._typed = None

    # For pages and programs; from any thread

    def type(self, data: bytes) -> None:
        """Give this to the guest. Raises ValueError when it does not read, or nobody serves the console."""
        with self._lock:
            if self._loop is None or self._typed is None:
                raise ValueError("the console is not served (any more)")
            if self._waiting + len(data) > ROOM:
                raise ValueError("the guest does not read its console: what was typed is dropped")
            self._waiting += len(data)
            self._loop.call_soon_threadsafe(self._typed.put_nowait, data)

    def resize(self, cols: int, rows: int) -> None:
        """The terminal has this size now. Raises ValueError when nobody serves the console."""
        with self._lock:
            if self._loop is None or self._line is None:
                raise ValueError("the console is not served (any more)")
            self._loop.call_soon_threadsafe(self._line.window, cols, rows)

    @property
    def written(self) -> int:
        """Bytes that the guest has written so far."""
        return self._written

    def since(self, position: int) -> tuple[bytes, int, int]:
        """What the guest wrote after its first ``position`` bytes.

        Gives the bytes, the position behind them, and how many before them are gone.
        """
        with self._lock:
            start = max(position, self._written - min(len(self._history), HISTORY))
            data = bytes(self._history[len(self._history) - (self._written - start) :])
            return data, self._written, start - position


class TerminalView(Control):
    """The terminal of a port."""

    kind = "terminal"

    def __init__(self, terminal: Terminal, port: Port, label: str | None = None) -> None:
        super().__init__(label or port.name or f"port {port.number}")
        self.terminal, self.port = terminal, port

    def value(self) -> Json:
        """All that is kept of what the guest wrote, as text, and the size."""
        data, _, _ = self.terminal.since(0)
        return {"text": data.decode(errors="replace"), "size": list(self.port.size)}

    def news(self, seen: Any) -> tuple[Json, Any] | None:
        """What was written since, in base64; how much of it is lost, if any; and the size."""
        position, size = (0, None) if seen is None else seen
        if seen is not None and seen == (self.terminal.written, self.port.size):
            return None
        data, end, lost = self.terminal.since(position)
        now = self.port.size
        # A page that has just come is not told of what was before its time.
        news: dict[str, Json] = {
            "data": base64.b64encode(data).decode(),
            "lost": lost if seen is not None else 0,
        }
        if now != size:
            news["size"] = list(now)
        return news, (end, now)

    def act(self, value: Json, who: object) -> None:
        """``{"keys": text}`` or ``{"size": [columns, rows]}``."""
        del who
        match value:
            case {"keys": str() as keys}:
                self.terminal.type(keys.encode(errors="replace"))
            case {"size": [int() as cols, int() as rows]} if all(
                2 <= side <= LONGEST_SIDE for side in (cols, rows)
            ):
                self.terminal.resize(cols, rows)
            case _:
                raise ValueError(f"{self.label}: {value!r} is neither keys nor a size")
