"""The sensor protocol of SCMI (Arm DEN 0056, 4.7): descriptions, readings, trip points, updates."""

from __future__ import annotations

import logging
import struct
import time
from collections.abc import Iterable, Sequence
from typing import Any

from vhost_user.devices.scmi_protocol import (
    Command,
    Key,
    ScmiProtocol,
    ScmiRefusal,
    delayed,
    notification,
    status,
)
from vhost_user.devices.scmi_sensor import Sensor
from vhost_user.devices.scmi_settings import INTERVALS, Settings, is_value, loaded, rounded, saved, seconds
from vhost_user.protocol.limited_log import LimitedLog
from vhost_user.spec.scmi import (
    NAME_SIZE,
    TRIP_DIRECTION,
    ScmiEvent,
    ScmiProtocolId,
    ScmiSensor,
    ScmiStatus,
    SensorConfigBit,
    SensorDescriptor,
    SensorHigh,
    SensorLow,
    SensorRange,
    SensorReading,
    TripPoint,
    five_bits,
    from_five_bits,
)

_report = LimitedLog(logging.getLogger(__name__))

PLATFORM = 0
"""Who caused an event: not the guest, which is agent 1."""
MOST_DELAYED = 16
"""Delayed responses under way; more are BUSY."""
MOST_SENSORS = 0xFFFF
_KNOWN_CONFIG = 0xFFFF_FE00 | int(SensorConfigBit.ENABLED | SensorConfigBit.TIMESTAMPS)
_NANOSECONDS = -9
_MOST_AT_ONCE = 0xFFF
_WORD = 4
_EVENTS: dict[str, tuple[int, ...]] = {
    "update": (), "crossing": (TRIP_DIRECTION | 0xFF,), "delayed": (0x3FF,),
}  # fmt: skip
"""Events by their kinds; each is about a sensor, and has such details at most."""


class SensorProtocol(ScmiProtocol):
    """Protocol 0x15, version 3.0. Raises ValueError for two sensors of one name, or too many."""

    number = ScmiProtocolId.SENSOR
    version = 0x30000

    def __init__(self, sensors: Sequence[Sensor]) -> None:
        super().__init__()
        if len({sensor.name for sensor in sensors}) != len(sensors) or len(sensors) > MOST_SENSORS:
            raise ValueError(f"{len(sensors)} sensors: each has a name of its own, {MOST_SENSORS} at most")
        self.sensors = tuple(sensors)
        self.measuring = [number for number, each in enumerate(sensors) if each.polled]
        """Those that nobody tells of: their numbers."""
        self.settings = [Settings() for _ in sensors]
        self._under_way: list[tuple[int, int]] = []
        self.messages |= {
            ScmiSensor.DESCRIPTION_GET: self._descriptions,
            ScmiSensor.TRIP_POINT_NOTIFY: self._notify_crossings,
            ScmiSensor.TRIP_POINT_CONFIG: self._set_trip_point,
            ScmiSensor.READING_GET: self._reading,
            ScmiSensor.AXIS_DESCRIPTION_GET: self._axes,
            ScmiSensor.LIST_UPDATE_INTERVALS: self._intervals,
            ScmiSensor.CONFIG_GET: self._config,
            ScmiSensor.CONFIG_SET: self._set_config,
            ScmiSensor.CONTINUOUS_UPDATE_NOTIFY: self._notify_updates,
        }
        self.notifying = {
            ScmiSensor.TRIP_POINT_NOTIFY,
            ScmiSensor.TRIP_POINT_CONFIG,
            ScmiSensor.CONTINUOUS_UPDATE_NOTIFY,
        }

    def attributes(self) -> bytes:
        """The number of sensors, of delayed responses, and no shared memory."""
        return struct.pack("<4I", len(self.sensors) | MOST_DELAYED << 16, 0, 0, 0)

    def reset(self) -> None:
        """All sensors are enabled, and nobody is told anything."""
        self.settings = [Settings() for _ in self.sensors]
        self._under_way.clear()

    # Commands

    def _of(self, number: int) -> tuple[Sensor, Settings]:
        if number >= len(self.sensors):
            raise ScmiRefusal(ScmiStatus.NOT_FOUND)
        return self.sensors[number], self.settings[number]

    def _descriptions(self, command: Command) -> bytes:
        (first,) = command.words(1)
        if first > len(self.sensors):
            raise ScmiRefusal(ScmiStatus.OUT_OF_RANGE)
        numbers = range(first, len(self.sensors))
        found = (self._description(number, command.events) for number in numbers)
        return _listed(found, len(numbers), command.room, 16)

    def _description(self, number: int, events: bool) -> bytes:
        sensor = self.sensors[number]
        low = SensorLow.TIMESTAMPS | five_bits(_NANOSECONDS) << 10
        if events:
            low |= SensorLow.UPDATE_NOTIFY | SensorLow.ASYNC_READ | sensor.trip_points
        if sensor.axes:
            return SensorDescriptor(
                number, low, SensorHigh.AXES | len(sensor.axes) << 16, sensor.name.encode()
            ).pack()
        if sensor.limits is not None:
            low |= SensorLow.EXTENDED
        plain = SensorDescriptor(number, low, _measure(sensor), sensor.name.encode()).pack()
        return plain if sensor.limits is None else plain + bytes(4) + _range(sensor)

    def _axes(self, command: Command) -> bytes:
        number, first = command.words(2)
        sensor, _ = self._of(number)
        if not sensor.axes:
            raise ScmiRefusal(ScmiStatus.NOT_SUPPORTED)
        if first > len(sensor.axes):
            raise ScmiRefusal(ScmiStatus.OUT_OF_RANGE)
        extended = sensor.limits is not None
        found = [
            SensorDescriptor(axis, SensorLow.EXTENDED * extended, _measure(sensor), name.encode()).pack()
            + (_range(sensor) if extended else b"")
            for axis, name in enumerate(sensor.axis_names)
        ][first:]
        return _listed(found, len(found), command.room, 26)

    def _intervals(self, command: Command) -> bytes:
        number, first = command.words(2)
        self._of(number)
        if first > len(INTERVALS):
            raise ScmiRefusal(ScmiStatus.OUT_OF_RANGE)
        found = [struct.pack("<I", count << 5 | five_bits(power)) for count, power in INTERVALS[first:]]
        return _listed(found, len(found), command.room, 16)

    def _reading(self, command: Command) -> bytes:
        number, flags = command.words(2)
        _, settings = self._of(number)
        if flags & ~1:
            raise ScmiRefusal(ScmiStatus.INVALID_PARAMETERS)
        if not settings.enabled:
            raise ScmiRefusal(ScmiStatus.PROTOCOL_ERROR)
        if not flags:
            return self._readings(number, ScmiRefusal(ScmiStatus.HARDWARE_ERROR))
        if not command.events:
            raise ScmiRefusal(ScmiStatus.NOT_SUPPORTED)
        key = (number, command.header.token)
        if len(self._under_way) >= MOST_DELAYED or key in self._under_way:
            raise ScmiRefusal(ScmiStatus.BUSY)
        self._under_way.append(key)
        command.afterwards.append(("delayed", *key))
        return b""

    def _readings(self, number: int, failure: Exception) -> bytes:
        try:
            values = self.sensors[number].readings()
        except OSError as error:
            _report.warning("sensor %s cannot be read: %s", self.sensors[number].name, error)
            raise failure from error
        timestamp = time.monotonic_ns() if self.settings[number].timestamps else 0
        return b"".join(SensorReading(value, timestamp).pack() for value in values)

    def _config(self, command: Command) -> bytes:
        _, settings = self._of(*command.words(1))
        config = SensorConfigBit.ENABLED * settings.enabled | SensorConfigBit.TIMESTAMPS * settings.timestamps
        # Of every sensor: Linux divides by it.
        count, power = INTERVALS[settings.interval]
        config |= count << 16 | five_bits(power) << 11
        return struct.pack("<I", config)

    def _set_config(self, command: Command) -> bytes:
        number, config = command.words(2)
        _, settings = self._of(number)
        if config & ~_KNOWN_CONFIG:
            raise ScmiRefusal(ScmiStatus.INVALID_PARAMETERS)
        if config >> 16:
            settings.interval = rounded((config >> 16) * 10.0 ** from_five_bits(config >> 11), config)
        settings.enabled = bool(config & SensorConfigBit.ENABLED)
        settings.timestamps = bool(config & SensorConfigBit.TIMESTAMPS)
        return b""

    # Commands about notifications

    def _switch(self, command: Command) -> tuple[int, bool]:
        number, control = command.words(2)
        self._of(number)
        if control & ~1:
            raise ScmiRefusal(ScmiStatus.INVALID_PARAMETERS)
        return number, bool(control)

    def _notify_updates(self, command: Command) -> bytes:
        number, on = self._switch(command)
        self.settings[number].updates = on
        return b""

    def _notify_crossings(self, command: Command) -> bytes:
        number, on = self._switch(command)
        if not self.sensors[number].trip_points:
            raise ScmiRefusal(ScmiStatus.NOT_SUPPORTED)
        self.settings[number].crossings = on
        return b""

    def _set_trip_point(self, command: Command) -> bytes:
        number, control, low, high = command.words(4)
        sensor, settings = self._of(number)
        point = control >> 4 & 0xFF
        if control & ~0xFF3 or point >= sensor.trip_points:
            raise ScmiRefusal(ScmiStatus.INVALID_PARAMETERS)
        (value,) = struct.unpack("<q", struct.pack("<II", low, high))
        settings.trip_points.pop(point, None)
        if directions := control & 3:
            settings.trip_points[point] = [directions, value]
            settings.last = self._value(number, settings.last)
        return b""

    def _value(self, number: int, otherwise: int | None) -> int | None:
        try:
            return self.sensors[number].readings()[0]
        except OSError:
            return otherwise

    # Events

    def until_next(self) -> float | None:
        """Seconds until polled sensors are to be looked at; None if nobody wants to hear of them."""
        wanted = [self.settings[number] for number in self.measuring]
        return min(
            (seconds(each.interval) for each in wanted if each.enabled and (each.updates or each.crossings)),
            default=None,
        )

    def look(self, number: int) -> None:
        """The value of a sensor may have changed."""
        settings = self.settings[number]
        if not settings.enabled:
            return
        if settings.trip_points:
            now, before = self._value(number, settings.last), settings.last
            settings.last = now
            if now is not None and before is not None and settings.crossings:
                self._tell_crossings(number, before, now)
        if settings.updates:
            self.platform.tell(self, ("update", number))

    def _tell_crossings(self, number: int, before: int, now: int) -> None:
        for point, (directions, value) in self.settings[number].trip_points.items():
            if before < value <= now and directions & TripPoint.POSITIVE:
                self.platform.tell(self, ("crossing", number, point | TRIP_DIRECTION))
            elif now < value <= before and directions & TripPoint.NEGATIVE:
                self.platform.tell(self, ("crossing", number, point))

    def event(self, key: Key) -> bytes | None:
        """A notification, or a delayed response."""
        kind, number, detail = (*key, 0)[:3]
        settings = self.settings[number]
        if kind == "delayed":
            try:
                payload = status(ScmiStatus.SUCCESS) + struct.pack("<I", number)
                payload += self._readings(number, ScmiRefusal(ScmiStatus.HARDWARE_ERROR))
            except ScmiRefusal as error:
                payload = status(error.status)
            return delayed(self.number, ScmiSensor.READING_GET, detail, payload)
        if kind == "crossing":
            if not settings.crossings:
                return None
            payload = struct.pack("<III", PLATFORM, number, detail)
            return notification(self.number, ScmiEvent.SENSOR_TRIP_POINT, payload)
        if not settings.updates:
            return None
        try:
            readings = self._readings(number, ScmiRefusal(ScmiStatus.HARDWARE_ERROR))
        except ScmiRefusal:
            return None
        payload = struct.pack("<II", PLATFORM, number) + readings
        return notification(self.number, ScmiEvent.SENSOR_UPDATE, payload)

    def told(self, key: Key) -> None:
        """There is room for another delayed response."""
        if key[0] == "delayed":
            self._under_way.remove(key[1:])

    def resume(self, key: Key) -> None:
        """Out of a state: it may be anything."""
        kind, *numbers = key
        details = _EVENTS.get(kind) if isinstance(kind, str) else None
        most = (len(self.sensors) - 1, *(details or ()))
        sound = details is not None and len(numbers) == len(most) and all(map(is_value, numbers))
        if not sound or not all(0 <= number <= limit for number, limit in zip(numbers, most, strict=True)):
            super().resume(key)
        if kind == "delayed":
            if len(self._under_way) >= MOST_DELAYED or tuple(numbers) in self._under_way:
                super().resume(key)
            self._under_way.append((numbers[0], numbers[1]))

    # An upgrade, a migration

    def save_state(self) -> Any:
        """What the guest has set, and the values of models."""
        return [saved(sensor, each) for sensor, each in zip(self.sensors, self.settings, strict=True)]

    def load_state(self, state: Any) -> None:
        """The same of elsewhere. Raises ValueError for what is no such state."""
        if not isinstance(state, list) or len(state) != len(self.sensors):
            raise ValueError(f"the state has other sensors than these {len(self.sensors)}")
        found = [loaded(sensor, each) for sensor, each in zip(self.sensors, state, strict=True)]
        self.settings = [settings for settings, _ in found]
        self._under_way.clear()
        for sensor, (_, shown) in zip(self.sensors, found, strict=True):
            sensor.shown = shown


def _measure(sensor: Sensor) -> int:
    return sensor.unit | five_bits(sensor.exponent) << 11


def _range(sensor: Sensor) -> bytes:
    assert sensor.limits is not None  # whoever calls has looked
    return SensorRange(sensor.resolution | five_bits(sensor.exponent) << 27, *sensor.limits).pack()


def _listed(parts: Iterable[bytes], count: int, room: int, shift: int) -> bytes:
    """As many of ``count`` parts as there is room for, behind their number and that of those which remain.

    COMMS_ERROR if that is none of them.
    """
    taken: list[bytes] = []
    room -= _WORD
    for part in parts:
        if len(part) > room or len(taken) == _MOST_AT_ONCE:
            break
        room -= len(part)
        taken.append(part)
    if room < 0 or (count and not taken):
        raise ScmiRefusal(ScmiStatus.COMMS_ERROR)
    return struct.pack("<I", len(taken) | count - len(taken) << shift) + b"".join(taken)


assert SensorDescriptor.LAYOUT.size == 12 + NAME_SIZE
