"""Crypto sessions of a ``Device``: C024, C097."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.devices import Echo
from vhost_user import Device, Request, RequestRefused
from vhost_user.spec.features import ProtocolFeature
from vhost_user.spec.requests import FrontendRequest as Ask
from vhost_user.spec.structs import U64, CryptoSession

if TYPE_CHECKING:
    from tests.backend.conftest import Stage


class Crypto(Device, extra_protocol_features=int(ProtocolFeature.CRYPTO_SESSION)):
    answer: Any = 7

    def handle(self, request: Request) -> None:
        del request

    def create_crypto_session(self, op_code: int, body: bytes) -> int:
        self.opened = op_code, body
        return self.answer  # type: ignore[no-any-return]

    def close_crypto_session(self, session: int) -> None:
        if session != 7:
            raise RequestRefused("there is no such session", rule="C097")


def test_C097_crypto_sessions(stage: Stage) -> None:
    device = Crypto()
    _, front = stage.serve(device)
    front.negotiate()
    reply = front.call(Ask.CREATE_CRYPTO_SESSION, CryptoSession(2, b"keys", 0))
    assert reply == CryptoSession(2, b"keys", 7)
    assert device.opened == (2, b"keys")
    front.call(Ask.CLOSE_CRYPTO_SESSION, U64(7), need_reply=True)
    with pytest.raises(RequestRefused):
        front.call(Ask.CLOSE_CRYPTO_SESSION, U64(8), need_reply=True)


@pytest.mark.parametrize("answer", [-1, 1 << 63, "7", None, True])
def test_C097_an_id_that_is_none_is_a_refusal(stage: Stage, answer: object, caplog: Any) -> None:
    device = Crypto()
    device.answer = answer
    _, front = stage.serve(device)
    front.negotiate()
    with pytest.raises(RequestRefused):
        front.call(Ask.CREATE_CRYPTO_SESSION, CryptoSession(2, b"keys", 0))
    assert front.call(Ask.GET_FEATURES)
    assert caplog.records


def test_C024_a_device_without_crypto_says_so(stage: Stage) -> None:
    class Plain(Echo, extra_protocol_features=int(ProtocolFeature.CRYPTO_SESSION)):
        pass

    _, front = stage.serve(Plain())
    front.negotiate()
    with pytest.raises(RequestRefused):
        front.call(Ask.CREATE_CRYPTO_SESSION, CryptoSession(2, b"keys", 0))
