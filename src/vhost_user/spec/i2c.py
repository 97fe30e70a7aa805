"""I2C device, virtio id 34 (virtio 1.4 section 5.16): one queue, no configuration space."""

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import ClassVar

from vhost_user.spec.record import Record


class I2cFeature(IntFlag):
    """Feature bits of the I2C device; Linux refuses a device without ZERO_LENGTH_REQUEST."""

    ZERO_LENGTH_REQUEST = 1 << 0


class I2cFlag(IntFlag):
    """Flags of a request; FAIL_NEXT makes a group of the requests that follow."""

    FAIL_NEXT = 1
    READ = 2


class I2cStatus(IntEnum):
    """The last byte of every request."""

    OK = 0
    ERR = 1


@dataclass(frozen=True, slots=True)
class I2cHeader(Record):
    """The first 8 bytes of a request; ``address`` is the 7-bit address shifted left by one."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<H2xI")
    address: int
    flags: int = 0
