"""Back-ends that answer otherwise are understood, unless nobody wants them to be: C094, C128."""

from collections.abc import Callable

import pytest

from tests.support.requesters import EVERY, answer, session
from vhost_user.protocol.errors import ProtocolError, RequestRefused
from vhost_user.protocol.requester import Quirk
from vhost_user.spec.features import ProtocolFeature
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.structs import U64, Config, Log

MakeFds = Callable[[int], list[int]]
F = FrontendRequest


@pytest.mark.parametrize("data", [b"", bytes(16), U64(4096).pack(), U64(0).pack()])
def test_quirk_replies_to_set_log_base_of_three_sizes(data: bytes) -> None:
    made = session()
    made.send(F.SET_LOG_BASE, Log(4096), [0])
    assert answer(made, F.SET_LOG_BASE, data) is not None


@pytest.mark.parametrize("data", [b"", bytes(16)])
def test_quirk_set_log_base_without_it(data: bytes) -> None:
    made = session(quirks=Quirk.NONE)
    made.send(F.SET_LOG_BASE, Log(4096), [0])
    with pytest.raises(ProtocolError, match="H101"):
        answer(made, F.SET_LOG_BASE, data)


def test_set_log_base_may_fail() -> None:
    made = session()
    made.send(F.SET_LOG_BASE, Log(4096), [0])
    with pytest.raises(RequestRefused):
        answer(made, F.SET_LOG_BASE, U64(1))


def test_C128_quirk_config_error_with_a_header() -> None:
    made = session(quirks=Quirk.NONE)
    made.send(F.GET_CONFIG, Config(0, bytes(4)))
    with pytest.raises(ProtocolError, match="C128"):
        answer(made, F.GET_CONFIG, Config(0, b""))


@pytest.mark.parametrize("value", [0, 1])
def test_C094_quirk_protocol_features_may_be_acked_unasked(
    value: int, caplog: pytest.LogCaptureFixture
) -> None:
    made = session(0)
    made.negotiation.offered_protocol_features = EVERY
    made.send(F.SET_PROTOCOL_FEATURES, U64(EVERY), need_reply=True)
    made.send(F.GET_FEATURES)
    assert answer(made, F.SET_PROTOCOL_FEATURES, U64(value)) is None
    assert made.expects_reply
    assert ("SET_PROTOCOL_FEATURES failed" in caplog.text) == bool(value)
    assert answer(made, F.GET_FEATURES, U64(0)) is not None
    with pytest.raises(ProtocolError, match="C006"):
        answer(made, F.SET_PROTOCOL_FEATURES, U64(0))


@pytest.mark.parametrize("acked", [True, False])
@pytest.mark.parametrize("quirks", [Quirk.NONE, Quirk.TOLERANT])
def test_C094_an_ack_of_the_message_that_negotiates_acks_may_come_or_not(quirks: Quirk, acked: bool) -> None:
    made = session(0, quirks)
    made.negotiation.offered_protocol_features = EVERY
    assert made.send(F.SET_PROTOCOL_FEATURES, U64(EVERY), need_reply=True).data[4] == 9
    assert not made.expects_reply
    made.send(F.SET_OWNER)
    if acked:
        assert answer(made, F.SET_PROTOCOL_FEATURES, U64(0)) is None
    assert answer(made, F.SET_OWNER, U64(0)) is not None


@pytest.mark.parametrize("acked", [True, False])
def test_C094_nobody_waits_for_an_ack_of_the_message_that_gives_acks_up(acked: bool) -> None:
    made = session()
    made.send(F.SET_PROTOCOL_FEATURES, U64(0), need_reply=True)
    assert not made.expects_reply
    made.send(F.GET_FEATURES)
    if acked:
        assert answer(made, F.SET_PROTOCOL_FEATURES, U64(0)) is None
    assert answer(made, F.GET_FEATURES, U64(0)) is not None
    made = session()
    assert made.send(F.SET_PROTOCOL_FEATURES, U64(0)).data[4] == 1


def test_quirk_an_unasked_ack_is_an_error_without_it(new_fds: MakeFds) -> None:
    made = session(0, Quirk.NONE)
    made.negotiation.offered_protocol_features = EVERY
    made.send(F.SET_PROTOCOL_FEATURES, U64(0))
    with pytest.raises(ProtocolError, match="no reply is due"):
        answer(made, F.SET_PROTOCOL_FEATURES, U64(0))
    made = session(0)
    made.negotiation.offered_protocol_features = EVERY
    made.send(F.SET_PROTOCOL_FEATURES, U64(0))
    with pytest.raises(ProtocolError, match="no reply is due"):
        answer(made, F.SET_PROTOCOL_FEATURES, U64(0), new_fds(1))


def test_quirk_postcopy_listen_may_be_acked_unasked() -> None:
    made = session(int(ProtocolFeature.PAGEFAULT))
    made.send(F.POSTCOPY_LISTEN)
    assert not made.expects_reply
    assert answer(made, F.POSTCOPY_LISTEN, U64(0)) is None


def test_quirk_postcopy_end_may_go_unanswered() -> None:
    made = session(int(ProtocolFeature.PAGEFAULT))
    made.send(F.POSTCOPY_END)
    assert not made.expects_reply
    assert answer(made, F.POSTCOPY_END, U64(0)) is None
    strict = session(int(ProtocolFeature.PAGEFAULT), Quirk.NONE)
    strict.send(F.POSTCOPY_END)
    assert strict.expects_reply


def test_quirk_shmem_at_bit_21() -> None:
    made = session(1 << 21, Quirk.SHMEM_AT_BIT_21)
    made.send(F.GET_SHMEM_CONFIG)
    with pytest.raises(RequestRefused, match="C024"):
        session(1 << 21).send(F.GET_SHMEM_CONFIG)
