"""Clock device, virtio id 17 (virtio 1.4 section 5.23)."""

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import ClassVar

from vhost_user.spec.record import Record

REQUEST_QUEUE = 0
ALARM_QUEUE = 1


class RtcFeature(IntFlag):
    """Feature bits of the clock device."""

    ALARM = 1 << 0


class RtcRequestType(IntEnum):
    """``msg_type`` of a request."""

    READ = 0x0001
    READ_CROSS = 0x0002
    CFG = 0x1000
    CLOCK_CAP = 0x1001
    CROSS_CAP = 0x1002
    READ_ALARM = 0x1003
    SET_ALARM = 0x1004
    SET_ALARM_ENABLED = 0x1005


ALARM_NOTIFICATION = 0x2000
"""``msg_type`` of what comes in the alarm queue."""


class RtcStatus(IntEnum):
    """The first byte of an answer."""

    OK = 0
    EOPNOTSUPP = 2
    ENODEV = 3
    EINVAL = 4
    EIO = 5


class ClockType(IntEnum):
    """What a clock shows."""

    UTC = 0
    TAI = 1
    MONOTONIC = 2
    UTC_SMEARED = 3
    UTC_MAYBE_SMEARED = 4


class Smearing(IntEnum):
    """How a smeared clock goes about leap seconds."""

    UNSPECIFIED = 0
    NOON_LINEAR = 1
    UTC_SLS = 2


class HardwareCounter(IntEnum):
    """What a cross-timestamp is taken of."""

    ARM_VCT = 0
    X86_TSC = 1


class RtcFlag(IntFlag):
    """``flags``: of CLOCK_CAP that the clock has an alarm, of alarm requests that it is enabled."""

    ALARM = 1 << 0


@dataclass(frozen=True, slots=True)
class RtcHead(Record):
    """What requests and notifications begin with."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<H6x")
    msg_type: int


@dataclass(frozen=True, slots=True)
class RtcStatusHead(Record):
    """What answers begin with."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<B7x")
    status: int


@dataclass(frozen=True, slots=True)
class RtcClockRequest(Record):
    """Behind the head of READ, CLOCK_CAP, READ_ALARM; of a notification, too."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<H6x")
    clock_id: int


@dataclass(frozen=True, slots=True)
class RtcCounterRequest(Record):
    """Behind the head of READ_CROSS and CROSS_CAP."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<HB5x")
    clock_id: int
    hw_counter: int


@dataclass(frozen=True, slots=True)
class RtcSetAlarm(Record):
    """Behind the head of SET_ALARM; ``alarm_time`` in nanoseconds."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<QHB5x")
    alarm_time: int
    clock_id: int
    flags: int = 0


@dataclass(frozen=True, slots=True)
class RtcEnableAlarm(Record):
    """Behind the head of SET_ALARM_ENABLED."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<HB5x")
    clock_id: int
    flags: int = 0


@dataclass(frozen=True, slots=True)
class RtcConfiguration(Record):
    """Behind the head of the answer to CFG."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<H6x")
    num_clocks: int


@dataclass(frozen=True, slots=True)
class RtcCapability(Record):
    """Behind the head of the answer to CLOCK_CAP."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<BBB5x")
    type: int
    leap_second_smearing: int = 0
    flags: int = 0


@dataclass(frozen=True, slots=True)
class RtcCrossCapability(Record):
    """Behind the head of the answer to CROSS_CAP."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<B7x")
    flags: int = 0


@dataclass(frozen=True, slots=True)
class RtcReading(Record):
    """Behind the head of the answer to READ, in nanoseconds."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<Q")
    clock_reading: int


@dataclass(frozen=True, slots=True)
class RtcAlarm(Record):
    """Behind the head of the answer to READ_ALARM; ``alarm_time`` in nanoseconds."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<QB7x")
    alarm_time: int
    flags: int = 0
