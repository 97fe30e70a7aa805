"""The four sides of a vhost-user connection: both ends of the main channel and of the back channel."""

from typing import Any

from vhost_user.protocol.errors import ProtocolError, RequestRefused
from vhost_user.protocol.framing import Frame
from vhost_user.protocol.negotiation import Negotiation, bit_names
from vhost_user.protocol.requester import Quirk, Requester
from vhost_user.protocol.responder import ReceivedMessage, Responder
from vhost_user.spec.features import ProtocolFeature, VirtioFeature
from vhost_user.spec.requests import BACKEND_REQUESTS, FRONTEND_REQUESTS, FrontendRequest
from vhost_user.spec.structs import U64, Payload
from vhost_user.spec.table import RequestRow

_IN_BAND_NEEDS = ProtocolFeature.BACKEND_REQ | ProtocolFeature.REPLY_ACK
_READY = frozenset(
    {0, FrontendRequest.SET_MEM_TABLE, FrontendRequest.ADD_MEM_REG, FrontendRequest.REM_MEM_REG}
)
"""Whose number a message has that says, in post-copy, that page faults are served (C119)."""
_IOMMU_NEEDS = ProtocolFeature.BACKEND_REQ | ProtocolFeature.REPLY_ACK


def _unoffered(asked: int, offered: int, kind: Any, rule: str) -> None:
    # int: the complement of an IntFlag would have only bits that have a name, and let the others pass.
    if extra := int(asked) & ~int(offered):
        raise RequestRefused(f"{bit_names(extra, kind)} was not offered ({extra:#x})", rule=rule)


def _dependencies(bits: int) -> None:
    """Check which protocol features need which others (C027, C028)."""
    if bits & ProtocolFeature.INBAND_NOTIFICATIONS and bits & _IN_BAND_NEEDS != _IN_BAND_NEEDS:
        raise ProtocolError("INBAND_NOTIFICATIONS needs BACKEND_REQ and REPLY_ACK", rule="C027")
    if bits & ProtocolFeature.GET_VRING_BASE_INFLIGHT and not bits & ProtocolFeature.INFLIGHT_SHMFD:
        raise RequestRefused("GET_VRING_BASE_INFLIGHT needs INFLIGHT_SHMFD", rule="C028")


def _asked_reply_ack(row: RequestRow, payload: Payload) -> bool | None:
    """Whether SET_PROTOCOL_FEATURES asks for REPLY_ACK; None for every other message.

    Acks follow the state after the message (C094): user-mode Linux and rust-vmm's front-end ask for the ack
    of the very message that negotiates acks, and wait for it.
    """
    if row.request is not FrontendRequest.SET_PROTOCOL_FEATURES:
        return None
    return isinstance(payload, U64) and bool(payload.value & ProtocolFeature.REPLY_ACK)


class BackendSession(Responder):
    """The back-end's end of the main channel.

    ``features`` and ``protocol_features`` are what the back-end offers. The session keeps the negotiation:
    what was acknowledged counts from the moment its request is answered with ``reply``. ``reply`` fills in
    the answers to GET_FEATURES and GET_PROTOCOL_FEATURES. Between POSTCOPY_LISTEN and POSTCOPY_END
    SET_MEM_TABLE and ADD_MEM_REG are answered with the memory, and what then says that the front-end is ready
    comes out as a SET_MEM_TABLE whose payload is a U64 (C119). Options: see :class:`Session`.
    """

    def __init__(self, features: int, protocol_features: int, **options: Any) -> None:
        negotiation = Negotiation(int(features), int(protocol_features))
        super().__init__(FRONTEND_REQUESTS, negotiation, **options)
        self._listening = False

    def _says_ready(self, frame: Frame) -> bool:
        # QEMU says it once for all regions that it added, with the number of the message before it: of the
        # last region added or removed, or 0 when nothing had changed.
        return (
            self._listening
            and frame.header.request in _READY
            and len(frame.payload) == U64.SIZE
            and not len(frame.fds)
        )

    def _owes_memory(self, row: RequestRow, payload: Payload) -> bool:
        return self._listening and row.postcopy_reply is not None and not isinstance(payload, U64)

    def _check(self, row: RequestRow, payload: Payload) -> None:
        if not isinstance(payload, U64):
            return
        if row.request is FrontendRequest.SET_FEATURES:
            _unoffered(payload.value, self.negotiation.offered_features, VirtioFeature, "C026")
        elif row.request is FrontendRequest.SET_PROTOCOL_FEATURES:
            _unoffered(payload.value, self.negotiation.offered_protocol_features, ProtocolFeature, "C025")
            _dependencies(payload.value)

    def _committed(self, row: RequestRow, payload: Payload) -> None:
        if row.request in (FrontendRequest.POSTCOPY_LISTEN, FrontendRequest.POSTCOPY_END):
            self._listening = row.request is FrontendRequest.POSTCOPY_LISTEN
        if not isinstance(payload, U64):
            return
        if row.request is FrontendRequest.SET_FEATURES:
            self.negotiation.commit_features(payload.value)
        elif row.request is FrontendRequest.SET_PROTOCOL_FEATURES:
            self.negotiation.commit_protocol_features(payload.value)

    def _acks(self, row: RequestRow, payload: Payload, *, refused: bool = False) -> bool:
        asked = _asked_reply_ack(row, payload)
        if asked is None or (refused and not asked):
            return super()._acks(row, payload)
        # Also when the request is refused: whoever asks for acks, and for this one, waits for it.
        return asked and bool(self.negotiation.offered_protocol_features & ProtocolFeature.REPLY_ACK)

    def _default(self, request: ReceivedMessage) -> Payload | None:
        if request.row.request is FrontendRequest.GET_FEATURES:
            return U64(self.negotiation.offered_features)
        if request.row.request is FrontendRequest.GET_PROTOCOL_FEATURES:
            return U64(self.negotiation.offered_protocol_features)
        return super()._default(request)


class FrontendSession(Requester):
    """The front-end's end of the main channel.

    The session learns what the back-end offers from the replies to GET_FEATURES and GET_PROTOCOL_FEATURES,
    and what is negotiated from the requests it sends. Options: see :class:`Requester`.
    """

    def __init__(self, *, quirks: Quirk = Quirk.TOLERANT, **options: Any) -> None:
        negotiation = Negotiation()
        if quirks & Quirk.SHMEM_AT_BIT_21:
            negotiation.shmem = ProtocolFeature.GPA_ADDRESSES
        super().__init__(FRONTEND_REQUESTS, negotiation, quirks=quirks, **options)
        self._memory_slots = 0

    def _check(self, row: RequestRow, payload: Payload) -> None:
        if not isinstance(payload, U64):
            return
        if row.request is FrontendRequest.SET_FEATURES:
            _unoffered(payload.value, self.negotiation.offered_features, VirtioFeature, "C026")
            acked = self.negotiation.acked_protocol_features
            if payload.value & VirtioFeature.ACCESS_PLATFORM and acked & _IOMMU_NEEDS != _IOMMU_NEEDS:
                raise RequestRefused("ACCESS_PLATFORM needs BACKEND_REQ and REPLY_ACK", rule="C034")
        elif row.request is FrontendRequest.SET_PROTOCOL_FEATURES:
            _unoffered(payload.value, self.negotiation.offered_protocol_features, ProtocolFeature, "C025")
            try:
                _dependencies(payload.value)
            except ProtocolError as error:
                raise RequestRefused(error.reason, rule=error.rule) from None

    def _ack_follows(self, row: RequestRow, payload: Payload) -> bool | None:
        before, after = self.negotiation.reply_ack, _asked_reply_ack(row, payload)
        if after is None or after == before:
            return before
        return None  # back-ends differ: some look at the state before the message, some after it (C094)

    def _check_answer(self, row: RequestRow, reply: Payload) -> None:
        if row.request is not FrontendRequest.GET_MAX_MEM_SLOTS or not isinstance(reply, U64):
            return
        if reply.value < self._memory_slots:
            reason = f"the back-end promised {self._memory_slots} memory slots and now has {reply.value}"
            raise ProtocolError(reason, rule="H105", message=row.name)
        self._memory_slots = reply.value

    def _committed(self, row: RequestRow, payload: Payload, reply: Payload | None) -> None:
        negotiation = self.negotiation
        match row.request, payload, reply:
            case FrontendRequest.GET_FEATURES, _, U64(value):
                negotiation.offered_features = value
            case FrontendRequest.GET_PROTOCOL_FEATURES, _, U64(value):
                negotiation.offered_protocol_features = value
            case FrontendRequest.SET_FEATURES, U64(value), _:
                negotiation.commit_features(value)
            case FrontendRequest.SET_PROTOCOL_FEATURES, U64(value), _:
                negotiation.commit_protocol_features(value)
            case _:
                return


class BackChannelRequester(Requester):
    """The back-end's end of the back channel; shares the negotiation of the main channel's session (C098)."""

    def __init__(self, negotiation: Negotiation, **options: Any) -> None:
        super().__init__(BACKEND_REQUESTS, negotiation, **options)


class BackChannelResponder(Responder):
    """The front-end's end of the back channel; shares the main channel's negotiation (C101)."""

    def __init__(self, negotiation: Negotiation, **options: Any) -> None:
        super().__init__(BACKEND_REQUESTS, negotiation, **options)
