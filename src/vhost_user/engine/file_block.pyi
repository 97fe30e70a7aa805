"""The fast path of a disk in a file."""

from typing import final

from vhost_user.engine.accelerator import BlockAccelerator

def liburing_built() -> bool:
    """Whether the engine was compiled with liburing."""

@final
class FileBlock(BlockAccelerator):
    """A disk in the open file ``fd`` of ``size`` bytes.

    ``fd`` stays the caller's and must outlive ``close``.

    ``io_uring`` None: used where it was built in and the kernel has it, for a file in memory (tmpfs) only
    for requests of 256 KiB and more; True: needed, raises OSError if it cannot be had; False: preadv and
    pwritev. One vring and one worker thread for each object.
    """

    def __init__(self, fd: int, size: int, *, read_only: bool = False, io_uring: bool | None = None) -> None: ...
    @property
    def uses_io_uring(self) -> bool: ...
