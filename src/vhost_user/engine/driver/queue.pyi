"""The driver's side of a virtqueue in memory of our own: what split and packed rings have in common.

Make one with ``SplitDriverQueue`` or ``PackedDriverQueue``. The device is not trusted: what it returns is
judged by the driver's own record (V053 to V055), and a device that breaks a rule raises DeviceBroken from
then on. Addresses are guest addresses, lengths bytes. A queue may be used by several threads, one at a time
each call.
"""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from vhost_user.engine.driver.lent import LentBuffers
from vhost_user.engine.driver.memory import DriverMemory

MAX_QUEUE_SIZE: int

class DriverQueue(LentBuffers):
    def __init__(
        self,
        memory: DriverMemory,
        size: int,
        *,
        index: int = 0,
        event_idx: bool = False,
        indirect: bool = False,
        in_order: bool = False,
        start: int = 0,
        polled_kicks: bool = False,
        polled_calls: bool = False,
    ) -> None: ...
    @property
    def base(self) -> int: ...
    def add(
        self,
        readable: Sequence[tuple[int, int]] = (),
        writable: Sequence[tuple[int, int]] = (),
        *,
        indirect: bool = False,
        direct: int = 0,
    ) -> int: ...
    def publish(self) -> None: ...
    def needs_kick(self) -> bool: ...
    def kick(self, force: bool = False) -> bool: ...
    def poll(self) -> tuple[int, int] | None: ...
    def poll_many(self, limit: int = 1024) -> list[tuple[int, int]]: ...
    def enable_notifications(self) -> bool: ...
    def disable_notifications(self) -> None: ...
    def wait(self, timeout: float | None = None) -> bool: ...
    def call_count(self) -> int: ...
    def describe(self) -> str: ...
    def reset(self, start: int = 0) -> None: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...
