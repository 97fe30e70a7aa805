"""A front-end's session without a socket, and replies that arrive at it."""

from collections.abc import Sequence
from typing import Any

from vhost_user.protocol.framing import encode
from vhost_user.protocol.requester import Quirk, Reply
from vhost_user.protocol.sessions import FrontendSession
from vhost_user.spec.features import ProtocolFeature, VirtioFeature
from vhost_user.spec.structs import Payload

EVERY = int(sum(ProtocolFeature)) & ~int(ProtocolFeature.XEN_MMAP)


def session(protocol_features: int = EVERY, quirks: Quirk = Quirk.TOLERANT) -> FrontendSession:
    """A front-end session that has negotiated."""
    made = FrontendSession(quirks=quirks)
    features = int(VirtioFeature.PROTOCOL_FEATURES | VirtioFeature.ACCESS_PLATFORM)
    made.negotiation.offered_features = made.negotiation.acked_features = features
    made.negotiation.offered_protocol_features = made.negotiation.acked_protocol_features = protocol_features
    return made


def answer(
    made: Any, request: int, data: Payload | bytes = b"", fds: Sequence[int] = (), flags: int = 5
) -> Reply | None:
    """Let a reply arrive."""
    payload = data if isinstance(data, bytes) else data.pack()
    whole = encode(request, flags, payload)
    result: Reply | None = made.receive(whole[:12], fds)
    return result if result is not None or not payload else made.receive(whole[12:])
