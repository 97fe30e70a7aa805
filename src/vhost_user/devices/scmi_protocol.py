"""A protocol of SCMI: its messages by their numbers. The base of those that are here, and of others."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from vhost_user.spec.scmi import ScmiHeader, ScmiMessage, ScmiStatus, ScmiType

Key: TypeAlias = tuple[Any, ...]
"""What an event is about, as plain data: events of one key are one."""


class ScmiRefusal(Exception):  # noqa: N818  # it is an answer
    """The answer is this status, and nothing else."""

    def __init__(self, status: ScmiStatus) -> None:
        super().__init__(status.name)
        self.status = status


@dataclass
class Command:
    """A command of the guest."""

    header: ScmiHeader
    parameters: bytes
    room: int
    """Bytes that the answer may have behind its status."""
    events: bool
    """P2A_CHANNELS was negotiated: there are notifications and delayed responses."""
    afterwards: list[Key] = field(default_factory=list)
    """Events that follow the answer."""

    def words(self, count: int) -> tuple[int, ...]:
        """The parameters. PROTOCOL_ERROR if there are not so many."""
        if len(self.parameters) != 4 * count:
            raise ScmiRefusal(ScmiStatus.PROTOCOL_ERROR)
        return struct.unpack(f"<{count}I", self.parameters)


class Platform(Protocol):
    """What a protocol uses of the device it belongs to."""

    def tell(self, protocol: ScmiProtocol, key: Key) -> None:
        """An event has happened: it is told as soon as there is a buffer, made then by ``event``."""


Handler: TypeAlias = Callable[[Command], bytes]


class ScmiProtocol:
    """Messages with numbers from 3 on: ``self.messages[3] = self.get``. A handler gives what follows SUCCESS.

    It raises ScmiRefusal for another status. ``notifying`` are those that ask for notifications: without
    P2A_CHANNELS they do not exist.
    """

    number: int
    version: int = 0x10000
    platform: Platform

    def __init__(self) -> None:
        self.messages: dict[int, Handler] = {
            ScmiMessage.PROTOCOL_VERSION: lambda command: self._plain(command, self.version),
            ScmiMessage.PROTOCOL_ATTRIBUTES: self._attributes,
            ScmiMessage.PROTOCOL_MESSAGE_ATTRIBUTES: self._message_attributes,
        }
        self.notifying: set[int] = set()

    def attributes(self) -> bytes:
        """Behind the status of PROTOCOL_ATTRIBUTES."""
        return bytes(4)

    def event(self, key: Key) -> bytes | None:
        """The message of an event, made at the moment it is told; None: it is not to be told any more."""
        del key
        return None

    def told(self, key: Key) -> None:
        """It has been, or is not to be."""

    def resume(self, key: Key) -> None:
        """An event that was not told elsewhere is to be told here. Raises ValueError if it is none."""
        raise ValueError(f"{key!r:.80} is not an event of protocol {self.number:#x}")

    def reset(self) -> None:
        """As for a driver that begins."""

    def save_state(self) -> Any:
        """What this driver has set, as plain data."""
        return None

    def load_state(self, state: Any) -> None:
        """Go on with that. Raises ValueError for what is no such state."""
        del state

    def carry_out(self, command: Command) -> bytes:
        """What follows the status. Raises ScmiRefusal."""
        number = command.header.message
        if number not in self.messages or (number in self.notifying and not command.events):
            raise ScmiRefusal(ScmiStatus.NOT_SUPPORTED)
        return self.messages[number](command)

    def _plain(self, command: Command, number: int) -> bytes:
        command.words(0)
        return number.to_bytes(4, "little")

    def _attributes(self, command: Command) -> bytes:
        command.words(0)
        return self.attributes()

    def _message_attributes(self, command: Command) -> bytes:
        (number,) = command.words(1)
        if number not in self.messages or (number in self.notifying and not command.events):
            raise ScmiRefusal(ScmiStatus.NOT_FOUND)
        return bytes(4)


def notification(protocol: int, message: int, payload: bytes) -> bytes:
    """The message of a notification."""
    return ScmiHeader(message, protocol, ScmiType.NOTIFICATION).pack() + payload


def delayed(protocol: int, message: int, token: int, payload: bytes) -> bytes:
    """The message of a delayed response; the payload begins with its status."""
    return ScmiHeader(message, protocol, ScmiType.DELAYED_RESPONSE, token).pack() + payload


def status(code: int) -> bytes:
    """A status as it travels."""
    return struct.pack("<i", code)
