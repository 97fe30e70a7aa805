"""The fast path of a disk in a file."""

from typing import final

from vhost_user.engine.blk.fast_path import BlockFastPath

def liburing_built() -> bool: ...

@final
class FileFastPath(BlockFastPath):
    def __init__(self, fd: int, size: int, *, read_only: bool = False, io_uring: bool | None = None) -> None: ...
    @property
    def uses_io_uring(self) -> bool: ...
