"""Console device, virtio id 3 (virtio 1.4 section 5.3)."""

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import ClassVar

from vhost_user.spec.record import Record

CONTROL_RECEIVE_QUEUE = 2
CONTROL_TRANSMIT_QUEUE = 3


def port_queues(port: int) -> tuple[int, int]:
    """Receive and transmit queue of a port: 0 and 1 for the first, from 4 on for the others."""
    first = 0 if port == 0 else 2 + 2 * port
    return first, first + 1


class ConsoleFeature(IntFlag):
    """Feature bits of the console."""

    SIZE = 1 << 0
    MULTIPORT = 1 << 1
    EMERG_WRITE = 1 << 2


class ConsoleEvent(IntEnum):
    """Events of the control queues."""

    DEVICE_READY = 0
    DEVICE_ADD = 1
    DEVICE_REMOVE = 2
    PORT_READY = 3
    CONSOLE_PORT = 4
    RESIZE = 5
    PORT_OPEN = 6
    PORT_NAME = 7


@dataclass(frozen=True, slots=True)
class ConsoleConfig(Record):
    """Configuration space; ``emerg_wr`` is written by the driver."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<HHII")
    cols: int = 0
    rows: int = 0
    max_nr_ports: int = 1
    emerg_wr: int = 0


@dataclass(frozen=True, slots=True)
class ConsoleControl(Record):
    """A control message; RESIZE and PORT_NAME carry more bytes behind it."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<IHH")
    id: int
    event: int
    value: int


@dataclass(frozen=True, slots=True)
class ConsoleResize(Record):
    """What follows a RESIZE message."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<HH")
    cols: int
    rows: int
