"""The fast path of a disk in a file."""

from typing import final

from vhost_user.engine.blk.accelerator import BlockAccelerator

def liburing_built() -> bool: ...

@final
class FileBlock(BlockAccelerator):
    def __init__(self, fd: int, size: int, *, read_only: bool = False, io_uring: bool | None = None) -> None: ...
    @property
    def uses_io_uring(self) -> bool: ...
