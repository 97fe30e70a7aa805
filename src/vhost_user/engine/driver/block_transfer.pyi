"""Many blocks of a disk read, or compared with what they ought to be, without the GIL.

``BlockDriver.read_blocks`` and ``BlockDriver.first_difference`` are the way to use it.
"""

from typing import final

from _typeshed import ReadableBuffer

from vhost_user.engine.driver.queue import DriverQueue

@final
class BlockTransfer:
    def __init__(
        self,
        queue: DriverQueue,
        buffer: ReadableBuffer,
        *,
        sector: int = 0,
        compare: bool = False,
        depth: int = 32,
        block_size: int = 4096,
        polling: bool = False,
    ) -> None: ...
    def run(self, seconds: float) -> bool: ...
    def stop(self) -> None: ...
    def close(self) -> None: ...
    @property
    def queue(self) -> DriverQueue: ...
    @property
    def depth(self) -> int:
        """Requests in flight at most, after the ring's size was taken into account."""
    @property
    def block_size(self) -> int: ...
    @property
    def size(self) -> int:
        """Bytes in all."""
    @property
    def completed(self) -> int:
        """Requests answered."""
    @property
    def error_status(self) -> int:
        """Status of the first request that failed, -1 for none; 0 when its used length was wrong (V014)."""
    @property
    def error_offset(self) -> int:
        """Where that request was, in bytes from the start of the transfer."""
    @property
    def error_length(self) -> int:
        """The used length of that request."""
    @property
    def differs(self) -> bool: ...
    @property
    def difference(self) -> int:
        """The first byte that differs, from the start of the transfer, if ``differs``."""
