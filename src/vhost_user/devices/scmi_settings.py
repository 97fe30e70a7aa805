"""What a guest has set of a sensor, and how that goes along with a migration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vhost_user.devices.scmi_sensor import MOST_TRIP_POINTS, Sensor
from vhost_user.spec.scmi import SensorConfigBit

INTERVALS = ((1, -1), (1, 0), (1, 1))
"""Update intervals of a sensor that is polled: so many times ten to that power, in seconds."""

_NEARLY = 1 - 1e-9
"""A tenth of a second may be written in several ways."""


@dataclass
class Settings:
    """What the guest has set of a sensor."""

    enabled: bool = True
    timestamps: bool = False
    interval: int = 1
    """Which of INTERVALS."""
    updates: bool = False
    """It wants to hear of changes."""
    crossings: bool = False
    """It wants to hear of trip points."""
    trip_points: dict[int, list[int]] = field(default_factory=dict)
    """The number of each that is set, with its directions and its value."""
    last: int | None = None
    """The value that was seen last."""


def saved(sensor: Sensor, settings: Settings) -> Any:
    """All of it, and the values of a model."""
    return {
        "name": sensor.name,
        "flags": [settings.enabled, settings.timestamps, settings.updates, settings.crossings],
        "interval": settings.interval,
        "trip_points": [[point, *values] for point, values in settings.trip_points.items()],
        "last": settings.last,
        "shown": list(sensor.shown),
    }


def loaded(sensor: Sensor, state: Any) -> tuple[Settings, tuple[int, ...]]:
    """Settings and values out of a state, which may be anything. Raises ValueError."""
    wrong = ValueError(f"{state!r:.80} is not the state of sensor {sensor.name}")
    if not isinstance(state, dict) or state.get("name") != sensor.name:
        raise wrong
    flags, interval, points = (state.get(name) for name in ("flags", "interval", "trip_points"))
    last, shown = state.get("last"), state.get("shown")
    if not (isinstance(flags, list) and [type(flag) for flag in flags] == [bool] * 4):
        raise wrong
    if type(interval) is not int or not 0 <= interval < len(INTERVALS) or not isinstance(points, list):
        raise wrong
    if not (last is None or is_value(last)) or len(points) > MOST_TRIP_POINTS:
        raise wrong
    if not (isinstance(shown, list) and len(shown) == len(sensor.shown) and all(map(is_value, shown))):
        raise wrong
    for point in points:
        if not (isinstance(point, list) and len(point) == 3 and all(map(is_value, point))):
            raise wrong
        if not (0 <= point[0] < sensor.trip_points and 1 <= point[1] <= 3):
            raise wrong
    enabled, timestamps, updates, crossings = flags
    trip_points = {point: values for point, *values in points}
    settings = Settings(enabled, timestamps, interval, updates, crossings, trip_points, last)
    return settings, tuple(shown)


def seconds(interval: int) -> float:
    """One of INTERVALS."""
    count, power = INTERVALS[interval]
    return count * 10.0**power


def is_value(number: object) -> bool:
    """Whether this is a number of 64 bits."""
    return type(number) is int and -(1 << 63) <= number < 1 << 63


def rounded(wanted: float, config: int) -> int:
    """The interval that is nearest to this one, or the next longer or shorter, as the configuration says."""
    numbers = range(len(INTERVALS))
    if config & SensorConfigBit.ROUND_TO_NEAREST:
        return min(numbers, key=lambda number: abs(seconds(number) - wanted))
    if config & SensorConfigBit.ROUND_UP:
        return next((number for number in numbers if seconds(number) >= wanted * _NEARLY), numbers[-1])
    return max((number for number in numbers if seconds(number) <= wanted / _NEARLY), default=0)
