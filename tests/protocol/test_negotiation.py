"""Feature negotiation: C022 to C034."""

from typing import Any

import pytest

from vhost_user.protocol.errors import ProtocolError, RequestRefused
from vhost_user.protocol.framing import encode
from vhost_user.protocol.negotiation import Negotiation, bit_names
from vhost_user.protocol.responder import ReceivedMessage, Refusal
from vhost_user.protocol.sessions import BackendSession, FrontendSession
from vhost_user.spec.features import ProtocolFeature, VirtioFeature
from vhost_user.spec.requests import FRONTEND_REQUESTS, FrontendRequest
from vhost_user.spec.structs import U64, Header, VringState

Backend = Any
F = FrontendRequest
NEED_REPLY = 0x9
BIT_30 = VirtioFeature.PROTOCOL_FEATURES


def value_of(data: bytes | None) -> int:
    assert data is not None
    return U64.unpack(data[12:]).value


def test_C022_protocol_features_are_negotiated_before_owner_and_features(backend: Backend) -> None:
    offered = backend.session.negotiation
    assert value_of(backend.accept(F.GET_PROTOCOL_FEATURES)) == offered.offered_protocol_features
    assert backend.accept(F.SET_PROTOCOL_FEATURES, U64(ProtocolFeature.MQ)) is None
    assert offered.acked_protocol_features == ProtocolFeature.MQ
    assert offered.acked_features == 0
    assert value_of(backend.accept(F.GET_FEATURES)) == offered.offered_features


def test_C023_without_bit_30_offered_there_are_no_protocol_features() -> None:
    session = BackendSession(VirtioFeature.VERSION_1, ProtocolFeature.MQ)
    result = session.receive(encode(F.SET_PROTOCOL_FEATURES, 1, U64(0).pack())[:12])
    assert result is None
    result = session.receive(U64(0).pack())
    assert isinstance(result, Refusal)
    assert result.error.rule == "C023"
    with pytest.raises(ProtocolError, match="C023"):
        session.receive(encode(F.GET_PROTOCOL_FEATURES, 1))


GATED = [
    pytest.param(row, id=row.name) for row in FRONTEND_REQUESTS if row.protocol_feature or row.virtio_feature
]


@pytest.mark.parametrize("row", GATED)
def test_C024_gated_messages_are_refused_without_their_feature(backend: Backend, row: Any) -> None:
    lacking = int(backend.session.negotiation.offered_protocol_features)
    features = int(backend.session.negotiation.offered_features)
    if row.protocol_feature:
        lacking &= ~int(row.protocol_feature)
        if row.protocol_feature is ProtocolFeature.INFLIGHT_SHMFD:
            lacking &= ~int(ProtocolFeature.GET_VRING_BASE_INFLIGHT)
        if row.protocol_feature is ProtocolFeature.BACKEND_REQ:
            lacking &= ~int(ProtocolFeature.INBAND_NOTIFICATIONS)
    if row.virtio_feature:
        features &= ~int(row.virtio_feature)
    backend.negotiate(features, lacking)
    data = bytes(row.payload.SIZE)
    if row.has_own_reply(lacking) and row.error_reply is None:
        with pytest.raises(ProtocolError, match="C024"):
            backend.receive(row.id, data, [], NEED_REPLY)
        return
    result = backend.receive(row.id, data, [], NEED_REPLY)
    assert isinstance(result, Refusal)
    assert result.error.rule == "C024"
    assert result.response is not None


@pytest.mark.parametrize("bit", [17, 23, 40, 63])
def test_C025_unoffered_protocol_features_are_refused(negotiated: Backend, bit: int) -> None:
    before = negotiated.session.negotiation.acked_protocol_features
    result = negotiated.receive(F.SET_PROTOCOL_FEATURES, U64(1 << bit), [], NEED_REPLY)
    assert isinstance(result, Refusal)
    assert result.error.rule == "C025"
    assert value_of(result.response.data if result.response else None) == 1
    assert negotiated.session.negotiation.acked_protocol_features == before


@pytest.mark.parametrize("bit", [0, 5, 25, 34, 42, 50, 63])
def test_C026_unoffered_features_are_refused_and_the_acked_ones_stay(negotiated: Backend, bit: int) -> None:
    before = negotiated.session.negotiation.acked_features
    result = negotiated.receive(F.SET_FEATURES, U64(before | 1 << bit), [], NEED_REPLY)
    assert isinstance(result, Refusal)
    assert result.error.rule == "C026"
    assert value_of(result.response.data if result.response else None) == 1
    assert negotiated.session.negotiation.acked_features == before


def test_C026_a_refusal_by_the_device_leaves_the_acked_features(negotiated: Backend) -> None:
    before = negotiated.session.negotiation.acked_features
    request = negotiated.receive(F.SET_FEATURES, U64(0))
    assert isinstance(request, ReceivedMessage)
    negotiated.session.refuse(request, RequestRefused("the device needs VERSION_1"))
    assert negotiated.session.negotiation.acked_features == before


@pytest.mark.parametrize("missing", [ProtocolFeature.BACKEND_REQ, ProtocolFeature.REPLY_ACK])
def test_C027_in_band_without_what_it_needs_closes(backend: Backend, missing: ProtocolFeature) -> None:
    needs = ProtocolFeature.BACKEND_REQ | ProtocolFeature.REPLY_ACK
    bits = ProtocolFeature.INBAND_NOTIFICATIONS | (int(needs) & ~int(missing))
    with pytest.raises(ProtocolError, match="C027"):
        backend.receive(F.SET_PROTOCOL_FEATURES, U64(bits))
    assert backend.session.wanted == 0


def test_C027_in_band_with_what_it_needs(backend: Backend) -> None:
    bits = ProtocolFeature.INBAND_NOTIFICATIONS | ProtocolFeature.BACKEND_REQ | ProtocolFeature.REPLY_ACK
    assert backend.accept(F.SET_PROTOCOL_FEATURES, U64(bits)) is None
    assert backend.session.negotiation.has_protocol_feature(bits)


def test_C028_base_in_flight_needs_in_flight(backend: Backend) -> None:
    result = backend.receive(F.SET_PROTOCOL_FEATURES, U64(ProtocolFeature.GET_VRING_BASE_INFLIGHT))
    assert isinstance(result, Refusal)
    assert result.error.rule == "C028"
    both = ProtocolFeature.GET_VRING_BASE_INFLIGHT | ProtocolFeature.INFLIGHT_SHMFD
    backend.accept(F.SET_PROTOCOL_FEATURES, U64(both))
    assert backend.session.negotiation.acked_protocol_features == both


def test_C029_features_may_be_set_again_and_again(negotiated: Backend) -> None:
    for features in (BIT_30, BIT_30 | VirtioFeature.LOG_ALL, BIT_30, 0):
        negotiated.accept(F.SET_FEATURES, U64(features))
        assert negotiated.session.negotiation.acked_features == features


def test_C030_V048_the_device_does_not_see_bits_26_and_30() -> None:
    every = (1 << 64) - 1
    assert Negotiation(acked_features=every).device_features == every & ~(1 << 30) & ~(1 << 26)
    flags = VirtioFeature.LOG_ALL | BIT_30 | VirtioFeature.VERSION_1 | 1 << 5
    assert Negotiation(acked_features=flags).device_features == 1 << 32 | 1 << 5


def test_C031_queue_number_needs_mq(backend: Backend) -> None:
    with pytest.raises(ProtocolError, match=r"GET_QUEUE_NUM.*MQ.*C024.*C097"):
        backend.receive(F.GET_QUEUE_NUM)


def test_C032_a_new_session_starts_from_nothing(negotiated: Backend) -> None:
    offered = negotiated.session.negotiation
    assert offered.acked_protocol_features
    fresh = BackendSession(offered.offered_features, offered.offered_protocol_features).negotiation
    assert (fresh.acked_features, fresh.acked_protocol_features) == (0, 0)


def test_C033_reset_owner_keeps_what_was_negotiated(negotiated: Backend) -> None:
    before = negotiated.session.negotiation
    features, protocol_features = before.acked_features, before.acked_protocol_features
    negotiated.accept(F.RESET_OWNER)
    assert negotiated.session.negotiation.acked_features == features
    assert negotiated.session.negotiation.acked_protocol_features == protocol_features


def test_C063_enable_needs_bit_30_acked_not_only_offered(backend: Backend) -> None:
    backend.negotiate(0, ProtocolFeature.REPLY_ACK)
    result = backend.receive(F.SET_VRING_ENABLE, VringState(0, 1), [], NEED_REPLY)
    assert isinstance(result, Refusal)
    assert result.error.rule == "C024"


def test_C063_enable_may_come_before_set_features_once_protocol_features_were_negotiated(
    backend: Backend,
) -> None:
    # QEMU's net does it. Until then nothing says that this peer will acknowledge bit 30.
    result = backend.receive(F.SET_VRING_ENABLE, VringState(0, 1))
    assert isinstance(result, Refusal)
    assert result.error.rule == "C024"
    backend.accept(F.SET_PROTOCOL_FEATURES, U64(0))
    assert isinstance(backend.receive(F.SET_VRING_ENABLE, VringState(0, 1)), ReceivedMessage)


def test_C063_without_bit_30_offered_enable_is_not_legal_before_set_features() -> None:
    session = BackendSession(VirtioFeature.VERSION_1, 0)
    session.negotiation.protocol_features_set = True
    session.receive(encode(F.SET_VRING_ENABLE, 1, VringState(0, 1).pack())[:12])
    assert isinstance(session.receive(VringState(0, 1).pack()), Refusal)


def test_C063_the_front_end_can_enable_before_set_features() -> None:
    session = frontend(BIT_30 | 1, ProtocolFeature.MQ)
    session.send(F.SET_PROTOCOL_FEATURES, U64(0))
    assert session.send(F.SET_VRING_ENABLE, VringState(0, 1)).data[12:] == VringState(0, 1).pack()
    session.send(F.SET_FEATURES, U64(1))
    with pytest.raises(RequestRefused, match="C024"):
        session.send(F.SET_VRING_ENABLE, VringState(0, 1))


@pytest.mark.parametrize("bit", [1, 2, 3, 4])
def test_H33_bit_30_is_a_bit_and_not_the_number_30(bit: int) -> None:
    session = BackendSession(1 << bit, 0)
    with pytest.raises(ProtocolError, match="C023"):
        session.receive(encode(F.GET_PROTOCOL_FEATURES, 1))


def frontend(features: int, protocol_features: int) -> FrontendSession:
    """A front-end session that has asked for features."""
    session = FrontendSession()
    for request, value in ((F.GET_FEATURES, features), (F.GET_PROTOCOL_FEATURES, protocol_features)):
        session.send(request)
        session.receive(Header(request, 5, 8).pack())
        session.receive(U64(value).pack())
    return session


def test_C024_the_front_end_sends_no_gated_message() -> None:
    session = frontend(BIT_30, ProtocolFeature.MQ)
    with pytest.raises(RequestRefused, match=r"GET_QUEUE_NUM \(not sent\).*C024"):
        session.send(F.GET_QUEUE_NUM)
    with pytest.raises(RequestRefused, match=r"SET_VRING_ENABLE \(not sent\) \(queue 3\).*C024"):
        session.send(F.SET_VRING_ENABLE, VringState(3, 1))
    session.send(F.SET_PROTOCOL_FEATURES, U64(ProtocolFeature.MQ))
    assert not session.expects_reply
    assert session.send(F.GET_QUEUE_NUM).data == encode(F.GET_QUEUE_NUM, 1)


def test_C023_the_front_end_needs_bit_30_offered() -> None:
    with pytest.raises(RequestRefused, match="C023"):
        FrontendSession().send(F.GET_PROTOCOL_FEATURES)


def test_C025_C026_the_front_end_acks_only_what_was_offered() -> None:
    session = frontend(BIT_30, ProtocolFeature.MQ)
    with pytest.raises(RequestRefused, match=r"VERSION_1 was not offered.*C026"):
        session.send(F.SET_FEATURES, U64(BIT_30 | VirtioFeature.VERSION_1))
    with pytest.raises(RequestRefused, match=r"CONFIG was not offered.*C025"):
        session.send(F.SET_PROTOCOL_FEATURES, U64(ProtocolFeature.CONFIG))


@pytest.mark.parametrize(
    "bits", [ProtocolFeature.INBAND_NOTIFICATIONS, ProtocolFeature.GET_VRING_BASE_INFLIGHT]
)
def test_C027_C028_the_front_end_keeps_the_dependencies(bits: ProtocolFeature) -> None:
    session = frontend(BIT_30, sum(ProtocolFeature))
    with pytest.raises(RequestRefused, match=r"not sent.*C02[78]"):
        session.send(F.SET_PROTOCOL_FEATURES, U64(bits))


def test_C034_the_front_end_needs_the_back_channel_for_an_iommu() -> None:
    session = frontend(BIT_30 | VirtioFeature.ACCESS_PLATFORM, sum(ProtocolFeature))
    session.send(F.SET_PROTOCOL_FEATURES, U64(ProtocolFeature.BACKEND_REQ))
    with pytest.raises(RequestRefused, match="C034"):
        session.send(F.SET_FEATURES, U64(VirtioFeature.ACCESS_PLATFORM))
    session.send(F.SET_PROTOCOL_FEATURES, U64(ProtocolFeature.BACKEND_REQ | ProtocolFeature.REPLY_ACK))
    session.send(F.SET_FEATURES, U64(VirtioFeature.ACCESS_PLATFORM))


def test_C096_features_count_only_when_they_were_acked() -> None:
    session = frontend(BIT_30, ProtocolFeature.REPLY_ACK)
    session.send(F.SET_PROTOCOL_FEATURES, U64(ProtocolFeature.REPLY_ACK))
    session.send(F.SET_FEATURES, U64(BIT_30))
    assert session.negotiation.acked_features == 0
    session.receive(Header(F.SET_FEATURES, 5, 8).pack())
    with pytest.raises(RequestRefused, match="C096"):
        session.receive(U64(1).pack())
    assert session.negotiation.acked_features == 0
    session.send(F.SET_FEATURES, U64(BIT_30))
    session.receive(Header(F.SET_FEATURES, 5, 8).pack())
    session.receive(U64(0).pack())
    assert session.negotiation.has_feature(BIT_30)


def test_bits_have_names_or_numbers() -> None:
    assert bit_names(0, VirtioFeature) == "none"
    assert bit_names(1 << 32 | 1 << 5, VirtioFeature) == "bit 5, VERSION_1"
    assert bit_names(1 << 63 | 1, ProtocolFeature) == "MQ, bit 63"
