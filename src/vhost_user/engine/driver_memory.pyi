"""The driver's memory: memfds that are shared with a back-end, and an allocator over them (V057)."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self, final

from _typeshed import ReadableBuffer

MAX_REGIONS: int
DEFAULT_GUEST_ADDRESS: int
USER_ADDRESS_OFFSET: int
"""Added to a guest address to make the default user address: the two must never be confused (C045)."""

@final
class DriverRegion:
    """One region of the driver's memory.

    A memfd of ``file_offset + size`` bytes, mapped shared and sealed against shrinking (V057).

    ``guest_address`` and ``user_address`` are what the memory table will say; ``file_offset`` (mmap_offset)
    may have any alignment (C036). The mapping goes at ``close`` or when the last view and queue that use it
    do. Raises MemoryTableError for a range that wraps or cannot be mapped.
    """

    def __init__(
        self,
        size: int,
        *,
        guest_address: int = 0,
        user_address: int | None = None,
        file_offset: int = 0,
        seal: bool = True,
        name: str = "vhost-user-guest",
    ) -> None: ...
    @property
    def fd(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def guest_address(self) -> int: ...
    @property
    def user_address(self) -> int: ...
    @property
    def file_offset(self) -> int: ...
    @property
    def closed(self) -> bool: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def truncate(self, size: int) -> None:
        """Cut the file, as a careless front-end does (needs ``seal=False``).

        What we still map beyond it becomes zero pages of our own (H85).
        """
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...

@final
class DriverMemory:
    """The regions of one driver and an allocator over them.

    An int means one region of that many bytes at DEFAULT_GUEST_ADDRESS.

    Addresses are guest addresses. Reads, writes and views must lie inside one region, else MemoryFault.
    """

    def __init__(self, regions: int | Sequence[DriverRegion] = ...) -> None: ...
    @property
    def regions(self) -> tuple[DriverRegion, ...]: ...
    @property
    def allocated(self) -> int:
        """Bytes handed out and not freed."""
    def add_region(self, region: DriverRegion) -> None: ...
    def remove_region(self, region: DriverRegion) -> None:
        """Take a region out; what was allocated in it is forgotten. The caller still owns (and closes) it."""
    def allocate(self, size: int, alignment: int = 16) -> int:
        """Guest address of ``size`` bytes inside one region; raises MemoryError when there is no room."""
    def free(self, address: int) -> None:
        """Give an allocation back; raises ValueError for an address that is not one."""
    def read(self, address: int, length: int) -> bytes: ...
    def write(self, address: int, data: ReadableBuffer) -> None: ...
    def fill(self, address: int, length: int, byte: int) -> None: ...
    def view(self, address: int, length: int) -> memoryview: ...
    def guest_to_user(self, address: int) -> int: ...
    def close(self) -> None:
        """Close every region."""
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...
