"""Reports of input devices, short to write, and a driver that looks at them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import pytest

from vhost_user.frontend import InputDriver, PeerTimeout
from vhost_user.spec.input import EVENT_QUEUE, InputEvent
from vhost_user.spec.input_codes import Absolute, EventType, Synchronization
from vhost_user.testing.virtio import VirtioDevice

KEY, REL, ABS, SYN = EventType.EV_KEY, EventType.EV_REL, EventType.EV_ABS, EventType.EV_SYN
X, Y, SLOT = Absolute.ABS_MT_POSITION_X, Absolute.ABS_MT_POSITION_Y, Absolute.ABS_MT_SLOT
ID = Absolute.ABS_MT_TRACKING_ID
AttachInput: TypeAlias = Callable[..., VirtioDevice]
DriveInput: TypeAlias = Callable[..., InputDriver]


def resume(driver: InputDriver, queue: int = EVENT_QUEUE) -> None:
    driver.start_queue(queue)
    driver.frontend.set_vring_enable(queue, True)


def key(code: int, value: int) -> list[InputEvent]:
    return [InputEvent(KEY, code, value)]


def taps(*codes: int) -> list[list[InputEvent]]:
    return [key(code, value) for code in codes for value in (1, 0)]


def reports(driver: InputDriver, count: int) -> list[list[InputEvent]]:
    return [driver.report() for _ in range(count)]


def quiet(driver: InputDriver) -> None:
    """Nothing comes, not even after the device has answered something else."""
    driver.send(InputEvent(SYN, Synchronization.SYN_REPORT, 0))
    with pytest.raises(PeerTimeout):
        driver.events(minimum=1, timeout=0.02)


def told(events: list[InputEvent]) -> dict[int, int]:
    return {event.code: event.value for event in events if event.type == KEY}


def absolute(*pairs: tuple[int, int]) -> list[InputEvent]:
    return [InputEvent(ABS, axis, value) for axis, value in pairs]
