"""A device that answers late and out of order, from coroutines."""

from __future__ import annotations

import asyncio
import os
import random
import sys

from vhost_user import Device, Refuse, Request, serve


class SlowStore(Device, type="console", queues=2, queue_size=256):
    """Keeps what it is sent: eight bytes of position, then data, at that position of a file.

    Answers with the eight bytes. A position alone is read: sixteen bytes are the answer.
    """

    def __init__(self, path: str) -> None:
        self.file = os.open(path, os.O_RDWR)

    async def handle(self, request: Request) -> None:
        position = int.from_bytes(request.read(8), "little")
        data = request.read()
        await self.think(position)
        await asyncio.sleep(random.random() * 0.004)
        if data:
            os.pwrite(self.file, data, position)
            await asyncio.sleep(random.random() * 0.004)
            request.write(position.to_bytes(8, "little"))
        else:
            request.write(os.pread(self.file, 16, position))

    async def think(self, position: int) -> None:
        """Before anything else."""


class Meter(SlowStore, rerun=False):
    """Nothing may be done twice: what was interrupted is refused. Odd blocks take for ever."""

    async def think(self, position: int) -> None:
        if position // 16 % 2:
            await asyncio.Event().wait()

    def interrupted(self, request: Request) -> bool | None:
        self.fail(request, Refuse(4))
        return None

    def fail(self, request: Request, exception: BaseException) -> None:
        del exception
        request.write(b"refused!")
        request.complete()


if __name__ == "__main__":
    kind, socket, file, *options = sys.argv[1:]
    serve(Meter(file) if kind == "meter" else SlowStore(file), [f"--socket-path={socket}", *options])
