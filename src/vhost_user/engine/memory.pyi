"""Guest memory: mapped regions, immutable snapshots of the table, the dirty log.

Addresses and lengths are bytes. ``guest_address`` is a guest-physical address, ``user_address`` an address of
the front-end's own address space (what SET_VRING_ADDR carries, C045).
"""

from collections.abc import Iterable
from typing import final

from _typeshed import ReadableBuffer

MAX_REGIONS: int
"""Memory slots promised by GET_MAX_MEM_SLOTS (C043)."""

@final
class MemoryRegion:
    """One region of guest memory, mapped shared for as long as this object or a view of it lives.

    ``fd`` is not kept: the caller closes it. ``file_offset`` (mmap_offset of the message) need not be page
    aligned (C036). Raises MemoryTableError when a sum wraps 2**64 or size is 0 (C038), when the file is
    shorter than ``file_offset + size`` (C039), or when the kernel refuses the mapping (not a file, not
    writable …), and for a file on a file system that is not known to be local unless ``allow_remote``: an
    access to one in user space (FUSE) or over a network can wait for ever, and nothing ends that wait.
    """

    def __init__(
        self,
        fd: int,
        *,
        guest_address: int,
        size: int,
        user_address: int | None = None,
        file_offset: int = 0,
        allow_remote: bool = False,
    ) -> None: ...
    @property
    def guest_address(self) -> int: ...
    @property
    def user_address(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def file_offset(self) -> int: ...
    @property
    def lost(self) -> bool:
        """True once an access found its pages gone (the file was truncated).

        The region then reads as zeros.
        """
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class Bitmap:
    """The dirty log of one session.

    SET_LOG_BASE maps it, SET_FEATURES(VHOST_F_LOG_ALL) turns it on and off (C077 to C086).

    One bit for each 4096-byte page of guest-physical space, set by atomic OR after the write it stands for.
    Every write of the engine to guest memory passes here; code that writes through a view must call
    ``mark``.
    """

    def __init__(self) -> None: ...
    def map(self, fd: int, size: int, offset: int = 0, *, allow_remote: bool = False) -> None:
        """Replace the log by ``size`` bytes of ``fd`` at ``offset`` (any alignment).

        Raises MemoryTableError (C082). ``fd`` is not kept. ``allow_remote``: see MemoryRegion.
        """
    def unmap(self) -> None: ...
    @property
    def mapped(self) -> bool: ...
    @property
    def enabled(self) -> bool: ...
    @enabled.setter
    def enabled(self, value: bool) -> None:
        """Later writes of any thread are logged when this returns. Every earlier one is visible (C086)."""
    def set_notify(self, fd: int | None) -> None:
        """Take ownership of the eventfd of SET_LOG_FD, written after the log changed (C083).

        ValueError, with ``fd`` still the caller's, when it cannot be a doorbell (C067).
        """
    def mark(self, guest_address: int, length: int) -> None:
        """Mark the pages of a range written by other means than the engine.

        Pages beyond the log are ignored.
        """
    def is_dirty(self, guest_address: int) -> bool: ...

@final
class GuestMemory:
    """An immutable snapshot of the memory table; requests and rings hold the one they were made from.

    Regions are sorted here; overlapping ones in guest or user addresses raise MemoryTableError (C037), more
    than MAX_REGIONS too (C043).
    """

    def __init__(self, regions: Iterable[MemoryRegion] = (), bitmap: Bitmap | None = None) -> None: ...
    @property
    def regions(self) -> tuple[MemoryRegion, ...]: ...
    @property
    def bitmap(self) -> Bitmap | None: ...
    def with_region(self, region: MemoryRegion) -> GuestMemory: ...
    def without_region(self, guest_address: int, user_address: int, size: int) -> GuestMemory:
        """The snapshot less one region, matched by all three (C042).

        Raises MemoryTableError if there is none.
        """
    def user_to_guest(self, user_address: int, length: int = 1) -> int:
        """Guest address of a range of front-end addresses.

        Raises MemoryFault unless it lies in one region.
        """
    def is_mapped(self, guest_address: int, length: int) -> bool: ...
    def read(self, guest_address: int, length: int) -> bytes:
        """Copy out; may cross regions (C048); raises MemoryFault."""
    def write(self, guest_address: int, data: ReadableBuffer) -> None:
        """Copy in, then mark dirty; raises MemoryFault before anything is written."""
    def load(self, guest_address: int, size: int) -> int:
        """The little-endian number of ``size`` bytes (1, 2, 4 or 8) at an address that is aligned to them.

        One access that another thread or the guest cannot tear, with acquire order. Raises MemoryFault, or
        ValueError for another size or alignment.
        """
    def store(self, guest_address: int, value: int, size: int) -> None:
        """Store a number in one access with release order, then mark the page dirty. Raises as ``load``.

        OverflowError for a value that does not fit.
        """
    def find_region(self, guest_address: int) -> MemoryRegion | None:
        """The region that the address lies in."""
    def checked_offset(self, guest_address: int, offset: int) -> int | None:
        """``guest_address + offset`` if that lies in a region."""
    def get_slices(self, guest_address: int, length: int) -> list[memoryview]:
        """Writable views of a range that may cross regions, one for each of them.

        They keep their mapping alive; writes through them are not logged: call ``bitmap.mark``. Raises
        MemoryFault unless all of it is mapped.
        """
    def view(self, guest_address: int, length: int) -> memoryview:
        """A writable view of a range inside one region.

        Keeps the mapping alive; writes through it are not logged: call ``bitmap.mark``.
        """
    def close(self) -> None:
        """End of the session.

        Later accesses through this snapshot raise, the mapping goes when the last user is out and the last
        view dies (C134).
        """
    @property
    def closed(self) -> bool: ...
    @property
    def lost(self) -> bool:
        """True once any region lost its pages (see MemoryRegion.lost)."""

@final
class GuestMemoryAtomic:
    """The cell that holds the current snapshot.

    Readers take it without a lock, the control plane replaces it whole.
    """

    def __init__(self, memory: GuestMemory | None = None) -> None: ...
    def memory(self) -> GuestMemory: ...
    def replace(self, memory: GuestMemory) -> None: ...

def live_mappings() -> int:
    """Number of mappings the engine holds in this process, for leak checks."""
