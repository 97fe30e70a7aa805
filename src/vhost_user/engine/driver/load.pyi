"""A load of block requests on one queue, kept up without the GIL.

``vhost_user.frontend.load`` is the way to use it.
"""

from typing import final

from vhost_user.engine.driver.queue import DriverQueue

@final
class BlockLoad:
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
    def run(self) -> None: ...
    def stop(self) -> None: ...
    def buckets(self) -> dict[int, int]: ...
    @property
    def queue(self) -> DriverQueue: ...
    @property
    def depth(self) -> int: ...
    @property
    def block_size(self) -> int: ...
    @property
    def completed(self) -> int: ...
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
