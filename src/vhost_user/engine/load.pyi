"""A load of block requests on one queue, kept up without the GIL.

``vhost_user.frontend.load`` is the way to use it.
"""

from typing import final

from vhost_user.engine.driver import DriverQueue

def bucket_limit(bucket: int) -> int:
    """The largest latency in nanoseconds that a bucket of the histogram stands for; 32 buckets an octave."""

@final
class BlockLoad:
    """Reads and writes of ``block_size`` bytes, ``depth`` in flight, in ``span`` bytes from ``offset`` on.

    Ends after ``seconds`` or ``requests``, whichever comes first, or when ``stop`` is called. ``polling``
    spins on the used ring, else the call eventfd is waited for. ``indirect`` None uses indirect tables only
    where the ring is too small. With ``verify`` what was written in this run is checked when it is read
    again. The device is shown ``batch`` requests at a time (0: all that are free). Raises ValueError for
    what makes no sense.
    """

    def __init__(
        self,
        queue: DriverQueue,
        *,
        depth: int = 32,
        block_size: int = 4096,
        span: int,
        offset: int = 0,
        read_percent: int = 100,
        random: bool = True,
        seconds: float | None = None,
        requests: int | None = None,
        polling: bool = True,
        indirect: bool | None = None,
        seed: int = 1,
        verify: bool = False,
        stall_seconds: float = 10.0,
        batch: int = 0,
    ) -> None: ...
    def run(self) -> None:
        """Carry the load out, GIL released; once. Raises DeviceBroken."""
    def stop(self) -> None:
        """End it from another thread."""
    def buckets(self) -> dict[int, int]:
        """Latencies: upper limit in nanoseconds → number of requests."""
    @property
    def queue(self) -> DriverQueue: ...
    @property
    def completed(self) -> int:
        """Requests answered so far; may be read while it runs."""
    @property
    def submitted(self) -> int: ...
    @property
    def reads(self) -> int: ...
    @property
    def writes(self) -> int: ...
    @property
    def errors(self) -> int:
        """Answers with a status other than OK."""
    @property
    def length_errors(self) -> int:
        """Answers whose used length was not what was transferred (V014)."""
    @property
    def mismatches(self) -> int:
        """Blocks read that did not hold what was written to them."""
    @property
    def verified(self) -> int: ...
    @property
    def elapsed(self) -> int:
        """Nanoseconds."""
    @property
    def stalled(self) -> bool:
        """No answer came for ``stall_seconds`` although requests were in flight."""
    @property
    def first_error_status(self) -> int: ...
    @property
    def first_error_block(self) -> int: ...
