"""Driver of the SCMI device (virtio 1.4 section 5.17): an agent that reads sensors."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, ClassVar

from vhost_user.frontend.driver import Target
from vhost_user.frontend.drivers.device import DeviceDriver
from vhost_user.frontend.errors import DeviceError
from vhost_user.spec.scmi import (
    COMMAND_QUEUE,
    EVENT_QUEUE,
    TRIP_DIRECTION,
    ScmiBase,
    ScmiEvent,
    ScmiFeature,
    ScmiHeader,
    ScmiMessage,
    ScmiProtocolId,
    ScmiSensor,
    ScmiStatus,
    ScmiType,
    SensorDescriptor,
    SensorHigh,
    SensorLow,
    SensorRange,
    SensorReading,
    SensorUnit,
    from_five_bits,
)

MESSAGE = 128
"""Bytes of a message without its header: what Linux has room for."""
BUFFERS = 4
_STATUS = 4


@dataclass(frozen=True)
class SensorDescription:
    """A sensor, or an axis of one, as the platform describes it."""

    number: int
    name: str
    unit: int
    exponent: int
    axes: int = 0
    trip_points: int = 0
    low: int = 0
    """All of ``attributes_low``."""
    range: SensorRange | None = None


@dataclass(frozen=True)
class Event:
    """What came in the event queue: a notification, or a delayed response."""

    header: ScmiHeader
    payload: bytes

    def words(self) -> tuple[int, ...]:
        """The payload as numbers of 32 bits."""
        return struct.unpack(f"<{len(self.payload) // 4}I", self.payload)


class ScmiDriver(DeviceDriver):
    """``with ScmiDriver(socket) as scmi: scmi.value(0)``. Raises DeviceError when the platform says no."""

    FEATURES: ClassVar[int] = ScmiFeature.P2A_CHANNELS
    QUEUES: ClassVar[int] = 2

    def __init__(self, target: Target, **options: Any) -> None:
        self.sensors: list[SensorDescription] = []
        self._token = 0
        self._events: list[Event] = []
        super().__init__(target, **options)

    def ready(self) -> None:
        """Leave buffers for events, ask which sensors there are."""
        if self.features & ScmiFeature.P2A_CHANNELS:
            self.queues[EVENT_QUEUE].post(ScmiHeader.SIZE + MESSAGE, count=BUFFERS)
        self.sensors = self._descriptions()

    def ask(self, protocol: int, message: int, *words: int, room: int = MESSAGE) -> bytes:
        """Send a command with 32-bit parameters; gives what follows the status of its answer."""
        self._token = (self._token + 1) & 0x3FF
        header = ScmiHeader(message, protocol, token=self._token).pack()
        parameters = struct.pack(f"<{len(words)}I", *words)
        answer = self.queues[COMMAND_QUEUE].request(header + parameters, ScmiHeader.SIZE + room)
        if len(answer) < ScmiHeader.SIZE + _STATUS or answer[: ScmiHeader.SIZE] != header:
            raise DeviceError(f"{answer.hex()} is not an answer to {header.hex()}", status=-1)
        (status,) = struct.unpack_from("<i", answer, ScmiHeader.SIZE)
        if status != ScmiStatus.SUCCESS:
            raise DeviceError(f"protocol {protocol:#x}, message {message}: status {status}", status=status)
        return answer[ScmiHeader.SIZE + _STATUS :]

    # The base protocol

    def version(self, protocol: int = ScmiProtocolId.BASE) -> tuple[int, int]:
        """Major and minor version of a protocol."""
        (word,) = struct.unpack("<I", self.ask(protocol, ScmiMessage.PROTOCOL_VERSION))
        return word >> 16, word & 0xFFFF

    def vendor(self) -> str:
        """Who made the platform."""
        return _text(self.ask(ScmiProtocolId.BASE, ScmiBase.DISCOVER_VENDOR))

    def protocols(self) -> list[int]:
        """All protocols besides the base protocol, however few the platform tells at a time."""
        found: list[int] = []
        while True:
            answer = self.ask(ScmiProtocolId.BASE, ScmiBase.DISCOVER_LIST_PROTOCOLS, len(found))
            count = int.from_bytes(answer[:4], "little")
            found += answer[4 : 4 + count]
            if not count:
                return found

    def agent(self, number: int = 0xFFFF_FFFF) -> tuple[int, str]:
        """Number and name of an agent, by default of this one."""
        answer = self.ask(ScmiProtocolId.BASE, ScmiBase.DISCOVER_AGENT, number)
        return int.from_bytes(answer[:4], "little"), _text(answer[4:])

    def notify_errors(self, on: bool = True) -> None:
        """Ask to be told of errors."""
        self.ask(ScmiProtocolId.BASE, ScmiBase.NOTIFY_ERRORS, int(on))

    def has_message(self, protocol: int, message: int) -> bool:
        """Whether the platform has this message."""
        try:
            self.ask(protocol, ScmiMessage.PROTOCOL_MESSAGE_ATTRIBUTES, message)
        except DeviceError as error:
            if error.status != ScmiStatus.NOT_FOUND:
                raise
            return False
        return True

    # Sensors

    def readings(self, sensor: int) -> list[SensorReading]:
        """What it shows: for each axis, or one."""
        return _readings(self.sensor(ScmiSensor.READING_GET, sensor, 0))

    def value(self, sensor: int = 0) -> float:
        """What a sensor without axes shows, in its unit."""
        (reading,) = self.readings(sensor)
        return float(reading.value * 10.0 ** self.sensors[sensor].exponent)

    def read_later(self, sensor: int) -> int:
        """Ask for a delayed response; gives the token that it will have."""
        self.sensor(ScmiSensor.READING_GET, sensor, 1)
        return self._token

    def axes(self, sensor: int) -> list[SensorDescription]:
        """All axes of a sensor."""
        found: list[SensorDescription] = []
        while True:
            answer = self.sensor(ScmiSensor.AXIS_DESCRIPTION_GET, sensor, len(found))
            flags = int.from_bytes(answer[:4], "little")
            found += _described(answer[4:], flags & 0x3F, axes=True)
            if not flags >> 26:
                return found

    def intervals(self, sensor: int) -> list[float]:
        """Update intervals that may be chosen, in seconds."""
        answer = self.sensor(ScmiSensor.LIST_UPDATE_INTERVALS, sensor, 0)
        words = struct.unpack(f"<{len(answer) // 4}I", answer)[1:]
        return [(word >> 5) * 10.0 ** from_five_bits(word) for word in words]

    def config(self, sensor: int) -> int:
        """The configuration."""
        return int.from_bytes(self.sensor(ScmiSensor.CONFIG_GET, sensor), "little")

    def set_config(self, sensor: int, config: int) -> None:
        """Enable or disable it, its timestamps; choose its interval."""
        self.sensor(ScmiSensor.CONFIG_SET, sensor, config)

    def set_trip_point(self, sensor: int, point: int, value: int, directions: int) -> None:
        """Set a trip point, in whole numbers as readings are; without a direction it is off."""
        low, high = struct.unpack("<II", struct.pack("<q", value))
        self.sensor(ScmiSensor.TRIP_POINT_CONFIG, sensor, point << 4 | directions, low, high)

    def notify_crossings(self, sensor: int, on: bool = True) -> None:
        """Ask to be told of trip points."""
        self.sensor(ScmiSensor.TRIP_POINT_NOTIFY, sensor, int(on))

    def notify_updates(self, sensor: int, on: bool = True) -> None:
        """Ask to be told of values."""
        self.sensor(ScmiSensor.CONTINUOUS_UPDATE_NOTIFY, sensor, int(on))

    def sensor(self, message: int, *words: int) -> bytes:
        """A command of the sensor protocol."""
        return self.ask(ScmiProtocolId.SENSOR, message, *words)

    def _descriptions(self) -> list[SensorDescription]:
        found: list[SensorDescription] = []
        while True:
            answer = self.sensor(ScmiSensor.DESCRIPTION_GET, len(found))
            flags = int.from_bytes(answer[:4], "little")
            found += _described(answer[4:], flags & 0xFFF, axes=False)
            if not flags >> 16:
                return found

    # Events

    def wait_event(self, *, timeout: float | None = None) -> Event:
        """The next event. Raises PeerTimeout."""
        queue = self.queues[EVENT_QUEUE]
        if not self._events:
            came = queue.completed(minimum=1, timeout=timeout)
            for pending in came:
                data = pending.written
                pending.release()
                self._events.append(
                    Event(ScmiHeader.unpack(data[: ScmiHeader.SIZE]), data[ScmiHeader.SIZE :])
                )
            queue.post(ScmiHeader.SIZE + MESSAGE, count=len(came))
        return self._events.pop(0)

    def wait_update(self, *, timeout: float | None = None) -> tuple[int, list[int]]:
        """Wait for new values: the sensor, and what it shows. Raises DeviceError for another event."""
        event = self._expected(ScmiType.NOTIFICATION, ScmiEvent.SENSOR_UPDATE, timeout)
        return event.words()[1], [reading.value for reading in _readings(event.payload[8:])]

    def wait_crossing(self, *, timeout: float | None = None) -> tuple[int, int, bool]:
        """Wait for a trip point: sensor, point, whether upwards. Raises DeviceError for another event."""
        event = self._expected(ScmiType.NOTIFICATION, ScmiEvent.SENSOR_TRIP_POINT, timeout)
        _, sensor, detail = event.words()
        return sensor, detail & 0xFF, bool(detail & TRIP_DIRECTION)

    def wait_reading(self, *, timeout: float | None = None) -> tuple[int, int, list[int]]:
        """Wait for a delayed response: token, sensor and values. Raises DeviceError for its status, too."""
        event = self._expected(ScmiType.DELAYED_RESPONSE, ScmiSensor.READING_GET, timeout)
        (status,) = struct.unpack_from("<i", event.payload)
        if status != ScmiStatus.SUCCESS:
            raise DeviceError(f"a delayed response has status {status}", status=status)
        return (
            event.header.token,
            event.words()[1],
            [reading.value for reading in _readings(event.payload[8:])],
        )

    def _expected(self, kind: ScmiType, message: int, timeout: float | None) -> Event:
        event = self.wait_event(timeout=timeout)
        header = event.header
        if (header.type, header.protocol, header.message) != (kind, ScmiProtocolId.SENSOR, message):
            raise DeviceError(f"{event} is not the event that was waited for")
        return event


def _text(data: bytes) -> str:
    return data.partition(b"\0")[0].decode("ascii", "replace")


def _readings(data: bytes) -> list[SensorReading]:
    size = SensorReading.SIZE
    return [SensorReading.unpack(data[at : at + size]) for at in range(0, len(data), size)]


def _described(data: bytes, count: int, *, axes: bool) -> list[SensorDescription]:
    found = []
    for _ in range(count):
        each, data = SensorDescriptor.unpack(data[: SensorDescriptor.SIZE]), data[SensorDescriptor.SIZE :]
        low, high = each.attributes_low, each.attributes_high
        axis_count = high >> 16 & 0x3F if not axes and high & SensorHigh.AXES else 0
        extent = None
        if low & SensorLow.EXTENDED:
            if not axes:
                data = data[4:]  # its power
            if not axis_count:
                extent, data = SensorRange.unpack(data[: SensorRange.SIZE]), data[SensorRange.SIZE :]
        exponent, unit = from_five_bits(high >> 11), high & 0xFF
        if axis_count:
            exponent, unit = 0, SensorUnit.NONE
        found.append(
            SensorDescription(each.id, _text(each.name), unit, exponent, axis_count, low & 0xFF, low, extent)
        )
    return found
