"""What a row of the request table can say: declarations only, nothing is carried out in this layer."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, IntEnum, IntFlag
from typing import Any

from vhost_user.spec.features import ProtocolFeature, VirtioFeature
from vhost_user.spec.structs import Empty, Payload


@dataclass(frozen=True, slots=True)
class FdRule:
    """How many file descriptors come with a message: ``bounds(payload)`` gives the least and the most.

    ``keep`` is False where descriptors are tolerated and closed unseen. ``rule`` is the id of the rule that a
    wrong number breaks.
    """

    text: str
    bounds: Callable[[Any], tuple[int, int]]
    keep: bool = True
    rule: str = "C014"


NO_FD = FdRule("0", lambda _: (0, 0), rule="C013")
ONE_FD = FdRule("1", lambda _: (1, 1))
FD_UNLESS_BIT_8 = FdRule("1, or 0 with bit 8", lambda payload: (0, 0) if payload.no_fd else (1, 1))
FD_PER_REGION = FdRule("nregions", lambda payload: (len(payload.regions),) * 2, rule="C035")
FD_CLOSED = FdRule("0 (1 is closed)", lambda _: (0, 1), keep=False, rule="C013")
FD_OR_NONE = FdRule("0 or 1", lambda _: (0, 1))
FD_IF_MAPPED = FdRule("1 unless mmap_size is 0", lambda payload: (1, 1) if payload.mmap_size else (0, 0))
FD_ON_SUCCESS = FdRule("1 on success", lambda payload: (0, 0) if payload.value else (1, 1))
FD_UNLESS_FAILED = FdRule(
    "1, or 0 with bit 8 or an error", lambda payload: (0, 0) if payload.failed or payload.no_fd else (1, 1)
)


class ReplyKind(Enum):
    """What answers a message."""

    ACK = "u64 ack when asked for"
    """Nothing, or the u64 of REPLY_ACK when the request has NEED_REPLY (C093)."""
    STATUS = "u64 status, always"
    """One u64, 0 for success, whether asked for or not."""
    PAYLOAD = "payload"
    """The payload type of the row."""


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """How a reply of its own says that the request failed (C097).

    ``make(request payload)`` gives the payload of such a reply, ``recognise(reply payload, number of fds)``
    says whether a reply is one.
    """

    text: str
    make: Callable[[Any], Payload]
    recognise: Callable[[Any, int], bool]


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that depends on one payload alone: ``check`` returns what is wrong, or None."""

    identifier: str
    check: Callable[[Any], str | None]


@dataclass(frozen=True, slots=True)
class ReplyRule:
    """A rule about a reply: ``check(request payload, reply payload)`` returns what is wrong, or None."""

    identifier: str
    check: Callable[[Any, Any], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRow:
    """One message of one direction; see docs/messages.md for all of them.

    ``request`` is the id; ``payload`` the type of what it carries (``variants`` replace it when the named
    protocol feature is negotiated); ``reply_payload`` is the type of the reply for ``ReplyKind.PAYLOAD``. A
    message is legal when ``protocol_feature`` and ``virtio_feature`` are negotiated and ``offered_feature``
    is offered (C023, C024). ``fd_feature`` is needed for carrying a file descriptor (C099).
    ``reply_feature``: the reply of its own exists only with this feature. ``postcopy_reply`` answers instead
    of the ack while post-copy listens (C119). ``value_type`` gives names to the bits of a u64.
    """

    request: IntEnum
    section: str
    description: str
    payload: type[Payload] = Empty
    variants: tuple[tuple[ProtocolFeature, type[Payload]], ...] = ()
    fds: FdRule = NO_FD
    reply: ReplyKind = ReplyKind.ACK
    reply_payload: type[Payload] = Empty
    reply_fds: FdRule = NO_FD
    error_reply: ErrorReply | None = None
    protocol_feature: ProtocolFeature | None = None
    virtio_feature: VirtioFeature | None = None
    offered_feature: VirtioFeature | None = None
    fd_feature: ProtocolFeature | None = None
    reply_feature: ProtocolFeature | None = None
    postcopy_reply: type[Payload] | None = None
    value_type: type[IntFlag] | None = None
    rules: tuple[Rule, ...] = ()
    reply_rules: tuple[ReplyRule, ...] = ()

    @property
    def id(self) -> int:
        """The number in the header."""
        return int(self.request)

    @property
    def name(self) -> str:
        """The name without its prefix, as in ``SET_VRING_KICK``."""
        return self.request.name

    @property
    def handler(self) -> str:
        """The method of a handler object that carries the message out, as in ``set_vring_kick``."""
        return self.name.lower()

    @property
    def carries_fds(self) -> bool:
        """Whether file descriptors may come with the message."""
        return self.fds is not NO_FD

    def payload_type(self, protocol_features: int) -> type[Payload]:
        """The payload class under these negotiated protocol features."""
        for feature, payload in self.variants:
            if protocol_features & feature:
                return payload
        return self.payload

    def has_own_reply(self, protocol_features: int) -> bool:
        """Whether the message is answered without being asked to, so that no ack is added (C093)."""
        if self.reply is ReplyKind.ACK:
            return False
        return self.reply_feature is None or bool(protocol_features & self.reply_feature)


class Direction(Enum):
    """Which way a message travels. A reply travels against the direction of its request."""

    TO_BACKEND = "front-end → back-end"
    TO_FRONTEND = "back-end → front-end"

    @property
    def opposite(self) -> "Direction":
        """The other way."""
        return Direction.TO_FRONTEND if self is Direction.TO_BACKEND else Direction.TO_BACKEND


class RequestTable:
    """All messages of one direction, by id. Iterating gives the rows in the order of their ids."""

    def __init__(self, direction: Direction, rows: tuple[RequestRow, ...]) -> None:
        self.direction = direction
        self.rows = rows
        self._by_id = {row.id: row for row in rows}

    def get(self, request: int) -> RequestRow | None:
        """The row of this id, or None when there is no such message (C020)."""
        return self._by_id.get(request)

    def __getitem__(self, request: int) -> RequestRow:
        return self._by_id[request]

    def __iter__(self) -> Iterator[RequestRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, request: int) -> bool:
        return request in self._by_id
