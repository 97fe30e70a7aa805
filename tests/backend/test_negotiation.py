"""Features, acks and replies of their own, end to end: C022 to C034, C093 to C097, C105, C122, C123."""

from __future__ import annotations

import os
import select
import uuid
from typing import TYPE_CHECKING

import pytest

from vhost_user import Device, Request, RequestRefused
from vhost_user.engine.errors import MemoryTableError
from vhost_user.protocol.errors import Disconnected
from vhost_user.spec.features import ProtocolFeature, VirtioFeature
from vhost_user.spec.requests import FrontendRequest as Ask
from vhost_user.spec.structs import (
    U64,
    Config,
    SharedUuid,
    ShmemConfig,
    TransferReply,
    TransferState,
    VringState,
)

if TYPE_CHECKING:
    from tests.backend.conftest import Stage
    from tests.support.front_end import FrontEnd


class Plain(Device):
    def handle(self, request: Request) -> None:
        data = request.read()
        request.write(data[::-1][: request.writable])


class Rich(Plain):
    """Offers everything whose messages the trait can answer."""

    extra_protocol_features = (
        ProtocolFeature.SHARED_OBJECT
        | ProtocolFeature.SHMEM
        | ProtocolFeature.DEVICE_STATE
        | ProtocolFeature.MTU
        | ProtocolFeature.RARP
    )

    def __init__(self) -> None:
        self.seen: list[object] = []

    def get_shared_object(self, identifier: uuid.UUID) -> int | None:
        return os.memfd_create("object") if identifier.int == 7 else None

    def get_shmem_config(self) -> dict[int, int]:
        return {3: 8192}

    def set_device_state_fd(self, direction: int, phase: int, fd: int) -> int | None:
        os.close(fd)
        self.seen.append((direction, phase))
        return None

    def check_device_state(self) -> None:
        if not self.seen:
            raise ValueError("nothing was moved")

    def set_mtu(self, mtu: int) -> None:
        self.seen.append(mtu)

    def send_rarp(self, mac: bytes) -> None:
        self.seen.append(mac)


def silent(front: FrontEnd) -> bool:
    return not select.select([front.connection], [], [], 0.05)[0]


def test_C022_protocol_features_come_before_set_features_and_set_owner(stage: Stage) -> None:
    _, front = stage.serve(Plain())
    front.call(Ask.GET_FEATURES)
    offered = front.call(Ask.GET_PROTOCOL_FEATURES).value
    front.call(Ask.SET_PROTOCOL_FEATURES, U64(offered), need_reply=False)
    assert front.call(Ask.GET_QUEUE_NUM).value == 1


def test_C024_a_message_of_a_feature_that_is_not_negotiated_is_refused(stage: Stage) -> None:
    _, front = stage.serve(Plain())
    front.negotiate()
    front.session.negotiation.acked_protocol_features |= ProtocolFeature.MTU
    with pytest.raises(RequestRefused):
        front.call(Ask.NET_SET_MTU, U64(1500))
    assert front.call(Ask.GET_QUEUE_NUM).value == 1


def test_C025_protocol_features_that_were_not_offered_are_refused(stage: Stage) -> None:
    _, front = stage.serve(Plain())
    front.negotiate()
    front.session.negotiation.offered_protocol_features |= ProtocolFeature.XEN_MMAP
    with pytest.raises(RequestRefused):
        front.call(Ask.SET_PROTOCOL_FEATURES, U64(ProtocolFeature.XEN_MMAP | ProtocolFeature.REPLY_ACK))
    assert front.call(Ask.GET_QUEUE_NUM).value == 1


def test_C029_features_may_be_sent_again_while_rings_run(stage: Stage) -> None:
    _, front = stage.serve(Plain())
    front.bring_up()
    acked = front.session.negotiation.acked_features
    for _ in range(3):
        front.call(Ask.SET_FEATURES, U64(acked))
        assert front.request(readable=b"abc", writable=3) == b"cba"


def test_C029_the_ring_format_cannot_change_while_rings_run(stage: Stage) -> None:
    device = Plain()
    device.packed = True
    _, front = stage.serve(device)
    front.bring_up()
    acked = front.session.negotiation.acked_features
    with pytest.raises(RequestRefused):
        front.call(Ask.SET_FEATURES, U64(acked | VirtioFeature.RING_PACKED))
    assert front.request(readable=b"abc", writable=3) == b"cba"


def test_C031_the_number_of_queues_is_told(stage: Stage) -> None:
    device = Plain()
    device.queues = 7
    _, front = stage.serve(device)
    front.negotiate()
    assert front.call(Ask.GET_QUEUE_NUM).value == 7


def test_C094_without_need_reply_nothing_is_answered_even_to_a_refused_request(stage: Stage) -> None:
    _, front = stage.serve(Plain())
    front.negotiate()
    front.call(Ask.SET_VRING_NUM, VringState(9, 16), need_reply=False)
    assert silent(front)
    assert front.call(Ask.GET_QUEUE_NUM).value == 1


def test_CONFIG_is_offered_where_there_is_a_configuration() -> None:
    class Computed(Device):
        def get_config(self, offset: int, size: int) -> bytes:
            return bytes([offset] * size)

    stored, without = Device(), Device()
    stored.config = bytes(4)
    assert [
        bool(device.protocol_features() & ProtocolFeature.CONFIG) for device in (Computed(), stored, without)
    ] == [True, True, False]


def test_C097_get_config_fails_with_size_zero_and_the_connection_lives(stage: Stage) -> None:
    class NoConfig(Plain):
        def get_config(self, offset: int, size: int) -> bytes:
            raise MemoryTableError(f"no {size} bytes at {offset}")

    _, front = stage.serve(NoConfig())
    front.negotiate()
    with pytest.raises(RequestRefused):
        front.call(Ask.GET_CONFIG, Config(0, bytes(4)))
    assert front.call(Ask.GET_QUEUE_NUM).value == 1


def test_C097_get_shared_object_answers_with_a_descriptor_or_without(stage: Stage) -> None:
    _, front = stage.serve(Rich())
    front.negotiate()
    with pytest.raises(RequestRefused):
        front.call(Ask.GET_SHARED_OBJECT, SharedUuid.of(uuid.UUID(int=1)))
    reply = front.connection.call(
        front.session, Ask.GET_SHARED_OBJECT, SharedUuid.of(uuid.UUID(int=7)), timeout=10
    )
    assert reply is not None
    with reply.fds as fds:
        assert len(fds) == 1


def test_C105_shared_memory_regions_are_told(stage: Stage) -> None:
    _, front = stage.serve(Rich())
    front.negotiate()
    assert front.call(Ask.GET_SHMEM_CONFIG) == ShmemConfig.of({3: 8192})


def test_C122_C123_the_state_moves_only_while_all_rings_are_stopped(stage: Stage) -> None:
    device = Rich()
    _, front = stage.serve(device)
    front.bring_up()
    read, write = os.pipe()
    with pytest.raises(RequestRefused):
        front.call(Ask.CHECK_DEVICE_STATE)
    with pytest.raises(RequestRefused):
        front.call(Ask.SET_DEVICE_STATE_FD, TransferState(0), [write])
    front.stop_ring()
    assert front.call(Ask.SET_DEVICE_STATE_FD, TransferState(1), [write]) == TransferReply()
    front.call(Ask.CHECK_DEVICE_STATE)
    assert device.seen == [(1, 0)]
    os.close(read)
    os.close(write)


def test_mtu_and_rarp_reach_the_device(stage: Stage) -> None:
    device = Rich()
    _, front = stage.serve(device)
    front.negotiate()
    front.call(Ask.NET_SET_MTU, U64(1500))
    front.call(Ask.SEND_RARP, U64(int.from_bytes(b"\x52\x54\0\x12\x34\x56", "little")))
    assert device.seen == [1500, b"\x52\x54\0\x12\x34\x56"]


@pytest.mark.parametrize(
    "feature",
    [ProtocolFeature.SHMEM, ProtocolFeature.DEVICE_STATE, ProtocolFeature.MTU, ProtocolFeature.RARP],
    ids=lambda feature: str(feature.name),
)
def test_what_the_device_does_not_define_is_refused_by_default(
    stage: Stage, feature: ProtocolFeature
) -> None:
    device = Plain()
    device.extra_protocol_features = feature
    _, front = stage.serve(device)
    front.negotiate()
    match feature:
        case ProtocolFeature.SHMEM:  # its reply cannot say no
            with pytest.raises(Disconnected):
                front.call(Ask.GET_SHMEM_CONFIG)
        case ProtocolFeature.DEVICE_STATE:
            read, write = os.pipe()
            with pytest.raises(RequestRefused):
                front.call(Ask.SET_DEVICE_STATE_FD, TransferState(0), [write])
            os.close(read)
            os.close(write)
        case ProtocolFeature.MTU:
            with pytest.raises(RequestRefused):
                front.call(Ask.NET_SET_MTU, U64(1500))
        case _:
            with pytest.raises(RequestRefused):
                front.call(Ask.SEND_RARP, U64(1))
