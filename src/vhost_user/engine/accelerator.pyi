"""Compiled fast paths: requests carried out without Python, in front of a device's handler.

``Vring.process(handler, …, accelerator=a)`` offers every request to ``a`` first. An accelerator takes only
what is plain and declines the rest, which goes to the handler; so there is one place where errors are found
and reported.
"""

from typing import final

from _typeshed import ReadableBuffer

class Accelerator:
    """Base of the fast paths; not to be subclassed in Python."""

    @property
    def accepted(self) -> int:
        """Requests carried out here."""
    @property
    def declined(self) -> int:
        """Requests left to the handler."""
    @property
    def fd(self) -> int:
        """Readable when requests under way finished: then process the vring again.

        -1: none ever is under way.
        """
    def statistics(self) -> dict[str, int]: ...

class BlockAccelerator(Accelerator):
    """virtio-blk IN and OUT (virtio 1.x, 5.2.6).

    Sector ranges inside of the disk, whole sectors, a status byte.
    """

    write_through: bool
    """While true, writes are left to the handler, which flushes after them."""
    enabled: bool
    """While false, everything is left to the handler."""
    def resize(self, size: int) -> None:
        """The disk has ``size`` bytes now; requests that are checked later go by it. Any thread."""
    def close(self) -> None:
        """Take no more requests, wait for the calls that are inside, and let the storage go.

        From any thread but a handler's.
        """

@final
class MemoryBlock(BlockAccelerator):
    """A disk in a buffer of this process: copies between it and guest memory.

    The buffer stays exported until ``close``.
    """

    def __init__(self, buffer: ReadableBuffer, *, read_only: bool = False) -> None: ...
