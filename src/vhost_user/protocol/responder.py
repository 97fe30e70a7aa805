"""The side that answers: requests are checked here against the table before anybody acts on them."""

import logging
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vhost_user.protocol.errors import ProtocolError, RequestRefused
from vhost_user.protocol.fds import OwnedFds
from vhost_user.protocol.framing import Frame, Message
from vhost_user.protocol.limited_log import LimitedLog
from vhost_user.protocol.negotiation import Negotiation
from vhost_user.protocol.session import Session
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.structs import REPLY_FLAGS, U64, Empty, Header, Payload
from vhost_user.spec.table import ReplyKind, RequestRow, RequestTable

logger = logging.getLogger("vhost_user")


@dataclass(slots=True, eq=False)
class ReceivedMessage:
    """A request that passed every check of its row and waits for ``reply`` or ``refuse``.

    Take what is wanted out of ``fds``; the rest is closed with the answer. ``need_reply`` tells whether an
    ack is due (NEED_REPLY set and REPLY_ACK negotiated, by this message at the latest, C093 C094); a message
    with a reply of its own gets that one only.
    """

    row: RequestRow
    payload: Payload
    fds: OwnedFds
    need_reply: bool
    refusal_acked: bool
    """An ack is due if the request is refused: what it would have negotiated is not in force then."""
    answered: bool = field(default=False, init=False)

    @property
    def name(self) -> str:
        """The message's name, as in ``SET_VRING_KICK``."""
        return self.row.name

    @property
    def queue(self) -> int | None:
        """The vring index the message is about, or None."""
        return self.payload.queue


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that the session refused by itself: send ``response`` if there is one, and go on."""

    error: RequestRefused
    response: Message | None


class Responder(Session):
    """Checks incoming requests and makes the answers to them.

    Feed it with ``receive``; answer each :class:`ReceivedMessage` with ``reply`` or ``refuse`` before the
    next (requests are carried out strictly in order, C015).
    """

    _current: ReceivedMessage | None = None

    def __init__(self, table: RequestTable, negotiation: Negotiation, **options: Any) -> None:
        super().__init__(table, negotiation, **options)
        self.report = LimitedLog(logger)
        """Where refusals are told; of a daemon that serves one peer after the other, one for all (H91)."""

    def receive(
        self, data: bytes, fds: Iterable[int] = (), *, truncated: bool = False
    ) -> ReceivedMessage | Refusal | None:
        """Take what one ``recvmsg`` returned (see :meth:`FrameDecoder.receive`).

        Returns a request to carry out, a refusal to send, or None when the message is not complete. Raises
        ProtocolError or Disconnected when the connection is over.
        """
        frame = self._frame(data, fds, truncated=truncated)
        if frame is None:
            return None
        if self._current is not None:
            frame.fds.close()
            raise RuntimeError(f"{self._current.name} was not answered before the next request was read")
        row = self.table.get(frame.header.request)
        name = row.name if row else f"request {frame.header.request}"
        if frame.is_reply:
            raise self._fail(frame, "a reply arrived where only requests are legal", "C004", name)
        if self._says_ready(frame):
            return self._accepted(self.table[FrontendRequest.SET_MEM_TABLE], U64.unpack(frame.payload), frame)
        if row is None:
            if not (frame.need_reply and self.negotiation.reply_ack):
                raise self._fail(frame, "there is no such request", "C020", name)
            return self._refused_unread(
                frame, None, RequestRefused("there is no such request", rule="C020"), name
            )
        try:
            payload, refusal = self._validate(row, frame)
        except ProtocolError as error:
            raise self._fail(frame, error.reason, error.rule, name) from None
        except BaseException:
            frame.fds.close()
            raise
        if refusal is not None:
            refusal.queue = payload.queue
            return self._refused_unread(frame, row, refusal, name, payload)
        return self._accepted(row, payload, frame)

    def _accepted(self, row: RequestRow, payload: Payload, frame: Frame) -> ReceivedMessage:
        seen = self._seen(frame.fds)
        if not row.fds.keep:
            frame.fds.close()
        need_reply = frame.need_reply and self._acks(row, payload)
        self._current = ReceivedMessage(
            row,
            payload,
            frame.fds,
            need_reply,
            refusal_acked=frame.need_reply and self._acks(row, payload, refused=True),
        )
        self._trace(frame.header, frame.payload, seen, "accepted")
        return self._current

    def reply(
        self, request: ReceivedMessage, payload: Payload | None = None, fds: Sequence[int] = ()
    ) -> Message | None:
        """The answer to a request that was carried out, or None when none is due.

        ``payload`` is needed where the row has a reply payload; elsewhere success is the default. ``fds``
        stay the caller's, who closes them after sending. Descriptors of the request that nobody took are
        closed. Raises TypeError or ValueError when the answer does not fit the row.
        """
        row = request.row
        self._answerable(request)
        payload = payload if payload is not None else self._default(request)
        if row.has_own_reply(self.negotiation.acked_protocol_features):
            message = self._own_reply(row, payload, fds)
        elif (
            payload is not None and row.postcopy_reply is not None and isinstance(payload, row.postcopy_reply)
        ):
            message = self._message(row.id, REPLY_FLAGS, payload.pack(), fds, "sent")
        elif fds or payload is not None:
            raise TypeError(
                f"{row.name} is answered with an ack, not with {payload} and {len(fds)} descriptors"
            )
        elif request.need_reply:
            message = self._message(row.id, REPLY_FLAGS, U64(0).pack(), (), "sent")
        else:
            message = None
        self._done(request)
        self._committed(row, request.payload)
        return message

    def refuse(self, request: ReceivedMessage, error: RequestRefused) -> Message | None:
        """The answer to a request that was not carried out: its error reply, a non-zero ack, or None.

        Logs message, queue and rule. Raises ProtocolError when the message has a reply of its own that can
        not say no: then the connection must be closed (C097).
        """
        self._answerable(request)
        self._done(request)
        error.message = request.name
        error.queue = request.queue if error.queue is None else error.queue
        return self._refusal(request.row, request.payload, error, need_reply=request.refusal_acked)

    def close(self) -> None:
        """Close every descriptor that the session holds, those of an unanswered request included."""
        super().close()
        if self._current is not None:
            self._done(self._current)

    def _says_ready(self, frame: Frame) -> bool:
        """Whether this is not a request, but says that page faults are served in memory that came (C119)."""
        del frame
        return False

    def _owes_memory(self, row: RequestRow, payload: Payload) -> bool:
        """Whether the peer waits for the memory in answer, which can not say no, not for an ack (C119)."""
        del row, payload
        return False

    def _check(self, row: RequestRow, payload: Payload) -> None:
        """Check what depends on the session's state; raise RequestRefused or ProtocolError."""

    def _committed(self, row: RequestRow, payload: Payload) -> None:
        """Learn from a request that was carried out."""

    def _acks(self, row: RequestRow, payload: Payload, *, refused: bool = False) -> bool:
        """Whether a request with NEED_REPLY is acked, when it succeeds or is ``refused`` (C093, C094)."""
        del row, payload, refused
        return self.negotiation.reply_ack

    def _default(self, request: ReceivedMessage) -> Payload | None:
        """The payload of a reply that the caller did not give."""
        return U64(0) if self._is_status(request.row) else None

    def _is_status(self, row: RequestRow) -> bool:
        own = row.has_own_reply(self.negotiation.acked_protocol_features)
        return own and row.reply is ReplyKind.STATUS and row.reply_fds.bounds(U64(0)) == (0, 0)

    def _validate(self, row: RequestRow, frame: Frame) -> tuple[Payload, RequestRefused | None]:
        """The payload (Empty when it can not be told), and why the request is refused if it is."""
        count = len(frame.fds)
        if objection := self.negotiation.objection(row, count):
            return Empty(), RequestRefused(objection[1], rule=objection[0])
        kind = row.payload_type(self.negotiation.acked_protocol_features)
        if not kind.fits(len(frame.payload)):
            reason = f"the payload has {len(frame.payload)} bytes, not {kind.size_text()}"
            return Empty(), RequestRefused(reason, rule="C008")
        try:
            payload = kind.unpack(frame.payload)
        except ValueError as error:
            return Empty(), RequestRefused(str(error), rule="C008")
        least, most = row.fds.bounds(payload)
        if not least <= count <= most:
            reason = f"{count} file descriptors came, it takes {row.fds.text}"
            return payload, RequestRefused(reason, rule=row.fds.rule)
        for rule in row.rules:
            if wrong := rule.check(payload):
                return payload, RequestRefused(wrong, rule=rule.identifier)
        try:
            self._check(row, payload)
        except RequestRefused as error:
            return payload, error
        return payload, None

    def _own_reply(self, row: RequestRow, payload: Payload | None, fds: Sequence[int]) -> Message:
        if payload is None and row.reply_payload is Empty:
            payload = Empty()
        if not isinstance(payload, row.reply_payload):
            raise TypeError(f"{row.name} is answered with {row.reply_payload.__name__}, not {payload}")
        least, most = row.reply_fds.bounds(payload)
        if not least <= len(fds) <= most:
            raise ValueError(
                f"the reply to {row.name} takes {row.reply_fds.text} descriptors, not {len(fds)}"
            )
        return self._message(row.id, REPLY_FLAGS, payload.pack(), fds, "sent")

    def _refused_unread(
        self,
        frame: Frame,
        row: RequestRow | None,
        error: RequestRefused,
        name: str,
        payload: Payload | None = None,
    ) -> Refusal:
        """Refuse a request that was never handed out."""
        seen = self._seen(frame.fds)
        frame.fds.close()
        error.message = name
        self._trace(frame.header, frame.payload, seen, str(error))
        if row is None:
            self._log_refusal(error)
            response = self._message(frame.header.request, REPLY_FLAGS, U64(1).pack(), (), "sent")
            return Refusal(error, response)
        payload = payload or Empty()
        need_reply = frame.need_reply and self._acks(row, payload, refused=True)
        return Refusal(error, self._refusal(row, payload, error, need_reply=need_reply))

    def _log_refusal(self, error: RequestRefused) -> None:
        # The text, not the error: a log that keeps records would keep its frames.
        self.report.warning("%s", str(error))

    def _refusal(
        self, row: RequestRow, payload: Payload, error: RequestRefused, *, need_reply: bool
    ) -> Message | None:
        self._log_refusal(error)
        if row.has_own_reply(self.negotiation.acked_protocol_features) or self._owes_memory(row, payload):
            if row.error_reply is None:
                self._decoder.close()
                header = Header(row.id, REPLY_FLAGS, 0)
                self._trace(header, b"", (), "not sent: no error code, closed [C097]")
                raise ProtocolError(
                    f"{error.reason} [{error.rule}], and its reply can not say so",
                    rule="C097",
                    message=row.name,
                ) from error
            return self._message(row.id, REPLY_FLAGS, row.error_reply.make(payload).pack(), (), "sent")
        if need_reply:
            return self._message(row.id, REPLY_FLAGS, U64(1).pack(), (), "sent")
        return None

    def _answerable(self, request: ReceivedMessage) -> None:
        if request.answered or request is not self._current:
            raise RuntimeError(f"{request.name} was answered already, or belongs to another session")

    def _done(self, request: ReceivedMessage) -> None:
        request.answered = True
        request.fds.close()
        self._current = None


if not TYPE_CHECKING:

    def __getattr__(name: str) -> type[ReceivedMessage]:
        """``Request``, the name that ReceivedMessage had; a request is what the driver puts into a ring."""
        if name == "Request":
            warnings.warn("responder.Request is now called ReceivedMessage", DeprecationWarning, stacklevel=2)
            return ReceivedMessage
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
