"""The side that asks: requests made from the table, replies checked against it (C003 C006 C018 H101)."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import Any

from vhost_user.protocol.errors import OutstandingReplyError, ProtocolError, RequestRefused
from vhost_user.protocol.fds import OwnedFds
from vhost_user.protocol.framing import Frame, Message
from vhost_user.protocol.negotiation import Negotiation
from vhost_user.protocol.session import Session
from vhost_user.protocol.trace import Tracer
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.structs import (
    MAX_FDS,
    MAX_PAYLOAD_SIZE,
    PROTOCOL_VERSION,
    REPLY_FLAGS,
    U64,
    Config,
    Empty,
    HeaderFlag,
    Log,
    Payload,
)
from vhost_user.spec.table import NO_FD, Direction, FdRule, ReplyKind, RequestRow, RequestTable

logger = logging.getLogger("vhost_user")


class Quirk(IntFlag):
    """Deviations of known back-ends that a front-end may tolerate."""

    LOG_BASE_REPLY = 1
    """The reply to SET_LOG_BASE has 0 or 16 bytes (DPDK, rust-vmm), or repeats the size (libvhost-user)."""
    CONFIG_ERROR_WITH_HEADER = 2
    """A failed GET_CONFIG is answered with 12 bytes and a size of 0, not without payload (rust-vmm, C128)."""
    UNASKED_ACK = 4
    """SET_PROTOCOL_FEATURES (rust-vmm, C094) and POSTCOPY_LISTEN (libvhost-user) may be acked unasked."""
    POSTCOPY_END_WITHOUT_REPLY = 8
    """POSTCOPY_END is answered only when asked to (rust-vmm)."""
    SHMEM_AT_BIT_21 = 16
    """Bit 21 means SHMEM (rust-vmm's vhost up to 0.16); not in TOLERANT, as it hides GPA_ADDRESSES."""

    NONE = 0
    TOLERANT = 15


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply to a request, checked. Take what is wanted out of ``fds`` and close the rest."""

    row: RequestRow
    payload: Payload
    fds: OwnedFds


@dataclass(frozen=True, slots=True)
class _Outstanding:
    row: RequestRow
    payload: Payload
    kind: type[Payload]
    fds: FdRule
    own: bool


class Requester(Session):
    """Makes requests and checks replies; one request may be outstanding at a time (C102).

    ``send`` gives the message to send. When ``expects_reply`` is true afterwards, read until ``receive``
    returns the reply. Sends and replies must alternate; locking is the caller's.
    """

    def __init__(
        self,
        table: RequestTable,
        negotiation: Negotiation,
        *,
        quirks: Quirk = Quirk.TOLERANT,
        tracer: Tracer | None = None,
        allow_reserved_flags: bool = False,
        maximum_payload: int = MAX_PAYLOAD_SIZE,
        maximum_fds: int = MAX_FDS,
    ) -> None:
        super().__init__(
            table,
            negotiation,
            tracer=tracer,
            allow_reserved_flags=allow_reserved_flags,
            maximum_payload=maximum_payload,
            maximum_fds=maximum_fds,
        )
        self.quirks = quirks
        self._outstanding: _Outstanding | None = None
        self._unasked: set[int] = set()

    @property
    def expects_reply(self) -> bool:
        """Whether a request waits for its reply."""
        return self._outstanding is not None

    def send(
        self,
        request: int,
        payload: Payload | None = None,
        fds: Sequence[int] = (),
        *,
        need_reply: bool | None = None,
        postcopy: bool = False,
    ) -> Message:
        """The message to send for ``request`` (an id of the table).

        ``need_reply`` None sets NEED_REPLY wherever the answer is an ack or a status and REPLY_ACK is
        negotiated. ``postcopy``: the back-end answers with the memory instead of an ack (C119). ``fds`` stay
        the caller's. Raises RequestRefused when the message is not legal now or breaks a rule of its row, and
        nothing is sent then; TypeError when the payload is of another type; OutstandingReplyError while
        another reply is outstanding.
        """
        row = self.table[request]
        payload = Empty() if payload is None else payload
        if self._outstanding is not None:
            raise OutstandingReplyError(
                f"{row.name}: the reply to {self._outstanding.row.name} is outstanding"
            )
        features = self.negotiation.acked_protocol_features
        kind = row.payload_type(features)
        if not isinstance(payload, kind):
            raise TypeError(f"{row.name} carries {kind.__name__}, not {payload}")
        self._legal(row, payload, len(fds))
        data = payload.pack()
        follows = self._ack_follows(row, payload)
        asks = need_reply if need_reply is not None else follows and row.reply is not ReplyKind.PAYLOAD
        flags = PROTOCOL_VERSION | (HeaderFlag.NEED_REPLY if asks else 0)
        self._outstanding = self._expectation(row, payload, acked=bool(asks and follows), postcopy=postcopy)
        if asks and follows is None:
            self._unasked.add(row.id)
        message = self._message(row.id, flags, data, fds, "sent")
        if self._outstanding is None:
            self._committed(row, payload, None)
        return message

    def receive(self, data: bytes, fds: Iterable[int] = (), *, truncated: bool = False) -> Reply | None:
        """Take what one ``recvmsg`` returned (see :meth:`FrameDecoder.receive`).

        Returns the reply when it is complete. Raises RequestRefused when the peer says that the request
        failed (the connection lives on, C096), ProtocolError or Disconnected when the connection is over.
        """
        frame = self._frame(data, fds, truncated=truncated)
        if frame is None:
            return None
        row = self.table.get(frame.header.request)
        name = row.name if row else f"request {frame.header.request}"
        expected = self._outstanding
        if frame.header.flags != REPLY_FLAGS:
            raise self._fail(frame, f"a reply has flags {frame.header.flags:#x}, not 0x5", "C003", name)
        if expected is None or frame.header.request != expected.row.id:
            if self._is_unasked_ack(frame):
                return None
            waiting = "no reply is due" if expected is None else f"the reply to {expected.row.name} is due"
            raise self._fail(frame, f"{waiting}, but this one arrived", "C006", name)
        self._outstanding = None
        seen = self._seen(frame.fds)
        try:
            payload, failed = self._check_reply(expected, frame.payload, len(frame.fds))
        except ProtocolError as error:
            raise self._fail(frame, error.reason, error.rule, name) from None
        except BaseException:
            frame.fds.close()
            raise
        if failed:
            self._trace(frame.header, frame.payload, seen, "received: failed")
            reason = (
                f"the {self._peer} says that it failed ({payload.describe() or 'no answer in the reply'})"
            )
            raise RequestRefused(reason, rule="C096", message=name, queue=expected.payload.queue)
        self._trace(frame.header, frame.payload, seen, "received")
        self._committed(expected.row, expected.payload, payload)
        return Reply(expected.row, payload, frame.fds)

    @property
    def _peer(self) -> str:
        return "back-end" if self.table.direction is Direction.TO_BACKEND else "front-end"

    def _check(self, row: RequestRow, payload: Payload) -> None:
        """Check what depends on the session's state before sending; raise RequestRefused."""

    def _ack_follows(self, row: RequestRow, payload: Payload) -> bool | None:
        """Whether NEED_REPLY brings an ack; None when that depends on the peer (C094)."""
        del row, payload
        return self.negotiation.reply_ack

    def _check_answer(self, row: RequestRow, reply: Payload) -> None:
        """Check a reply against earlier ones; raise ProtocolError."""

    def _committed(self, row: RequestRow, payload: Payload, reply: Payload | None) -> None:
        """Learn from a request that was sent without waiting, or answered."""

    def _legal(self, row: RequestRow, payload: Payload, count: int) -> None:
        try:
            self._objections(row, payload, count)
            self._check(row, payload)
        except RequestRefused as error:
            error.message = f"{row.name} (not sent)"
            error.queue = payload.queue
            raise

    def _objections(self, row: RequestRow, payload: Payload, count: int) -> None:
        if objection := self.negotiation.objection(row, count):
            rule, reason = objection
            raise RequestRefused(reason, rule=rule)
        least, most = row.fds.bounds(payload)
        if not least <= count <= (most if row.fds.keep else least):
            raise RequestRefused(f"it takes {row.fds.text} descriptors, not {count}", rule=row.fds.rule)
        for rule_of_row in row.rules:
            if wrong := rule_of_row.check(payload):
                raise RequestRefused(wrong, rule=rule_of_row.identifier)

    def _expectation(
        self, row: RequestRow, payload: Payload, *, acked: bool, postcopy: bool
    ) -> _Outstanding | None:
        self._unasked.discard(row.id)
        if postcopy and row.postcopy_reply is not None:
            return _Outstanding(row, payload, row.postcopy_reply, NO_FD, own=True)
        features = self.negotiation.acked_protocol_features
        unanswered = (
            row.request is FrontendRequest.POSTCOPY_END
            and not acked
            and bool(self.quirks & Quirk.POSTCOPY_END_WITHOUT_REPLY)
        )
        if row.has_own_reply(features) and not unanswered:
            return _Outstanding(row, payload, row.reply_payload, row.reply_fds, own=True)
        if acked:
            return _Outstanding(row, payload, U64, NO_FD, own=False)
        if unanswered or (
            self.quirks & Quirk.UNASKED_ACK
            and row.request in (FrontendRequest.SET_PROTOCOL_FEATURES, FrontendRequest.POSTCOPY_LISTEN)
        ):
            self._unasked.add(row.id)
        return None

    def _is_unasked_ack(self, frame: Frame) -> bool:
        if frame.header.request not in self._unasked or len(frame.payload) != U64.SIZE or len(frame.fds):
            return False
        self._unasked.discard(frame.header.request)
        value = U64.unpack(frame.payload).value
        self._trace(frame.header, frame.payload, (), "received: not asked for")
        if value:
            logger.warning(
                "%s failed with %d, told without being asked", self.table[frame.header.request].name, value
            )
        return True

    def _check_reply(self, expected: _Outstanding, data: bytes, count: int) -> tuple[Payload, bool]:
        """The payload of a reply and whether it says that the request failed. Raises ProtocolError."""
        row = expected.row
        payload = self._reply_payload(expected, data)
        failed = self._says_failed(expected, payload, count)
        bounds: Any = (0, 0) if failed else expected.fds.bounds(payload)
        if not bounds[0] <= count <= bounds[1]:
            raise ProtocolError(f"the reply carries {count} file descriptors", rule="H101", message=row.name)
        if expected.own and not failed and type(payload) is row.reply_payload:
            for rule in row.reply_rules:
                if wrong := rule.check(expected.payload, payload):
                    raise ProtocolError(wrong, rule=rule.identifier, message=row.name)
            self._check_answer(row, payload)
        return payload, failed

    def _says_failed(self, expected: _Outstanding, payload: Payload, count: int) -> bool:
        if not expected.own:
            return isinstance(payload, U64) and payload.value != 0
        error_reply = expected.row.error_reply
        if error_reply is None or (isinstance(payload, Empty) and expected.kind is U64):
            return False
        return error_reply.recognise(payload, count)

    def _reply_payload(self, expected: _Outstanding, data: bytes) -> Payload:
        row = expected.row
        if row.request is FrontendRequest.SET_LOG_BASE and self.quirks & Quirk.LOG_BASE_REPLY:
            if len(data) in (0, Log.SIZE) or data == expected.payload.pack()[: U64.SIZE]:
                return Empty()
        elif expected.kind is Config:
            if not data:
                return Empty()
            if len(data) == Config.SIZE and not self.quirks & Quirk.CONFIG_ERROR_WITH_HEADER:
                raise ProtocolError("an error reply must have size 0", rule="C128", message=row.name)
        try:
            return expected.kind.unpack(data)
        except ValueError as error:
            raise ProtocolError(str(error), rule="H101", message=row.name) from None
