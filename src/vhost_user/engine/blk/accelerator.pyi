"""Compiled fast paths: requests carried out without Python, in front of a device's handler.

``Vring.process(handler, …, accelerator=a)`` offers every request to ``a`` first. An accelerator takes only
what is plain and declines the rest, which goes to the handler; so there is one place where errors are found
and reported.
"""

from typing import final

from _typeshed import ReadableBuffer

class Accelerator:
    @property
    def accepted(self) -> int:
        """Requests carried out here."""
    @property
    def declined(self) -> int:
        """Requests left to the handler."""
    @property
    def fd(self) -> int: ...
    def statistics(self) -> dict[str, int]: ...

class BlockAccelerator(Accelerator):
    write_through: bool
    """While true, writes are left to the handler, which flushes after them."""
    enabled: bool
    """While false, everything is left to the handler."""
    def resize(self, size: int) -> None: ...
    def close(self) -> None: ...

@final
class MemoryBlock(BlockAccelerator):
    def __init__(self, buffer: ReadableBuffer, *, read_only: bool = False) -> None: ...
