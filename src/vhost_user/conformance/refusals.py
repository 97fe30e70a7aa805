"""Requests that must not succeed: sent unchecked, and judged by what becomes of them."""

from __future__ import annotations

import fcntl
import struct
import termios
import time
from collections.abc import Callable, Sequence
from enum import Enum

from vhost_user.conformance.findings import Deviation, Skip
from vhost_user.frontend.frontend import Frontend
from vhost_user.protocol.errors import Disconnected, PeerTimeout
from vhost_user.protocol.framing import encode
from vhost_user.spec.features import ProtocolFeature
from vhost_user.spec.requests import FRONTEND_REQUESTS, FrontendRequest
from vhost_user.spec.structs import U64, Header, HeaderFlag, Payload
from vhost_user.spec.table import ReplyKind, RequestRow


class Verdict(Enum):
    """What became of a request that should not succeed."""

    REFUSED = "refused"
    CLOSED = "connection closed"
    ACCEPTED = "accepted"
    SILENT = "not answered"


def attempt(
    frontend: Frontend,
    request: int,
    payload: bytes | Payload = b"",
    fds: Sequence[int] = (),
    *,
    flags: int = 1,
) -> Verdict:
    """Send a request unchecked, and tell what became of it. Needs REPLY_ACK to see a refusal.

    Without it the verdict is CLOSED, or SILENT.
    """
    data = payload if isinstance(payload, bytes) else payload.pack()
    acks = frontend.has_protocol_feature(ProtocolFeature.REPLY_ACK)
    flags |= HeaderFlag.NEED_REPLY if acks else 0
    return verdict_of(frontend, encode(request, flags, data), fds, request=request, answered=acks)


def verdict_of(
    frontend: Frontend, data: bytes, fds: Sequence[int] = (), *, request: int, answered: bool = True
) -> Verdict:
    """Send bytes, and tell what became of the request that they are."""
    row = FRONTEND_REQUESTS.get(request)
    own = row is not None and row.has_own_reply(frontend.protocol_features)
    try:
        frontend.send_bytes(data, fds)
        if not answered and not own:
            return _after_barrier(frontend)
        reply = receive_message(frontend)
    except Disconnected:
        return Verdict.CLOSED
    except PeerTimeout:
        return Verdict.SILENT
    if reply is None:
        return Verdict.CLOSED
    header, answer = reply
    if header.request != request:
        raise Deviation(f"the reply to request {request} says that it answers request {header.request}")
    return Verdict.REFUSED if _says_no(row, answer, own=own) else Verdict.ACCEPTED


def _after_barrier(frontend: Frontend) -> Verdict:
    frontend.send_bytes(encode(FrontendRequest.GET_FEATURES, 1))
    reply = receive_message(frontend)
    if reply is None:
        return Verdict.CLOSED
    raise Skip("without REPLY_ACK a request that is refused looks like one that is carried out")


def receive_message(frontend: Frontend, *, timeout: float | None = None) -> tuple[Header, bytes] | None:
    """One message as it comes, None at the end of the stream. Raises PeerTimeout."""
    data = frontend.receive_bytes(Header.SIZE, timeout=timeout)
    if len(data) < Header.SIZE:
        return None
    header = Header.unpack(data)
    payload = frontend.receive_bytes(header.size, timeout=timeout) if header.size else b""
    return None if len(payload) < header.size else (header, payload)


def refused(
    frontend: Frontend,
    request: FrontendRequest,
    payload: bytes | Payload,
    what: str,
    fds: Sequence[int] = (),
) -> None:
    """Deviation unless the request gets an error or ends the connection. ``what`` describes it."""
    verdict = attempt(frontend, request, payload, fds)
    if verdict is Verdict.ACCEPTED:
        raise Deviation(f"{request.name} with {what} is carried out, or acked as if", quirk="acks-failures")
    if verdict is Verdict.SILENT:
        raise Deviation(f"{request.name} with {what} is not answered in time", silent=True)


def refusals(
    make: Callable[[], Frontend],
    cases: Sequence[tuple[FrontendRequest, bytes | Payload, str]],
    fd: int | None = None,
) -> None:
    """Several requests that must each be refused; a new session whenever one ended the connection.

    Tells all that were accepted at once.
    """
    frontend = make()
    wrong: list[Deviation] = []
    for request, payload, what in cases:
        if frontend.closed or frontend.hung_up():
            frontend.close()
            frontend = make()
        try:
            refused(frontend, request, payload, what, () if fd is None else (fd,))
        except Deviation as deviation:
            wrong.append(deviation)
            if deviation.silent:
                frontend.close()
    if wrong:
        raise Deviation("; ".join(map(str, wrong)), quirk=wrong[0].quirk)


def consumed(frontend: Frontend, *, patience: float = 0.02) -> None:
    """Wait until the peer has read what was sent, at most ``patience`` seconds (it may wait for more)."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and unread(frontend):
        time.sleep(0.0002)


def unread(frontend: Frontend) -> int:
    """Bytes that the peer has not read yet."""
    buffer = fcntl.ioctl(frontend.fileno(), termios.TIOCOUTQ, bytes(4))
    return int(struct.unpack("i", buffer)[0])


def _says_no(row: RequestRow | None, answer: bytes, *, own: bool) -> bool:
    """Whether a reply means that the request failed."""
    if row is None or not own or row.reply is ReplyKind.STATUS:
        return len(answer) == U64.SIZE and any(answer)
    if row.error_reply is None:
        return False
    try:
        return not answer or row.error_reply.recognise(row.reply_payload.unpack(answer), 0)
    except ValueError:
        return False
