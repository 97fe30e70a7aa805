"""Headers, sizes, splits and order of messages (C001 to C021)."""

from __future__ import annotations

from vhost_user.conformance.check import Level, check
from vhost_user.conformance.context import CheckContext
from vhost_user.conformance.findings import Deviation
from vhost_user.conformance.refusals import Verdict, attempt, consumed, receive_message, refusals, verdict_of
from vhost_user.frontend.frontend import Frontend
from vhost_user.protocol.errors import Disconnected, PeerTimeout
from vhost_user.protocol.framing import encode
from vhost_user.spec.features import ProtocolFeature, VirtioFeature
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.structs import REPLY_FLAGS, U64, Header, HeaderFlag, VringAddress, VringState

MUST, SHOULD, ROBUSTNESS = Level
REQUEST = FrontendRequest


@check(
    "C001-layout", MUST, "Header",
    "A message is a header of three 32-bit words in native byte order, and as many payload bytes as the last"
    " word says.",
)  # fmt: skip
def layout(context: CheckContext) -> None:
    """GET_FEATURES is answered with a 12-byte header and 8 bytes."""
    frontend = context.connect()
    frontend.raw(REQUEST.GET_FEATURES)
    reply = receive_message(frontend)
    if reply is None:
        raise Deviation("the connection is closed instead of a reply")
    if reply[0].size != U64.SIZE:
        raise Deviation(f"the payload has {reply[0].size} bytes, not 8")


@check(
    "C001-split", MUST, "Communication",
    "The socket is a byte stream: where the sender's writes begin and end means nothing.",
)  # fmt: skip
def split(context: CheckContext) -> None:
    """A message that arrives in two pieces, cut anywhere, is understood."""
    frontend = context.session()
    message = encode(REQUEST.SET_VRING_NUM, 1, VringState(0, 16).pack()) + encode(REQUEST.GET_FEATURES, 1)
    for cut in range(1, len(message)):
        frontend.send_bytes(message[:cut])
        consumed(frontend)
        frontend.send_bytes(message[cut:])
        where = f"after SET_VRING_NUM, both cut after {cut} of {len(message)} bytes"
        _expect_reply(context, frontend, REQUEST.GET_FEATURES, where)


@check(
    "C002-version", MUST, "Header",
    "The two lowest bits of the flags are the version, and the version is 1.",
)  # fmt: skip
def version(context: CheckContext) -> None:
    """A message of version 0, 2 or 3 is not answered as if it were version 1."""
    for number in (0, 2, 3):
        frontend = context.connect()
        if _answered(context, frontend, encode(REQUEST.GET_FEATURES, number)):
            raise Deviation(f"GET_FEATURES of version {number} is answered")


@check(
    "C003-reply-flags", MUST, "Header",
    "A reply has the version and the reply bit set, and asks for no reply itself.",
)  # fmt: skip
def reply_flags(context: CheckContext) -> None:
    """Replies and acks have flags 0x5."""
    frontend = context.session()
    flags = {}
    frontend.raw(REQUEST.GET_FEATURES)
    flags["the reply to GET_FEATURES"] = receive_message(frontend)
    if frontend.has_protocol_feature(ProtocolFeature.REPLY_ACK):
        frontend.raw(REQUEST.SET_VRING_NUM, VringState(0, 16).pack(), need_reply=True)
        flags["the ack of SET_VRING_NUM"] = receive_message(frontend)
        frontend.raw(REQUEST.GET_FEATURES, need_reply=True)
        flags["the reply to GET_FEATURES with NEED_REPLY"] = receive_message(frontend)
    for what, reply in flags.items():
        if reply is None:
            raise Deviation(f"instead of {what} the connection is closed")
        if reply[0].flags != REPLY_FLAGS:
            raise Deviation(f"{what} has flags {reply[0].flags:#x}")


@check(
    "C004-reply-bit", ROBUSTNESS, "Header",
    "The reply bit marks replies; requests of the front-end do not have it.",
)  # fmt: skip
def reply_bit(context: CheckContext) -> None:
    """A request with the reply bit set is not carried out."""
    frontend = context.connect()
    if _answered(context, frontend, encode(REQUEST.GET_FEATURES, 1 | HeaderFlag.REPLY)):
        raise Deviation("GET_FEATURES with the reply bit is answered")


@check(
    "C005-reserved-flags", ROBUSTNESS, "Header",
    "The specification gives meaning to the lowest four bits of the flags only.",
)  # fmt: skip
def reserved_flags(context: CheckContext) -> None:
    """A request with reserved flag bits is refused."""
    for bit in (4, 31):
        frontend = context.connect()
        if _answered(context, frontend, encode(REQUEST.GET_FEATURES, 1 | 1 << bit)):
            raise Deviation(f"GET_FEATURES with flag bit {bit} is answered")


@check(
    "C006-reply-id", MUST, "Header",
    "A reply carries the number of the request that it answers.",
)  # fmt: skip
def reply_id(context: CheckContext) -> None:
    """Every reply names its request."""
    frontend = context.session()
    requests = [(REQUEST.GET_FEATURES, b"")]
    if frontend.backend_protocol_features:
        requests.append((REQUEST.GET_PROTOCOL_FEATURES, b""))
    if frontend.has_protocol_feature(ProtocolFeature.MQ):
        requests.append((REQUEST.GET_QUEUE_NUM, b""))
    for request, payload in requests:
        frontend.raw(request, payload)
        _expect_reply(context, frontend, request, "")
    if frontend.has_protocol_feature(ProtocolFeature.REPLY_ACK):
        frontend.raw(REQUEST.SET_VRING_NUM, VringState(0, 16).pack(), need_reply=True)
        _expect_reply(context, frontend, REQUEST.SET_VRING_NUM, "")


@check(
    "C007-size-limit", ROBUSTNESS, "Header",
    "No message has a payload of more than 4096 bytes; more is neither waited for nor room made for it.",
)  # fmt: skip
def size_limit(context: CheckContext) -> None:
    """A header that announces a huge payload ends the connection at once."""
    for size in (1 << 20, 0xFFFFFFFF):
        frontend = context.session()
        verdict = verdict_of(
            frontend, Header(REQUEST.SET_VRING_NUM, 1 | HeaderFlag.NEED_REPLY, size).pack(),
            request=REQUEST.SET_VRING_NUM,
        )  # fmt: skip
        if verdict is Verdict.SILENT:
            raise Deviation(f"a payload of {size} bytes is waited for")
        if verdict is Verdict.ACCEPTED:
            raise Deviation(f"a payload of {size} bytes is accepted before it arrives")


@check(
    "C008-short-payload", ROBUSTNESS, "Message payloads",
    "Each request has a payload of one definite structure.",
)  # fmt: skip
def short_payload(context: CheckContext) -> None:
    """A payload shorter than its structure is refused."""
    refusals(
        context.session,
        [(request, payload[:size], f"{size} of {len(payload)} payload bytes")
         for request, payload in _sized() for size in (0, len(payload) - 1)],
    )  # fmt: skip


@check(
    "C008-long-payload", ROBUSTNESS, "Message payloads",
    "Each request has a payload of one definite structure.",
)  # fmt: skip
def long_payload(context: CheckContext) -> None:
    """A payload longer than its structure is refused."""
    refusals(
        context.session,
        [(request, payload + bytes(8), f"{len(payload) + 8} payload bytes instead of {len(payload)}")
         for request, payload in _sized()],
    )  # fmt: skip


@check(
    "C015-pipelined", MUST, "Communication",
    "Requests are carried out in the order in which they are sent; the front-end need not wait for each.",
)  # fmt: skip
def pipelined(context: CheckContext) -> None:
    """Many messages sent as one piece are all answered, in order."""
    frontend = context.session()
    several = [(REQUEST.GET_FEATURES, b""), (REQUEST.SET_VRING_NUM, VringState(0, 16).pack())] * 20
    frontend.send_bytes(b"".join(encode(request, 1, payload) for request, payload in several))
    for number in range(20):
        _expect_reply(context, frontend, REQUEST.GET_FEATURES, f"number {number + 1} of 20")


@check(
    "C015-descriptor-order", MUST, "Ancillary data",
    "A file descriptor belongs to the message that it was sent with.",
)  # fmt: skip
def descriptor_order(context: CheckContext) -> None:
    """A descriptor stays with its message when the message before it waits unread."""
    frontend = context.session()
    read, write = context.fds.tell_tale()
    frontend.send_bytes(encode(REQUEST.SET_VRING_NUM, 1, VringState(0, 16).pack()))
    verdict = attempt(frontend, REQUEST.SET_VRING_CALL, U64(0), (write,))
    if verdict in (Verdict.CLOSED, Verdict.SILENT):
        raise Deviation(f"SET_VRING_NUM, then SET_VRING_CALL with its descriptor: {verdict.value}")
    del read


@check(
    "C016-end-inside", ROBUSTNESS, "Communication",
    "The end of the stream inside a message ends the session, and nothing more than that.",
)  # fmt: skip
def end_inside(context: CheckContext) -> None:
    """A connection that ends inside a header or a payload does no harm."""
    message = encode(REQUEST.SET_FEATURES, 1, U64(0).pack())
    for cut in (0, 1, 11, 12, 15):
        frontend = context.connect()
        frontend.send_bytes(message[:cut] if cut else b"")
        frontend.close()
    context.alive("connections that ended inside a message")


@check(
    "C017-gone-reader", ROBUSTNESS, "Communication",
    "A front-end may go away at any moment, also with replies unread.",
)  # fmt: skip
def gone_reader(context: CheckContext) -> None:
    """A front-end that leaves without reading its replies does no harm."""
    for _ in range(5):
        frontend = context.connect()
        try:
            frontend.send_bytes(encode(REQUEST.GET_FEATURES, 1) * 200)
        except Disconnected:
            continue
        frontend.close()
    context.alive("a front-end that did not read its replies")


@check(
    "C020-unknown-request", ROBUSTNESS, "REPLY_ACK",
    "A command that fails is acked with a number other than 0 when the front-end asked for an ack.",
)  # fmt: skip
def unknown_request(context: CheckContext) -> None:
    """A request that does not exist is refused or ends the connection."""
    context.need(ProtocolFeature.REPLY_ACK)
    for number in (0, 99, 1 << 31, 0xFFFFFFFF):
        frontend = context.session()
        verdict = attempt(frontend, number)
        if verdict in (Verdict.ACCEPTED, Verdict.SILENT):
            raise Deviation(f"request {number}: {verdict.value}", quirk="acks-failures")


@check(
    "H99-random-bytes", ROBUSTNESS, "Communication",
    "Bytes that are not a message end the connection at most.",
)  # fmt: skip
def random_bytes(context: CheckContext) -> None:
    """Bytes that make no sense do no harm."""
    for number in range(8):
        frontend = context.connect()
        noise = bytes((number * 251 + i * i * 7 + (i >> 3)) & 0xFF for i in range(512))
        try:
            frontend.send_bytes(noise)
            frontend.receive_bytes(12, timeout=context.quiet)
        except (Disconnected, PeerTimeout, OSError):
            continue
        finally:
            frontend.close()
    context.alive("random bytes")


def _sized() -> list[tuple[FrontendRequest, bytes]]:
    """Requests that would do no harm if they were carried out, with a payload of the right size."""
    return [
        (REQUEST.SET_FEATURES, U64(int(VirtioFeature.VERSION_1 | VirtioFeature.PROTOCOL_FEATURES)).pack()),
        (REQUEST.SET_VRING_NUM, VringState(0, 16).pack()),
        (REQUEST.SET_VRING_BASE, VringState(0, 0).pack()),
        (REQUEST.SET_VRING_ADDR, VringAddress(0, 0, 0, 0, 0).pack()),
        (REQUEST.SET_VRING_ENABLE, VringState(0, 0).pack()),
    ]


def _answered(context: CheckContext, frontend: Frontend, message: bytes) -> bool:
    """Whether a question gets an answer; it should not, so that this waits only a moment."""
    try:
        frontend.send_bytes(message)
        return receive_message(frontend, timeout=context.quiet) is not None
    except (PeerTimeout, Disconnected, OSError):
        return False


def _expect_reply(context: CheckContext, frontend: Frontend, request: FrontendRequest, where: str) -> None:
    suffix = f" ({where})" if where else ""
    try:
        reply = receive_message(frontend)
    except PeerTimeout:
        raise Deviation(f"{request.name}{suffix} is not answered within {context.timeout} s") from None
    if reply is None:
        raise Deviation(f"{request.name}{suffix}: the connection is closed instead of a reply")
    if reply[0].request != request:
        raise Deviation(
            f"the reply to {request.name}{suffix} says that it answers request {reply[0].request}"
        )
