"""What a responder and a requester share: one table, one negotiation, one stream of incoming frames."""

from collections.abc import Iterable, Sequence

from vhost_user.protocol.errors import ProtocolError, RequestRefused
from vhost_user.protocol.framing import Frame, FrameDecoder, Message, encode
from vhost_user.protocol.negotiation import Negotiation
from vhost_user.protocol.trace import Descriptor, TraceEvent, Tracer
from vhost_user.spec.structs import MAX_FDS, MAX_PAYLOAD_SIZE, Header
from vhost_user.spec.table import RequestTable


class Session:
    """One direction of requests on one connection, without any I/O.

    ``table`` holds the messages, ``negotiation`` the feature bits (shared by both channels of a connection).
    ``allow_reserved_flags`` accepts unknown header flags (C005); ``maximum_payload`` (bytes) and
    ``maximum_fds`` bound a message (C007, C010). ``tracer`` is told about every message.
    """

    def __init__(
        self,
        table: RequestTable,
        negotiation: Negotiation,
        *,
        tracer: Tracer | None = None,
        allow_reserved_flags: bool = False,
        maximum_payload: int = MAX_PAYLOAD_SIZE,
        maximum_fds: int = MAX_FDS,
    ) -> None:
        self.table = table
        self.negotiation = negotiation
        self.tracer = tracer
        self._decoder = FrameDecoder(
            table,
            allow_reserved_flags=allow_reserved_flags,
            maximum_payload=maximum_payload,
            maximum_fds=maximum_fds,
        )

    @property
    def wanted(self) -> int:
        """How many bytes to read next at most (C015)."""
        return self._decoder.wanted

    @property
    def inside_message(self) -> bool:
        """Whether a message has begun to arrive and is not complete."""
        return self._decoder.inside_message

    def close(self) -> None:
        """Close the descriptors of a message that never became complete; nothing is received any more."""
        self._decoder.close()

    def _frame(self, data: bytes, fds: Iterable[int], *, truncated: bool) -> Frame | None:
        return self._decoder.receive(data, fds, truncated=truncated)

    def _fail(self, frame: Frame, reason: str, rule: str, name: str) -> ProtocolError:
        """Close everything of ``frame``, trace it, and make the error to raise."""
        seen = self._seen(frame.fds)
        frame.fds.close()
        self._decoder.close()
        self._trace(frame.header, frame.payload, seen, f"closed: {reason} [{rule}]")
        return ProtocolError(reason, rule=rule, message=name)

    def _seen(self, fds: Iterable[int]) -> tuple[Descriptor, ...]:
        """What descriptors are, for the trace: asked for before anybody closes them."""
        return () if self.tracer is None else tuple(map(Descriptor.of, fds))

    def _trace(self, header: Header, payload: bytes, seen: tuple[Descriptor, ...], outcome: str) -> None:
        if self.tracer is not None:
            self.tracer(TraceEvent(self.table, header, payload, len(seen), outcome, seen))

    def _message(self, request: int, flags: int, payload: bytes, fds: Sequence[int], outcome: str) -> Message:
        if len(fds) > MAX_FDS:
            raise RequestRefused(
                f"{len(fds)} file descriptors to send, at most {MAX_FDS} are legal", rule="C010"
            )
        self._trace(Header(request, flags, len(payload)), payload, self._seen(fds), outcome)
        return Message(encode(request, flags, payload), tuple(fds))
