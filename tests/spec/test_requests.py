"""The request table against the tables of the specification: it is complete and agrees with itself."""

from enum import IntEnum

import pytest

from vhost_user.spec.features import ProtocolFeature, VirtioFeature
from vhost_user.spec.requests import (
    BACKEND_REQUESTS,
    FRONTEND_REQUESTS,
    BackendRequest,
    Direction,
    FrontendRequest,
    ReplyKind,
    RequestRow,
)
from vhost_user.spec.structs import MAX_PAYLOAD_SIZE, U64, Empty, XenMemory, XenMemorySlot

EVERY = [*FRONTEND_REQUESTS, *BACKEND_REQUESTS]


def names(row: RequestRow) -> str:
    return row.name


def test_every_message_has_one_row() -> None:
    assert (
        [row.id for row in FRONTEND_REQUESTS] == list(range(1, 45)) == [int(kind) for kind in FrontendRequest]
    )
    assert (
        [row.id for row in BACKEND_REQUESTS] == list(range(1, 11)) == [int(kind) for kind in BackendRequest]
    )
    assert (len(FRONTEND_REQUESTS), len(BACKEND_REQUESTS)) == (44, 10)


def test_tables_are_looked_up_by_id() -> None:
    assert FRONTEND_REQUESTS[12].name == "SET_VRING_KICK"
    assert FRONTEND_REQUESTS.get(0) is None
    assert FRONTEND_REQUESTS.get(45) is None
    assert 44 in FRONTEND_REQUESTS
    assert 11 not in BACKEND_REQUESTS
    with pytest.raises(KeyError):
        BACKEND_REQUESTS[0]


@pytest.mark.parametrize("row", EVERY, ids=names)
def test_rows_agree_with_themselves(row: RequestRow) -> None:
    assert row.handler.isidentifier()
    assert row.handler == row.name.lower()
    assert row.description.endswith(".")
    assert row.section
    assert len(row.request.name) > 4
    assert row.payload.SIZE <= MAX_PAYLOAD_SIZE
    if row.reply is ReplyKind.ACK:
        assert row.reply_payload is Empty
        assert row.error_reply is None
        assert not row.reply_rules
    if row.reply is ReplyKind.STATUS:
        assert row.reply_payload is U64
        assert row.error_reply is not None


GATES: list[tuple[IntEnum, ProtocolFeature | VirtioFeature]] = [
    (FrontendRequest.SET_LOG_BASE, ProtocolFeature.LOG_SHMFD),
    (FrontendRequest.GET_PROTOCOL_FEATURES, VirtioFeature.PROTOCOL_FEATURES),
    (FrontendRequest.SET_PROTOCOL_FEATURES, VirtioFeature.PROTOCOL_FEATURES),
    (FrontendRequest.GET_QUEUE_NUM, ProtocolFeature.MQ),
    (FrontendRequest.SET_VRING_ENABLE, VirtioFeature.PROTOCOL_FEATURES),
    (FrontendRequest.SEND_RARP, ProtocolFeature.RARP),
    (FrontendRequest.NET_SET_MTU, ProtocolFeature.MTU),
    (FrontendRequest.SET_BACKEND_REQ_FD, ProtocolFeature.BACKEND_REQ),
    (FrontendRequest.IOTLB_MSG, VirtioFeature.ACCESS_PLATFORM),
    (FrontendRequest.SET_VRING_ENDIAN, ProtocolFeature.CROSS_ENDIAN),
    (FrontendRequest.GET_CONFIG, ProtocolFeature.CONFIG),
    (FrontendRequest.SET_CONFIG, ProtocolFeature.CONFIG),
    (FrontendRequest.CREATE_CRYPTO_SESSION, ProtocolFeature.CRYPTO_SESSION),
    (FrontendRequest.CLOSE_CRYPTO_SESSION, ProtocolFeature.CRYPTO_SESSION),
    (FrontendRequest.POSTCOPY_ADVISE, ProtocolFeature.PAGEFAULT),
    (FrontendRequest.POSTCOPY_LISTEN, ProtocolFeature.PAGEFAULT),
    (FrontendRequest.POSTCOPY_END, ProtocolFeature.PAGEFAULT),
    (FrontendRequest.GET_INFLIGHT_FD, ProtocolFeature.INFLIGHT_SHMFD),
    (FrontendRequest.SET_INFLIGHT_FD, ProtocolFeature.INFLIGHT_SHMFD),
    (FrontendRequest.RESET_DEVICE, ProtocolFeature.RESET_DEVICE),
    (FrontendRequest.VRING_KICK, ProtocolFeature.INBAND_NOTIFICATIONS),
    (FrontendRequest.GET_MAX_MEM_SLOTS, ProtocolFeature.CONFIGURE_MEM_SLOTS),
    (FrontendRequest.ADD_MEM_REG, ProtocolFeature.CONFIGURE_MEM_SLOTS),
    (FrontendRequest.REM_MEM_REG, ProtocolFeature.CONFIGURE_MEM_SLOTS),
    (FrontendRequest.SET_STATUS, ProtocolFeature.STATUS),
    (FrontendRequest.GET_STATUS, ProtocolFeature.STATUS),
    (FrontendRequest.GET_SHARED_OBJECT, ProtocolFeature.SHARED_OBJECT),
    (FrontendRequest.SET_DEVICE_STATE_FD, ProtocolFeature.DEVICE_STATE),
    (FrontendRequest.CHECK_DEVICE_STATE, ProtocolFeature.DEVICE_STATE),
    (FrontendRequest.GET_SHMEM_CONFIG, ProtocolFeature.SHMEM),
    (BackendRequest.IOTLB_MSG, VirtioFeature.ACCESS_PLATFORM),
    (BackendRequest.CONFIG_CHANGE_MSG, ProtocolFeature.CONFIG),
    (BackendRequest.VRING_HOST_NOTIFIER_MSG, ProtocolFeature.HOST_NOTIFIER),
    (BackendRequest.VRING_CALL, ProtocolFeature.INBAND_NOTIFICATIONS),
    (BackendRequest.VRING_ERR, ProtocolFeature.INBAND_NOTIFICATIONS),
    (BackendRequest.SHARED_OBJECT_ADD, ProtocolFeature.SHARED_OBJECT),
    (BackendRequest.SHARED_OBJECT_REMOVE, ProtocolFeature.SHARED_OBJECT),
    (BackendRequest.SHARED_OBJECT_LOOKUP, ProtocolFeature.SHARED_OBJECT),
    (BackendRequest.SHMEM_MAP, ProtocolFeature.SHMEM),
    (BackendRequest.SHMEM_UNMAP, ProtocolFeature.SHMEM),
]


@pytest.mark.parametrize("row", EVERY, ids=names)
def test_C024_gates_are_those_of_the_specification(row: RequestRow) -> None:
    wanted = {gate for request, gate in GATES if request is row.request}
    assert {row.protocol_feature, row.virtio_feature, row.offered_feature} - {None} == wanted


def test_C023_protocol_features_need_bit_30_offered_and_enable_needs_it_negotiated() -> None:
    for request in (FrontendRequest.GET_PROTOCOL_FEATURES, FrontendRequest.SET_PROTOCOL_FEATURES):
        assert FRONTEND_REQUESTS[request].offered_feature is VirtioFeature.PROTOCOL_FEATURES
    assert (
        FRONTEND_REQUESTS[FrontendRequest.SET_VRING_ENABLE].virtio_feature is VirtioFeature.PROTOCOL_FEATURES
    )


def test_C014_numbers_of_descriptors_are_those_of_the_specification() -> None:
    carrying = {row.name: row.fds.text for row in FRONTEND_REQUESTS if row.fds.text != "0"}
    assert carrying == {
        "SET_MEM_TABLE": "nregions",
        "SET_LOG_BASE": "1",
        "SET_LOG_FD": "1",
        "SET_VRING_KICK": "1, or 0 with bit 8",
        "SET_VRING_CALL": "1, or 0 with bit 8",
        "SET_VRING_ERR": "1, or 0 with bit 8",
        "SET_BACKEND_REQ_FD": "1",
        "SET_INFLIGHT_FD": "1",
        "GPU_SET_SOCKET": "1",
        "ADD_MEM_REG": "1",
        "REM_MEM_REG": "0 (1 is closed)",
        "SET_DEVICE_STATE_FD": "1",
    }
    carrying = {row.name: row.fds.text for row in BACKEND_REQUESTS if row.fds.text != "0"}
    assert carrying == {"VRING_HOST_NOTIFIER_MSG": "1, or 0 with bit 8", "SHMEM_MAP": "1"}


def test_C093_messages_with_a_reply_of_their_own_are_those_of_the_specification() -> None:
    own = {row.name for row in FRONTEND_REQUESTS if row.has_own_reply(ProtocolFeature.LOG_SHMFD)}
    assert own == {
        "GET_FEATURES",
        "SET_LOG_BASE",
        "GET_VRING_BASE",
        "GET_PROTOCOL_FEATURES",
        "GET_QUEUE_NUM",
        "IOTLB_MSG",
        "GET_CONFIG",
        "CREATE_CRYPTO_SESSION",
        "POSTCOPY_ADVISE",
        "POSTCOPY_END",
        "GET_INFLIGHT_FD",
        "GET_MAX_MEM_SLOTS",
        "GET_STATUS",
        "GET_SHARED_OBJECT",
        "SET_DEVICE_STATE_FD",
        "CHECK_DEVICE_STATE",
        "GET_SHMEM_CONFIG",
    }
    assert {row.name for row in BACKEND_REQUESTS if row.has_own_reply(0)} == {"SHARED_OBJECT_LOOKUP"}
    assert not FRONTEND_REQUESTS[FrontendRequest.SET_LOG_BASE].has_own_reply(0)


def test_C047_xen_regions_replace_the_others_when_negotiated() -> None:
    table, slot = (
        FRONTEND_REQUESTS[FrontendRequest.SET_MEM_TABLE],
        FRONTEND_REQUESTS[FrontendRequest.ADD_MEM_REG],
    )
    assert table.payload_type(ProtocolFeature.XEN_MMAP) is XenMemory
    assert slot.payload_type(ProtocolFeature.XEN_MMAP | ProtocolFeature.MQ) is XenMemorySlot
    assert table.payload_type(ProtocolFeature.MQ) is table.payload


def test_directions_know_their_opposites() -> None:
    assert FRONTEND_REQUESTS.direction is Direction.TO_BACKEND
    assert Direction.TO_BACKEND.opposite is Direction.TO_FRONTEND
    assert Direction.TO_FRONTEND.opposite is Direction.TO_BACKEND
