"""A disk that is as bad as you need it: every hundredth read fails, every other request takes 5 ms more.

vhost-user serve examples/flaky_disk.py:Flaky --option size=67108864 --socket-path=/tmp/flaky.sock
vhost-user serve blk --memory=64M --filter=examples/flaky_disk.py:flaky --socket-path=/tmp/flaky.sock
"""

import asyncio
import errno
import itertools

from vhost_user import Next, Refuse, Request, serve
from vhost_user.devices import Blk, MemoryStorage

READ = 0  # VIRTIO_BLK_T_IN
read_numbers = itertools.cycle(range(1, 101))


class Flaky(Blk):
    def __init__(self, size: int = 64 << 20) -> None:
        super().__init__(MemoryStorage(size))


@Flaky.filter
async def flaky(request: Request, proceed: Next) -> None:
    if request.header[0] == READ and next(read_numbers) == 100:
        raise Refuse(errno.EIO, "this is the hundredth read")
    await asyncio.sleep(0.005)
    await proceed(request)


if __name__ == "__main__":
    serve(Flaky())
