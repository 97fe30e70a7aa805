"""The fast paths of block devices."""

from typing import final

from _typeshed import ReadableBuffer

from vhost_user.engine.device.fast_path import FastPath

class BlockFastPath(FastPath):
    write_through: bool
    """While true, writes are left to the handler, which flushes after them."""
    enabled: bool
    """While false, everything is left to the handler."""
    def resize(self, size: int) -> None: ...
    def close(self) -> None: ...

@final
class MemoryFastPath(BlockFastPath):
    def __init__(self, buffer: ReadableBuffer, *, read_only: bool = False) -> None: ...
