"""Every message as an event: what it was, on which channel of which connection, when, with which descriptors.

The sessions of both roles make the events, for the main channel and the back channel alike. Everything else
consumes them: log lines, JSON lines, the last messages of a connection.
"""

import contextlib
import json
import logging
import os
import re
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from enum import IntFlag
from pathlib import Path
from typing import Any, TextIO

from vhost_user.engine.memory import file_system
from vhost_user.spec.structs import PROTOCOL_VERSION, U64, Header, HeaderFlag, Payload
from vhost_user.spec.table import Direction, ReplyKind, RequestRow, RequestTable

logger = logging.getLogger("vhost_user")


_EVENTFD_ID = re.compile(r"^eventfd-id:\s*(\d+)$", re.MULTILINE)
_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFBLK: "block device",
    stat.S_IFCHR: "character device",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
}


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A file descriptor as it was when its message passed.

    ``number`` is ours and is used again once it was closed. ``kind`` and ``identity`` name the open file
    behind it, the same for every duplicate of it: two messages that carry one eventfd can be told from two
    that carry two.
    """

    number: int
    kind: str
    identity: str

    @classmethod
    def of(cls, number: int) -> "Descriptor":
        """What ``number`` is now. Never raises."""
        try:
            status = file_system.status(number)
            name = str(Path(f"/proc/self/fd/{number}").readlink())
            if name.startswith("anon_inode:"):
                found = _EVENTFD_ID.search(Path(f"/proc/self/fdinfo/{number}").read_text())
                return cls(number, name.removeprefix("anon_inode:").strip("[]"), found[1] if found else "")
        except OSError:
            return cls(number, "closed", "")
        kind = "memfd" if name.startswith("/memfd:") else _KINDS.get(stat.S_IFMT(status.mode), "unknown")
        return cls(number, kind, f"{status.device:x}:{status.inode}")

    def __str__(self) -> str:
        return f"{self.kind} {self.identity}".rstrip()


@dataclass(frozen=True, slots=True)
class TraceEvent:
    """One message that passed a session. ``outcome`` says what the session made of it.

    ``fds`` is how many descriptors it carried, ``descriptors`` what they are. ``time`` is in seconds since
    the epoch. ``connection`` numbers the connections of this process, from 1; both channels of one have the
    same.
    """

    table: RequestTable
    header: Header
    payload: bytes
    fds: int
    outcome: str
    descriptors: tuple[Descriptor, ...] = ()
    connection: int = 0
    time: float = field(default_factory=time.time)

    @property
    def channel(self) -> str:
        """``main``, or ``back`` for the requests of the back-end and what answers them."""
        return "main" if self.table.direction is Direction.TO_BACKEND else "back"

    @property
    def is_reply(self) -> bool:
        """Whether the message is a reply."""
        return bool(self.header.flags & HeaderFlag.REPLY)

    @property
    def direction(self) -> Direction:
        """Which way the message went."""
        return self.table.direction.opposite if self.is_reply else self.table.direction

    @property
    def name(self) -> str:
        """The message's name, or ``request N`` for an unknown id."""
        row = self.table.get(self.header.request)
        return row.name if row else f"request {self.header.request}"

    def as_dict(self) -> dict[str, Any]:
        """The event as JSON can carry it; ``payload`` in hexadecimal digits, ``text`` for people."""
        return {
            "time": self.time,
            "connection": self.connection,
            "channel": self.channel,
            "direction": self.direction.name.lower(),
            "message": self.name,
            "request": self.header.request,
            "flags": self.header.flags,
            "reply": self.is_reply,
            "payload": self.payload.hex(),
            "fds": [
                {"number": each.number, "kind": each.kind, "identity": each.identity}
                for each in self.descriptors
            ],
            "outcome": self.outcome,
            "text": describe(self.table, self.header, self.payload, self.fds),
        }

    def __str__(self) -> str:
        message = describe(self.table, self.header, self.payload, self.fds)
        channel = "" if self.channel == "main" else "back channel: "
        return f"{channel}{self.direction.value} {message}: {self.outcome}"


Tracer = Callable[[TraceEvent], None]
"""What a session calls for every message it received or made. It must not raise."""


def describe(table: RequestTable, header: Header, payload: bytes, fds: int = 0) -> str:
    """A message in words: name, flags, fields, number of descriptors. Never raises on any input."""
    row = table.get(header.request)
    parts = [row.name if row else f"request {header.request}"]
    if header.flags & HeaderFlag.REPLY:
        parts.append("reply")
    if header.flags & HeaderFlag.NEED_REPLY:
        parts.append("need_reply")
    rest = header.flags & ~int(HeaderFlag.REPLY | HeaderFlag.NEED_REPLY)
    if rest != PROTOCOL_VERSION:
        parts.append(f"flags={header.flags:#x}")
    parts.append(_fields(row, header, payload))
    if fds:
        parts.append(f"fds={fds}")
    return " ".join(filter(None, parts))


def _fields(row: RequestRow | None, header: Header, payload: bytes) -> str:
    is_reply = bool(header.flags & HeaderFlag.REPLY)
    named = row.value_type if row is not None and not (is_reply and row.reply is ReplyKind.ACK) else None
    for kind in _types(row, is_reply=is_reply):
        if not kind.fits(len(payload)):
            continue
        try:
            value = kind.unpack(payload)
        except ValueError:
            continue
        if isinstance(value, U64) and named is not None:
            return f"value={value.value:#x} ({_names(value.value, named)})"
        return value.describe()
    if not payload:
        return ""
    shown = f"{payload[:16].hex(' ')}{' …' if len(payload) > 16 else ''}"
    return f"{len(payload)} bytes that do not fit the message: {shown}"


def _types(row: RequestRow | None, *, is_reply: bool) -> Iterator[type[Payload]]:
    if row is None:
        return
    if is_reply:
        if row.reply is not ReplyKind.ACK:
            yield row.reply_payload
        if row.postcopy_reply is not None:
            yield row.postcopy_reply
        yield U64
        return
    yield row.payload
    yield from (payload for _, payload in row.variants)
    if row.postcopy_reply is not None:
        yield U64  # what says that page faults are served (C119)


def _names(bits: int, kind: type[IntFlag]) -> str:
    known = [member.name for member in kind if member.name and bits & member]
    rest = bits & ~sum(kind)
    return " ".join([*known, *([f"{rest:#x}"] if rest else [])]) or "none"


class TraceLog:
    """A tracer that keeps the last ``size`` messages, for what a failed test or a closed connection shows."""

    def __init__(self, size: int = 100) -> None:
        self.events: deque[TraceEvent] = deque(maxlen=size)

    def __call__(self, event: TraceEvent) -> None:
        """Keep one message."""
        self.events.append(event)

    def lines(self) -> list[str]:
        """The kept messages, oldest first, one line each."""
        return [str(event) for event in self.events.copy()]  # a thread of the back channel may add some

    def clear(self) -> None:
        """Forget them."""
        self.events.clear()

    def __str__(self) -> str:
        return "\n".join(self.lines())


def log_tracer(event: TraceEvent) -> None:
    """A tracer that writes each message to the log ``vhost_user`` at level DEBUG."""
    if logger.isEnabledFor(logging.DEBUG):
        logger.debug("%s", event)


class JsonTrace:
    """A tracer that writes each message as one line of JSON to ``file``, which stays the caller's.

    Several connections and channels may share one. A file that cannot be written is given up, with a warning:
    a full disk must not end a session.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._failed = False

    def __call__(self, event: TraceEvent) -> None:
        """Write one message, at once: whoever looks into a program that hangs sees the last of them."""
        line = json.dumps(event.as_dict(), ensure_ascii=False) + "\n"
        with self._lock:
            if self._failed:
                return
            try:
                self._file.write(line)
                self._file.flush()
            except (OSError, ValueError) as error:  # ValueError: somebody closed it
                self._failed = True
                logger.warning("the trace cannot be written any more: %s", error)


def of_connection(number: int, *tracers: Tracer) -> Tracer | None:
    """One tracer for several, whose events have the number of their connection; None for none."""
    if not tracers:
        return None

    def trace(event: TraceEvent) -> None:
        numbered = replace(event, connection=number)
        for tracer in tracers:
            tracer(numbered)

    return trace


@contextlib.contextmanager
def json_trace(path: str | os.PathLike[str] | None, *, append: bool = False) -> Iterator[Tracer | None]:
    """A :class:`JsonTrace` to a new file at ``path``, which is closed in the end; None for no path.

    With ``append`` to the end of one that may be there.

    Raises OSError when the file cannot be made.
    """
    if path is None:
        yield None
        return
    with Path(path).open("a" if append else "w", encoding="utf-8") as file:
        yield JsonTrace(file)
