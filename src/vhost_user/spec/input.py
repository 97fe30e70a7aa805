"""Input device, virtio id 18 (virtio 1.4 section 5.8).

Event types and codes are those of Linux' evdev: ``input_codes`` and ``input_keys``. Values are signed there,
and so they are here.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from vhost_user.spec.record import Record

EVENT_QUEUE = 0
STATUS_QUEUE = 1
UNION_SIZE = 128


class InputSelect(IntEnum):
    """What the driver may ask the configuration space for."""

    UNSET = 0
    ID_NAME = 1
    ID_SERIAL = 2
    ID_DEVIDS = 3
    PROP_BITS = 0x10
    EV_BITS = 0x11
    ABS_INFO = 0x12


@dataclass(frozen=True, slots=True)
class InputConfig(Record):
    """Configuration space: the driver writes the first two bytes, then reads ``size`` bytes of ``data``."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct(f"<BBB5x{UNION_SIZE}s")
    select: int
    subsel: int
    size: int
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class InputDeviceIds(Record):
    """Answer to ID_DEVIDS."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<HHHH")
    bustype: int
    vendor: int
    product: int
    version: int


@dataclass(frozen=True, slots=True)
class InputAbsInfo(Record):
    """Answer to ABS_INFO: range and resolution of an axis."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<iiIII")
    min: int
    max: int
    fuzz: int = 0
    flat: int = 0
    res: int = 0


@dataclass(frozen=True, slots=True)
class InputEvent(Record):
    """One event; a group of them ends with SYN_REPORT."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<HHi")
    type: int
    code: int
    value: int
