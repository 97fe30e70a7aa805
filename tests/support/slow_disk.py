"""A disk whose requests end late and out of order: each waits in a coroutine before it is carried out."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Awaitable, Callable

from vhost_user import Request, serve
from vhost_user.devices import Blk, FileStorage


async def later(request: Request, following: Callable[[Request], Awaitable[object]]) -> None:
    """Let others pass by."""
    await asyncio.sleep(random.random() * 0.01)
    await following(request)
    await asyncio.sleep(random.random() * 0.01)


if __name__ == "__main__":
    disk = Blk(FileStorage(sys.argv[1]))
    disk.add_filter(later)
    serve(disk, sys.argv[2:])
