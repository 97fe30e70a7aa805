"""The back channel from the front-end's side: C098 to C104, H106 to H108."""

from __future__ import annotations

import logging
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import pytest

from vhost_user.frontend import BackChannel, BackChannelHandler, Frontend, RequestRefused, VirtioDriver
from vhost_user.protocol.errors import Disconnected
from vhost_user.protocol.framing import Message
from vhost_user.protocol.negotiation import Negotiation
from vhost_user.protocol.sessions import BackChannelRequester
from vhost_user.protocol.transport import Connection
from vhost_user.spec.features import ProtocolFeature, VirtioFeature
from vhost_user.spec.requests import BackendRequest, FrontendRequest
from vhost_user.spec.structs import (
    Iotlb,
    IotlbType,
    Payload,
    SharedUuid,
    ShmemMap,
    VringArea,
    VringState,
)

if TYPE_CHECKING:
    from tests.frontend.conftest import ScriptedBackend

PAGE = 4096
OBJECT = uuid.UUID("12345678-1234-5678-1234-567812345678")


def everything() -> Negotiation:
    bits = int(sum(ProtocolFeature)) & ~ProtocolFeature.XEN_MMAP
    features = VirtioFeature.PROTOCOL_FEATURES | VirtioFeature.ACCESS_PLATFORM
    return Negotiation(features, bits, features, bits)


class Channel:
    """Both ends: the front-end's, and a back-end that asks."""

    def __init__(self, handler: BackChannelHandler, *, maximum_rate: int = 10_000) -> None:
        negotiation = everything()
        self.handler = handler
        self.front = BackChannel(negotiation, handler, maximum_rate=maximum_rate)
        self.session = BackChannelRequester(negotiation)
        self.connection = Connection(self.front.backend_socket.dup(), timeout=10)
        self.front.sent()

    def ask(self, request: BackendRequest, payload: Payload | None = None, fds: Sequence[int] = ()) -> None:
        reply = self.connection.call(self.session, request, payload, fds, timeout=10)
        if reply is not None:
            reply.fds.close()

    def close(self) -> None:
        self.front.close()
        self.session.close()
        self.connection.close()


@pytest.fixture
def channel() -> Iterator[Channel]:
    channel = Channel(BackChannelHandler(num_queues=2, shmem={1: 4 * PAGE}))
    yield channel
    channel.close()


@pytest.fixture
def file() -> Iterator[int]:
    fd = os.memfd_create("mapped")
    os.ftruncate(fd, 4 * PAGE)
    yield fd
    os.close(fd)


def test_C130_a_config_change_is_told(channel: Channel) -> None:
    changed = threading.Event()
    channel.handler.on_config_change = changed.set
    channel.ask(BackendRequest.CONFIG_CHANGE_MSG)
    assert changed.is_set()
    assert channel.front.counts["CONFIG_CHANGE_MSG"] == 1


def test_C133_in_band_calls_name_their_queue(channel: Channel) -> None:
    called: list[int] = []
    channel.handler.on_call = called.append
    channel.ask(BackendRequest.VRING_CALL, VringState(1))
    channel.ask(BackendRequest.VRING_ERR, VringState(0))
    with pytest.raises(RequestRefused):
        channel.ask(BackendRequest.VRING_CALL, VringState(2))
    assert called == [1]
    assert "C101" in channel.front.refused[-1]


def test_C090_a_miss_is_told_or_refused(channel: Channel) -> None:
    miss = Iotlb(0x1000, 4096, 0, 1, IotlbType.MISS)
    with pytest.raises(RequestRefused):
        channel.ask(BackendRequest.IOTLB_MSG, miss)
    misses: list[Iotlb] = []
    channel.handler.on_iotlb = misses.append
    channel.ask(BackendRequest.IOTLB_MSG, miss)
    assert misses == [miss]


@pytest.mark.parametrize(("size", "good"), [(PAGE, True), (2 * PAGE, False), (1, False)])
def test_H108_a_doorbell_is_exactly_one_page(channel: Channel, file: int, size: int, good: bool) -> None:
    area = VringArea(1, size, 0)
    if good:
        channel.ask(BackendRequest.VRING_HOST_NOTIFIER_MSG, area, [file])
    else:
        with pytest.raises(RequestRefused):
            channel.ask(BackendRequest.VRING_HOST_NOTIFIER_MSG, area, [file])
        assert "H108" in channel.front.refused[-1]
    channel.ask(BackendRequest.VRING_HOST_NOTIFIER_MSG, VringArea(1 | 1 << 8))
    with pytest.raises(RequestRefused):
        channel.ask(BackendRequest.VRING_HOST_NOTIFIER_MSG, VringArea(2, PAGE), [file])


def test_C103_only_the_owner_takes_an_object_back(channel: Channel) -> None:
    with pytest.raises(RequestRefused):
        channel.ask(BackendRequest.SHARED_OBJECT_REMOVE, SharedUuid.of(OBJECT))
    channel.ask(BackendRequest.SHARED_OBJECT_ADD, SharedUuid.of(OBJECT))
    channel.ask(BackendRequest.SHARED_OBJECT_REMOVE, SharedUuid.of(OBJECT))


def test_C100_a_lookup_is_always_answered(channel: Channel, file: int) -> None:
    with pytest.raises(RequestRefused):
        channel.ask(BackendRequest.SHARED_OBJECT_LOOKUP, SharedUuid.of(OBJECT))
    lookups = channel.handler.shared_object_lookups
    lookups[OBJECT] = lambda: os.dup(file)
    channel.ask(BackendRequest.SHARED_OBJECT_LOOKUP, SharedUuid.of(OBJECT))


@pytest.mark.parametrize(
    ("request_", "rule"),
    [
        (ShmemMap(1, 0, 4 * PAGE, PAGE), "H107"),
        (ShmemMap(1, 0, 0, 5 * PAGE), "H107"),
        (ShmemMap(2, 0, 0, PAGE), "H107"),
        (ShmemMap(1, 4 * PAGE, 0, PAGE), "H107"),
        (ShmemMap(1, 0, PAGE, PAGE), "H107"),
        (ShmemMap(1, 0, 2 * PAGE + 1, PAGE), "C104"),
        (ShmemMap(1, 0, 2 * PAGE, 17), "C104"),
        (ShmemMap(1, 0, 0, 1 << 63), "H107"),
    ],
)
def test_C104_H107_mappings_that_do_not_fit_are_refused(
    channel: Channel, file: int, request_: ShmemMap, rule: str
) -> None:
    channel.ask(BackendRequest.SHMEM_MAP, ShmemMap(1, 0, PAGE, PAGE), [file])
    with pytest.raises(RequestRefused):
        channel.ask(BackendRequest.SHMEM_MAP, request_, [file])
    assert rule in channel.front.refused[-1]
    assert len(channel.handler.shmem_maps[1]) == 1


def test_C104_an_unmap_equals_one_whole_mapping(channel: Channel, file: int) -> None:
    channel.ask(BackendRequest.SHMEM_MAP, ShmemMap(1, 0, PAGE, 2 * PAGE), [file])
    for wrong in (ShmemMap(1, 0, PAGE, PAGE), ShmemMap(1, 0, 0, 3 * PAGE), ShmemMap(0, 0, PAGE, 2 * PAGE)):
        with pytest.raises(RequestRefused):
            channel.ask(BackendRequest.SHMEM_UNMAP, wrong)
    channel.ask(BackendRequest.SHMEM_UNMAP, ShmemMap(1, 0, PAGE, 2 * PAGE))
    assert channel.handler.shmem_maps[1] == []


def test_C101_a_handler_that_fails_refuses_and_the_channel_lives(
    channel: Channel, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    channel.handler.on_config_change = fail
    with caplog.at_level(logging.CRITICAL, "vhost_user"), pytest.raises(RequestRefused):
        channel.ask(BackendRequest.CONFIG_CHANGE_MSG)
    channel.handler.on_config_change = None
    channel.ask(BackendRequest.CONFIG_CHANGE_MSG)


def test_C101_broken_framing_ends_the_channel_only(channel: Channel) -> None:
    channel.connection.send(Message(b"\xff" * 12))
    with pytest.raises(Disconnected):
        channel.connection.receive(channel.session, timeout=10)
    assert channel.front.error is not None


def test_H106_a_flood_is_slowed_down_and_ends_with_close() -> None:
    channel = Channel(BackChannelHandler(), maximum_rate=20)
    try:
        for _ in range(20):
            channel.ask(BackendRequest.CONFIG_CHANGE_MSG)
        while not channel.front.throttled:
            pass
        assert channel.front.counts["CONFIG_CHANGE_MSG"] == 20
    finally:
        channel.close()  # does not wait for the pause to end
    assert not channel.front.alive


def test_C098_the_driver_hands_a_channel_over_and_replaces_it(
    make_backend: Callable[..., ScriptedBackend],
) -> None:
    backend = make_backend(features=VirtioFeature.PROTOCOL_FEATURES | VirtioFeature.VERSION_1)
    with VirtioDriver(backend.socket) as driver:
        first = driver.back_channel
        assert first is not None
        assert driver.back_channel is not None
        assert driver.back_channel.handler.shmem == {0: 1 << 20, 7: 8192}
        second = driver.open_back_channel()
        assert driver.back_channel is second
        assert not first.alive
        there = Connection(socket.socket(fileno=os.dup(backend.fds["SET_BACKEND_REQ_FD"])), timeout=10)
        requester = BackChannelRequester(backend.session.negotiation)
        there.call(requester, BackendRequest.CONFIG_CHANGE_MSG, need_reply=True, timeout=10)
        assert driver.config_changed.is_set()
        assert driver.config_changes == 1
        requester.close()
        there.close()


def test_C102_the_channel_is_served_while_the_main_channel_waits(
    backend: ScriptedBackend, frontend: Frontend
) -> None:
    """The back-end asks on the back channel, acked, before it answers GET_VRING_BASE."""
    channel = BackChannel(frontend.session.negotiation, BackChannelHandler())
    frontend.set_backend_req_fd(channel.backend_socket.fileno())
    channel.sent()

    def base(request: object) -> Payload:
        del request
        there = Connection(socket.socket(fileno=os.dup(backend.fds["SET_BACKEND_REQ_FD"])), timeout=10)
        requester = BackChannelRequester(backend.session.negotiation)
        there.call(requester, BackendRequest.CONFIG_CHANGE_MSG, need_reply=True, timeout=10)
        requester.close()
        there.close()
        return VringState(0, 5)

    backend.script[FrontendRequest.GET_VRING_BASE] = base
    assert frontend.get_vring_base(0) == 5
    assert channel.counts["CONFIG_CHANGE_MSG"] == 1
    channel.close()
