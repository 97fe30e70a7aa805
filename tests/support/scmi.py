"""What tests of the SCMI platform ask of it again and again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vhost_user.devices import Sensor
from vhost_user.frontend import DeviceError, ScmiDriver
from vhost_user.spec.scmi import ScmiProtocolId

Drive = Callable[..., ScmiDriver]
BASE, SENSOR = ScmiProtocolId.BASE, ScmiProtocolId.SENSOR
SECOND = 1 << 16
"""The interval that a sensor has at first, as its configuration shows it."""
MOMENT = 0.05
"""Seconds in which nothing is expected to come."""


def status_of(call: Callable[[], object]) -> int | None:
    with pytest.raises(DeviceError) as error:
        call()
    return error.value.status


class Measuring(Sensor):
    """Nobody tells of its changes; it may fail."""

    polled = True
    broken = False

    def readings(self) -> tuple[int, ...]:
        if self.broken:
            raise OSError("the wire is cut")
        return super().readings()
