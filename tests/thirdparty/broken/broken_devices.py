"""Entry points that lead to something else than a description of that name."""

from dataclasses import dataclass

from vhost_user.device_types import DeviceType, option


@dataclass(frozen=True)
class Nothing:
    """No options."""


@dataclass(frozen=True)
class Greedy:
    fd: int = option(3, help="a name that every device has")


NUMBER = 7
EMPTY = DeviceType(name="empty", title="nothing to serve")
ABSENT = DeviceType(name="absent", title="a class that is not there", device="broken_devices:Absent")
FAILING = DeviceType(name="failing", title="a mistake", options=Nothing, build=lambda _options: 1 // 0)
GREEDY = DeviceType(name="greedy", title="takes our options", options=Greedy, build=lambda _options: None)
DEVICE_TYPE = DeviceType(name="rng", title="not the one that is meant")
