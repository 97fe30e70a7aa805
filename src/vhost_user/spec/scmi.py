"""SCMI device, virtio id 32 (virtio 1.4 section 5.17), and what of SCMI (Arm DEN 0056) travels in it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import ClassVar

from vhost_user.spec.record import Record

COMMAND_QUEUE = 0
EVENT_QUEUE = 1
NAME_SIZE = 16
"""Bytes of a name, with the zero behind it."""


class ScmiFeature(IntFlag):
    """Feature bits of the SCMI device."""

    P2A_CHANNELS = 1 << 0
    SHARED_MEMORY = 1 << 1


class ScmiType(IntEnum):
    """Types of messages."""

    COMMAND = 0
    DELAYED_RESPONSE = 2
    NOTIFICATION = 3


class ScmiStatus(IntEnum):
    """What a response begins with."""

    SUCCESS = 0
    NOT_SUPPORTED = -1
    INVALID_PARAMETERS = -2
    DENIED = -3
    NOT_FOUND = -4
    OUT_OF_RANGE = -5
    BUSY = -6
    COMMS_ERROR = -7
    GENERIC_ERROR = -8
    HARDWARE_ERROR = -9
    PROTOCOL_ERROR = -10


class ScmiProtocolId(IntEnum):
    """Protocols."""

    BASE = 0x10
    SENSOR = 0x15


class ScmiMessage(IntEnum):
    """Messages that every protocol has."""

    PROTOCOL_VERSION = 0
    PROTOCOL_ATTRIBUTES = 1
    PROTOCOL_MESSAGE_ATTRIBUTES = 2


class ScmiBase(IntEnum):
    """Messages of the base protocol."""

    DISCOVER_VENDOR = 3
    DISCOVER_SUB_VENDOR = 4
    DISCOVER_IMPLEMENTATION_VERSION = 5
    DISCOVER_LIST_PROTOCOLS = 6
    DISCOVER_AGENT = 7
    NOTIFY_ERRORS = 8


class ScmiSensor(IntEnum):
    """Messages of the sensor protocol."""

    DESCRIPTION_GET = 3
    TRIP_POINT_NOTIFY = 4
    TRIP_POINT_CONFIG = 5
    READING_GET = 6
    AXIS_DESCRIPTION_GET = 7
    LIST_UPDATE_INTERVALS = 8
    CONFIG_GET = 9
    CONFIG_SET = 10
    CONTINUOUS_UPDATE_NOTIFY = 11


class ScmiEvent(IntEnum):
    """Notifications: the first is of the base protocol, the others of the sensor protocol."""

    BASE_ERROR = 0
    SENSOR_TRIP_POINT = 0
    SENSOR_UPDATE = 1


class SensorLow(IntFlag):
    """``attributes_low`` of a sensor; the number of trip points is in the low byte."""

    EXTENDED = 1 << 8
    TIMESTAMPS = 1 << 9
    UPDATE_NOTIFY = 1 << 30
    ASYNC_READ = 1 << 31


class SensorHigh(IntFlag):
    """``attributes_high``: the unit in the low byte, the exponent from bit 11, the number of axes from 16."""

    AXES = 1 << 8


class SensorConfigBit(IntFlag):
    """The configuration of a sensor; the exponent of its interval is from bit 11, the interval from 16."""

    ENABLED = 1 << 0
    TIMESTAMPS = 1 << 1
    ROUND_UP = 1 << 9
    ROUND_TO_NEAREST = 1 << 10


class TripPoint(IntFlag):
    """Crossings that a trip point tells of."""

    POSITIVE = 1 << 0
    NEGATIVE = 1 << 1


TRIP_DIRECTION = 1 << 16
"""In the description of a crossing: it was a positive one. The low byte is the number of the trip point."""


class SensorUnit(IntEnum):
    """What a sensor measures in (some of the types that SCMI has)."""

    NONE = 0
    UNSPECIFIED = 1
    CELSIUS = 2
    FAHRENHEIT = 3
    KELVIN = 4
    VOLT = 5
    AMPERE = 6
    WATT = 7
    JOULE = 8
    COULOMB = 9
    LUX = 13
    RPM = 19
    HERTZ = 20
    SECOND = 21
    METER = 31
    RADIAN = 36
    GAUSS = 45
    FARAD = 48
    OHM = 49
    SIEMENS = 50
    PERCENT = 65
    PASCAL = 66
    RADIAN_PER_SECOND = 87
    METER_PER_SECOND_SQUARED = 89
    METER_PER_SECOND = 90


@dataclass(frozen=True, slots=True)
class ScmiHeader:
    """The first word of each message. The token of a command comes back with its responses."""

    SIZE: ClassVar[int] = 4
    message: int
    protocol: int
    type: int = ScmiType.COMMAND
    token: int = 0

    def pack(self) -> bytes:
        """The bytes, with bits that are not the field's own left out."""
        word = self.message & 0xFF | (self.type & 3) << 8 | (self.protocol & 0xFF) << 10
        return struct.pack("<I", word | (self.token & 0x3FF) << 18)

    @classmethod
    def unpack(cls, data: bytes) -> ScmiHeader:
        """Out of four bytes."""
        (word,) = struct.unpack("<I", data)
        return cls(word & 0xFF, word >> 10 & 0xFF, word >> 8 & 3, word >> 18 & 0x3FF)


@dataclass(frozen=True, slots=True)
class SensorDescriptor(Record):
    """A sensor in the answer to DESCRIPTION_GET, or an axis in that to AXIS_DESCRIPTION_GET."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<III16s")
    id: int
    attributes_low: int
    attributes_high: int
    name: bytes


@dataclass(frozen=True, slots=True)
class SensorRange(Record):
    """What extended attributes add to a sensor without axes, behind its power, and to an axis."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<Iqq")
    resolution: int
    minimum: int
    maximum: int


@dataclass(frozen=True, slots=True)
class SensorReading(Record):
    """A value, and its time if that is wanted."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<qQ")
    value: int
    timestamp: int = 0


def five_bits(number: int) -> int:
    """An exponent as fields have it. Raises ValueError for one that is not from -16 to 15."""
    if not -16 <= number <= 15:
        raise ValueError(f"an exponent of {number}: it must be from -16 to 15")
    return number & 0x1F


def from_five_bits(field: int) -> int:
    """The exponent in the low five bits."""
    return ((field & 0x1F) ^ 0x10) - 0x10
