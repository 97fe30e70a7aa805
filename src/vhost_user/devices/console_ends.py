"""What can be at the other end of a console's port. All of it runs in the loop of the device."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol, TypeAlias

_log = logging.getLogger(__name__)

CHUNK = 1 << 16
"""Bytes read from the other end at a time."""
AGAIN = 1.0
"""Seconds until a connection that was lost, or could not be made, is tried again."""

Streams: TypeAlias = "tuple[asyncio.StreamReader, asyncio.StreamWriter]"


class Line(Protocol):
    """What an end needs of its port."""

    async def send(self, data: bytes) -> None:
        """Give data to the guest; waits until there is room."""

    def connection(self, connected: bool) -> None:
        """Somebody came, or went away."""

    def window(self, cols: int, rows: int) -> None:
        """The end is a terminal of this size."""


class End:
    """The other end of a port; as it is, nobody.

    Derive from it, or give an async function, for an end of one's own. Nothing may block, and each end serves
    one port.
    """

    async def carry(self, line: Line) -> None:
        """Carry what comes from outside to ``line.send`` until cancelled; say ``line.connection``."""

    async def drained(self) -> None:
        """Wait until ``write`` may be called again."""

    def write(self, data: bytes) -> None:
        """The guest wrote this. Takes all of it; what nobody is connected for is dropped."""

    def close(self) -> None:
        """``carry`` has ended."""

    def __repr__(self) -> str:
        return type(self).__name__


class StreamEnd(End):
    """Streams of asyncio, made by an async function; again when they end, unless ``again`` is None."""

    def __init__(self, connect: Callable[[], Awaitable[Streams]], *, again: float | None = AGAIN) -> None:
        self._connect = connect
        self._again = again
        self._writer: asyncio.StreamWriter | None = None

    async def carry(self, line: Line) -> None:
        """Connect, carry, and begin again."""
        told = False
        while True:
            try:
                reader, writer = await self._connect()
            except OSError as error:
                if not told:
                    _log.warning(
                        "the other end of a console cannot be reached, and is tried again: %s", error
                    )
                    told = True
            else:
                told = False
                await self._session(line, reader, writer)
            if self._again is None:
                return
            await asyncio.sleep(self._again)

    async def _session(self, line: Line, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        line.connection(True)
        try:
            while data := await reader.read(CHUNK):
                await line.send(data)
        except OSError as error:
            _log.info("the other end of a console is gone: %s", error)
        finally:
            self._writer = None
            line.connection(False)
            writer.close()

    async def drained(self) -> None:
        """Wait while more than asyncio's high-water mark (64 KiB) is on its way."""
        if self._writer is not None:
            with contextlib.suppress(OSError):  # it is gone, and nobody reads this any more
                await self._writer.drain()

    def write(self, data: bytes) -> None:
        """To whoever is connected."""
        if self._writer is not None:
            self._writer.write(data)


class ListenEnd(StreamEnd):
    """Clients of a listening socket, one after the other; the next waits until this one has gone."""

    def __init__(self, listen: Callable[[], socket.socket], *, path: str | None = None) -> None:
        super().__init__(self._accept, again=0.0)
        self._listen = listen
        self._path = path
        self._listener: socket.socket | None = None
        self.address: Any = None
        """Where it listens, once it does: (host, port) or a path."""

    async def carry(self, line: Line) -> None:
        """Listen, and serve whoever comes."""
        with self._listen() as self._listener:
            self._listener.setblocking(False)
            self.address = self._listener.getsockname()
            await super().carry(line)

    async def _accept(self) -> Streams:
        assert self._listener is not None  # carry has made it
        client, _ = await asyncio.get_running_loop().sock_accept(self._listener)
        return await asyncio.open_connection(sock=client)

    def close(self) -> None:
        """Leave no socket in the file system."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                Path(self._path).unlink()


class ThreadEnd(End):
    """An end where writing may block, and is done in a thread."""

    _written: asyncio.Future[Any] | None = None

    def write_in_thread(self, write: Callable[[bytes], Any], data: bytes) -> None:
        """Have ``write`` called with the next piece."""
        self._written = asyncio.get_running_loop().run_in_executor(None, write, data)

    async def drained(self) -> None:
        """Wait until the last piece was taken."""
        if self._written is not None:
            try:
                await asyncio.shield(self._written)
            except OSError as error:
                self._written = None
                self.not_written(error)

    def not_written(self, error: OSError) -> None:
        """Log that a piece was not taken."""


class FileEnd(ThreadEnd):
    """A file that gets whatever the guest writes; nothing comes from it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file = self.path.open("ab")

    async def carry(self, line: Line) -> None:
        """It takes what comes for as long as it is plugged."""
        line.connection(True)
        await asyncio.Event().wait()

    def not_written(self, error: OSError) -> None:
        """The guest goes on without it."""
        _log.error("%s: %s; the output of a console is lost", self.path, error.strerror)

    def write(self, data: bytes) -> None:
        """Append it."""
        self.write_in_thread(self._append, data)

    def _append(self, data: bytes) -> int:
        done = self._file.write(data)
        self._file.flush()
        return done

    def close(self) -> None:
        """The file is closed."""
        self._file.close()
