"""Many blocks of a disk read, or compared with what they ought to be, without the GIL.

``BlockDriver.read_blocks`` and ``BlockDriver.first_difference`` are the way to use it.
"""

from typing import final

from _typeshed import ReadableBuffer

from vhost_user.engine.driver import DriverQueue

@final
class BlockTransfer:
    """Reads ``len(buffer)`` bytes from ``sector`` on, ``depth`` requests of ``block_size`` bytes in flight.

    The data goes into ``buffer``; with ``compare`` it is compared with it instead, and the transfer ends at
    the first block that differs. ``depth`` is an upper limit: as many as the ring has room for. ``polling``
    spins on the used ring; else the call eventfd is waited for, one signal for half of what is in flight
    where the event index makes that possible. The queue must be idle and belongs to the transfer from the
    first ``run`` to ``close``. Raises ValueError for sizes that are not whole sectors, BufferError for a
    buffer that cannot be written, MemoryError when the driver's memory is too small.
    """

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
    def run(self, seconds: float) -> bool:
        """Go on for about ``seconds`` at most, GIL released; True when all is done and nothing in flight.

        Raises DeviceBroken.
        """
    def stop(self) -> None:
        """Submit nothing any more: ``run`` then only takes back what is in flight."""
    def close(self) -> None:
        """Give memory and queue back.

        With requests still in flight both stay taken: the device may write to them at any time.
        """
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
