"""One readable line for any message, derived from the request table; and the last lines kept."""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntFlag

from vhost_user.spec.structs import PROTOCOL_VERSION, U64, Header, HeaderFlag, Payload
from vhost_user.spec.table import Direction, ReplyKind, RequestRow, RequestTable

logger = logging.getLogger("vhost_user")


@dataclass(frozen=True, slots=True)
class TraceEvent:
    """One message that passed a session. ``outcome`` says what the session made of it."""

    table: RequestTable
    header: Header
    payload: bytes
    fds: int
    outcome: str

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

    def __str__(self) -> str:
        message = describe(self.table, self.header, self.payload, self.fds)
        return f"{self.direction.value} {message}: {self.outcome}"


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
        return [str(event) for event in self.events]

    def clear(self) -> None:
        """Forget them."""
        self.events.clear()

    def __str__(self) -> str:
        return "\n".join(self.lines())


def log_tracer(event: TraceEvent) -> None:
    """A tracer that writes each message to the log ``vhost_user`` at level DEBUG."""
    if logger.isEnabledFor(logging.DEBUG):
        logger.debug("%s", event)
