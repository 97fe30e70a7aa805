"""A vring of the device side: ring state, doorbells, in-flight requests, the batch loop."""

from collections.abc import Callable
from typing import Any, final

from vhost_user.engine.device.batch import Batch
from vhost_user.engine.device.fast_path import FastPath
from vhost_user.engine.device.request import Request
from vhost_user.engine.device.vring_handling import VringHandling

@final
class Vring(VringHandling):
    # by hand
    def pop(self) -> Request | None: ...
    def add_used(self, request: Request | int, written: int = -1) -> None: ...
    def put_back(self, request: Request) -> None: ...
    def go_to_previous_position(self, request: Request) -> None: ...
    def needs_notification(self) -> bool: ...
    def signal_used_queue(self) -> bool: ...
    def enable_notification(self) -> bool: ...
    def disable_notification(self) -> None: ...
    # to a handler
    def set_outcome(self, callback: Callable[[Any, Any], object] | None) -> None: ...
    def process(
        self,
        handler: Callable[[Request], object],
        on_error: Callable[[Request, BaseException], object] | None = None,
        budget: int = 1024,
        fast_path: FastPath | None = None,
        *,
        accelerator: FastPath | None = None,
    ) -> int: ...
    def process_batch(
        self,
        handler: Callable[[Batch], object],
        on_error: Callable[[Request, BaseException], object] | None = None,
        budget: int = 1024,
        fast_path: FastPath | None = None,
        *,
        size: int = 64,
        accelerator: FastPath | None = None,
    ) -> int: ...

VringMutex = Vring
VringRwLock = Vring
