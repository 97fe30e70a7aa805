"""A sound device in this process with its driver, and a clock that stands until a test moves it."""

from __future__ import annotations

import random
from typing import Any

from tests.support.front_end import until
from vhost_user.devices import PcmFormat, Sound
from vhost_user.frontend import Pending, SoundDriver
from vhost_user.spec.sound import PcmStatus, SoundStatus

PERIOD = 1920
"""Bytes: 10 ms of 48,000 frames of two samples of 16 bits."""
FRAME = 4
SOUND = random.Random(25).randbytes(20 * PERIOD)
PARAMETERS = {
    "buffer_bytes": 7680,
    "period_bytes": 1920,
    "features": 0,
    "channels": 2,
    "format": 5,
    "rate": 7,
}
"""What a stream may be set to, in the fields of the request."""
OK = PcmStatus(SoundStatus.OK)


class Card:
    """A device and its driver."""

    def __init__(self, device: Sound, driver: SoundDriver) -> None:
        self.device = device
        self.driver = driver

    def after(self, *, frames: int) -> None:
        """So many frames later, at 48,000 in a second."""
        self.device.clock.travel(self.device.clock.now() + PcmFormat().nanoseconds(frames))

    def play(self, *parts: bytes, stream: int = 0) -> list[Pending]:
        """Give it buffers, and wait until it has them."""
        before = len(self.device.streams[stream].buffers)
        pending = [self.driver.play(stream, part) for part in parts]
        self.has(before + len(parts), stream)
        return pending

    def record(self, *sizes: int, stream: int = 1) -> list[Pending]:
        before = len(self.device.streams[stream].buffers)
        pending = [self.driver.record(stream, size) for size in sizes]
        self.has(before + len(sizes), stream)
        return pending

    def has(self, count: int, stream: int = 0) -> None:
        until(lambda: len(self.device.streams[stream].buffers) == count, f"the device has {count} buffers")

    def ready(self, stream: int = 0, **parameters: Any) -> None:
        self.driver.set_params(stream, **parameters)
        self.driver.prepare(stream)


def done(*pending: Pending) -> list[bool]:
    for each in pending:
        each._queue.reap()  # type: ignore[attr-defined]  # a queue of the driver
    return [each.done for each in pending]


def pieces(data: bytes, size: int = PERIOD) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]
