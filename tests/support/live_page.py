"""What a board's page does, without a browser: its WebSocket."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import aiohttp

PATIENCE = 30.0


class LivePage:
    """Keeps what a board tells (``values``), and moves its controls. Use it as a context manager."""

    def __init__(self, url: str) -> None:
        self.board: Any = None
        self.values: dict[str, Any] = {}
        """What each control shows, by its name."""
        self.written = b""
        """What was written to the terminals."""
        self.refused: list[str] = []
        self._loop = asyncio.Runner()
        try:
            self._loop.run(self._connect(url))
        except BaseException:
            self._loop.close()
            raise

    async def _connect(self, url: str) -> None:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE))
        try:
            self._socket = await self._session.ws_connect(f"{url}live")
        except BaseException:
            await self._session.close()
            raise

    def act(self, control: str, value: Any) -> None:
        """Move a control."""
        self._loop.run(self._socket.send_json({"control": control, "value": value}))

    def send(self, text: str) -> None:
        """Send anything."""
        self._loop.run(self._socket.send_str(text))

    def receive(self) -> None:
        """Take the next message."""
        message = self._loop.run(self._socket.receive_json(timeout=PATIENCE))
        self.board = message.get("board", self.board)
        for name, value in message.get("values", {}).items():
            self.values[name] = value
            if isinstance(value, dict) and "data" in value:
                self.written += base64.b64decode(value["data"])
        if "refused" in message:
            self.refused.append(message["refused"])

    def until(self, condition: Callable[[], object]) -> None:
        """Take messages until this is so."""
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, self.values
            try:
                self.receive()
            except TimeoutError:
                raise AssertionError(f"nothing comes any more; it is {self.values}") from None

    def shows(self, control: str, value: Any) -> None:
        """Wait until a control shows this."""
        self.until(lambda: self.values.get(control) == value)

    def close(self) -> None:
        """Close the page."""
        self._loop.run(self._leave())
        self._loop.close()

    async def _leave(self) -> None:
        await self._socket.close()
        await self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
