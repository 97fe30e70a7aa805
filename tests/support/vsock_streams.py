"""What tests say over a connection of the socket device."""

from __future__ import annotations

import asyncio
from typing import Any


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


def talk(stream: Any, data: bytes) -> bytes:
    """Send everything and read as much, at the same time: both sides' credit is smaller than the data."""
    back = bytearray()
    for start in range(0, len(data), 30_000):
        piece = data[start : start + 30_000]
        stream.send(piece)
        while len(back) < start + len(piece):
            more = stream.receive()
            assert more, "the stream ended"
            back += more
    return bytes(back)
