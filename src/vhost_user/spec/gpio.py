"""GPIO device, virtio id 41 (virtio 1.4 section 5.18)."""

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import ClassVar

from vhost_user.spec.record import Record

REQUEST_QUEUE = 0
EVENT_QUEUE = 1


class GpioFeature(IntFlag):
    """Feature bits of the GPIO device."""

    IRQ = 1 << 0


class GpioRequestType(IntEnum):
    """What a request asks for."""

    GET_LINE_NAMES = 1
    GET_DIRECTION = 2
    SET_DIRECTION = 3
    GET_VALUE = 4
    SET_VALUE = 5
    SET_IRQ_TYPE = 6


class GpioStatus(IntEnum):
    """The first byte of an answer."""

    OK = 0
    ERR = 1


class GpioDirection(IntEnum):
    """Direction of a line."""

    NONE = 0
    OUT = 1
    IN = 2


class GpioIrqType(IntEnum):
    """When a line interrupts."""

    NONE = 0
    EDGE_RISING = 1
    EDGE_FALLING = 2
    EDGE_BOTH = 3
    LEVEL_HIGH = 4
    LEVEL_LOW = 8


class GpioIrqStatus(IntEnum):
    """The answer to a buffer of the event queue; INVALID returns it because the interrupt was turned off."""

    INVALID = 0
    VALID = 1


@dataclass(frozen=True, slots=True)
class GpioConfig(Record):
    """Configuration space; ``gpio_names_size`` in bytes."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<H2xI")
    ngpio: int
    gpio_names_size: int = 0


@dataclass(frozen=True, slots=True)
class GpioRequest(Record):
    """A request of the request queue."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<HHI")
    type: int
    gpio: int
    value: int = 0


@dataclass(frozen=True, slots=True)
class GpioResponse(Record):
    """Its answer; the names of GET_LINE_NAMES stand where ``value`` is."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<BB")
    status: int
    value: int = 0


@dataclass(frozen=True, slots=True)
class GpioIrqRequest(Record):
    """A buffer of the event queue: waits for one interrupt of the line, which is masked without it."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<H")
    gpio: int
