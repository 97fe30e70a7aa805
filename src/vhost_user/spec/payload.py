"""Message header, limits, base of every payload ("Message specification"); in native byte order (C021)."""

import struct
from dataclasses import dataclass, fields
from enum import IntFlag
from typing import ClassVar

from vhost_user.spec.record import Record

PROTOCOL_VERSION = 1
VERSION_MASK = 0x3
MAX_PAYLOAD_SIZE = 4096
"""Bytes of payload that a message may have at most (C007)."""
MAX_FDS = 8
"""File descriptors that a message may carry at most, in either direction (C010)."""
MAX_REGIONS = 8
"""Regions of one SET_MEM_TABLE (C035)."""
MAX_CONFIG_END = 4096
"""Offset plus size of a config access may not pass this (H37)."""
NO_FD_BIT = 1 << 8
"""In the payload of SET_VRING_KICK, CALL and ERR: no file descriptor comes along (C014)."""
VRING_INDEX_MASK = 0xFF


class HeaderFlag(IntFlag):
    """Flags of the header above the two version bits (C002 to C005)."""

    REPLY = 1 << 2
    NEED_REPLY = 1 << 3


# Plain numbers: the complement of an IntFlag has only bits that have a name.
KNOWN_FLAGS = int(VERSION_MASK | HeaderFlag.REPLY | HeaderFlag.NEED_REPLY)
REPLY_FLAGS = int(PROTOCOL_VERSION | HeaderFlag.REPLY)
"""The only flags a reply may have (C003)."""


@dataclass(frozen=True, slots=True)
class Header(Record):
    """The 12 bytes before every payload (C001). ``size`` counts the payload only, in bytes."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=III")
    request: int
    flags: int
    size: int


class Payload(Record):
    """What follows the header; base of every message payload."""

    __slots__ = ()

    @classmethod
    def fits(cls, size: int) -> bool:
        """Whether a payload of this type may have ``size`` bytes (C008)."""
        return size == cls.SIZE

    @classmethod
    def size_text(cls) -> str:
        """The accepted size in words, for messages and documentation."""
        return str(cls.SIZE)

    @property
    def queue(self) -> int | None:
        """The vring index that the message is about, in full width (H05), or None."""
        return None

    def describe(self) -> str:
        """The fields on one line, for people."""
        parts = []
        for field in fields(self):  # type: ignore[arg-type]  # subclasses are dataclasses
            value = getattr(self, field.name)
            if isinstance(value, bytes):
                value = f"{len(value)} bytes {value[:16].hex(' ')}{' …' if len(value) > 16 else ''}"
            elif isinstance(value, int) and value > 0xFFFF:
                value = hex(value)
            parts.append(f"{field.name}={value}")
        return " ".join(parts)


@dataclass(frozen=True, slots=True)
class Empty(Payload):
    """No payload at all: a message of size 0."""


@dataclass(frozen=True, slots=True)
class U64(Payload):
    """One 64-bit number: feature bits, counts, and the ack of REPLY_ACK (0 is success, C093)."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=Q")
    value: int = 0
