"""The base protocol of SCMI (Arm DEN 0056, 4.2): who is there, and what they speak."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Sequence
from typing import Any

from vhost_user.devices.scmi_protocol import Command, Key, ScmiProtocol, ScmiRefusal, notification
from vhost_user.spec.scmi import NAME_SIZE, ScmiBase, ScmiEvent, ScmiHeader, ScmiProtocolId, ScmiStatus

VENDOR = "vhost-user"
IMPLEMENTATION = 1
AGENTS = {0: "platform", 1: "OSPM"}
"""Names by their numbers; the guest is the only agent."""
_MYSELF = 0xFFFF_FFFF
_FATAL = 1 << 31
MOST_REPORTS = 8
"""Errors that one notification tells of."""


class BaseProtocol(ScmiProtocol):
    """Protocol 0x10, version 2.0; ``others`` are the numbers of all others, in any order."""

    number = ScmiProtocolId.BASE
    version = 0x20000

    def __init__(self, others: Sequence[int]) -> None:
        super().__init__()
        self.others = sorted(others)
        self.wants_errors = False
        self._fatal = False
        self._reports: deque[tuple[int, int]] = deque(maxlen=MOST_REPORTS)
        self.messages |= {
            ScmiBase.DISCOVER_VENDOR: lambda command: self._name(command, VENDOR),
            ScmiBase.DISCOVER_SUB_VENDOR: lambda command: self._name(command, ""),
            ScmiBase.DISCOVER_IMPLEMENTATION_VERSION: lambda command: self._plain(command, IMPLEMENTATION),
            ScmiBase.DISCOVER_LIST_PROTOCOLS: self._list,
            ScmiBase.DISCOVER_AGENT: self._agent,
            ScmiBase.NOTIFY_ERRORS: self._notify_errors,
        }
        self.notifying = {ScmiBase.NOTIFY_ERRORS}

    def attributes(self) -> bytes:
        """The number of protocols besides this one, and of agents."""
        return struct.pack("<I", len(self.others) | len(AGENTS) - 1 << 8)

    def reset(self) -> None:
        """Nobody is told of errors."""
        self.wants_errors = self._fatal = False
        self._reports.clear()

    def _name(self, command: Command, name: str) -> bytes:
        command.words(0)
        return name.encode().ljust(NAME_SIZE, b"\0")

    def _list(self, command: Command) -> bytes:
        (skip,) = command.words(1)
        if skip > len(self.others):
            raise ScmiRefusal(ScmiStatus.INVALID_PARAMETERS)
        rest = self.others[skip:]
        fits = (command.room - 4) // 4 * 4
        if rest and fits <= 0:
            raise ScmiRefusal(ScmiStatus.COMMS_ERROR)
        taken = rest[: max(0, fits)]
        return struct.pack("<I", len(taken)) + bytes(taken).ljust(-(-len(taken) // 4) * 4, b"\0")

    def _agent(self, command: Command) -> bytes:
        (number,) = command.words(1)
        number = max(AGENTS) if number == _MYSELF else number
        if number not in AGENTS:
            raise ScmiRefusal(ScmiStatus.NOT_FOUND)
        return struct.pack("<I", number) + AGENTS[number].encode().ljust(NAME_SIZE, b"\0")

    def _notify_errors(self, command: Command) -> bytes:
        (control,) = command.words(1)
        if control & ~1:
            raise ScmiRefusal(ScmiStatus.INVALID_PARAMETERS)
        self.wants_errors = bool(control)
        return b""

    def report(self, code: int, *, fatal: bool = False, header: ScmiHeader | None = None) -> None:
        """An error: ``code``, and the command that it happened to."""
        if not self.wants_errors:
            return
        self._fatal |= fatal
        word = 0 if header is None else int.from_bytes(header.pack(), "little")
        self._reports.append((word, code & 0xFFFF_FFFF))
        self.platform.tell(self, ("error",))

    def event(self, key: Key) -> bytes | None:
        """BASE_ERROR: all errors since the last one."""
        del key
        if not self._reports or not self.wants_errors:
            return None
        reports = b"".join(struct.pack("<II", *each) for each in self._reports)
        word = _FATAL * self._fatal | len(self._reports)
        # The platform itself, unless the guest's commands caused all of it.
        agent = max(AGENTS) if all(header for header, _ in self._reports) else 0
        payload = struct.pack("<II", agent, word) + reports
        return notification(self.number, ScmiEvent.BASE_ERROR, payload)

    def told(self, key: Key) -> None:
        """The next one has others."""
        del key
        self._reports.clear()
        self._fatal = False

    def resume(self, key: Key) -> None:
        """There is one event only."""
        if key != ("error",):
            super().resume(key)

    def save_state(self) -> Any:
        """Whether errors are wanted, and those that were not told."""
        return [self.wants_errors, self._fatal, [list(each) for each in self._reports]]

    def load_state(self, state: Any) -> None:
        """The same of elsewhere. Raises ValueError for what is no such state."""
        wrong = ValueError(f"{state!r:.80} is not the state of the base protocol")
        if not isinstance(state, list) or [type(each) for each in state] != [bool, bool, list]:
            raise wrong
        for each in state[2]:
            if not (isinstance(each, list) and [type(word) for word in each] == [int, int]):
                raise wrong
            if not all(0 <= word < 1 << 32 for word in each):
                raise wrong
        self.wants_errors, self._fatal = state[:2]
        self._reports = deque((tuple(each) for each in state[2]), maxlen=MOST_REPORTS)
