"""A bus for the CAN device that a test holds in its hand."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from vhost_user.devices import CanBus, CanFrame, ModelBus


class SlowBus(CanBus):
    """Keeps what it was sent; while it is closed to frames, it takes none."""

    def __init__(self) -> None:
        self.sent: list[CanFrame] = []
        self.open = threading.Event()
        self.open.set()
        self.asked = threading.Event()
        self.busy = False
        self.frames = ModelBus()
        self.error: Exception | None = None

    def send(self, frame: CanFrame) -> None:
        self.asked.set()
        if self.error is not None:
            raise self.error
        self.busy = True
        taken = self.open.wait(0.05)
        self.busy = False
        if not taken:
            raise OSError("full")
        self.sent.append(frame)

    def recv(self, timeout: float) -> CanFrame | None:
        return self.frames.recv(timeout)

    def close(self) -> None:
        pass


def raise_once(function: Callable[..., Any], error: Exception) -> Callable[..., Any]:
    errors = [error]

    def call(*arguments: Any) -> Any:
        if errors:
            raise errors.pop()
        return function(*arguments)

    return call
