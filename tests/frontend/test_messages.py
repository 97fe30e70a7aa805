"""Every message of the table goes round between the front-end and a scripted back-end (C001, C093)."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from vhost_user.engine.driver.memory import DriverRegion
from vhost_user.frontend import Frontend, RequestRefused
from vhost_user.frontend.inflight import Inflight
from vhost_user.spec.features import ProtocolFeature, VirtioFeature
from vhost_user.spec.requests import FRONTEND_REQUESTS, FrontendRequest
from vhost_user.spec.structs import CryptoSession, Empty, Iotlb, IotlbType, Memory, MemoryRegion, MemorySlot

if TYPE_CHECKING:
    from tests.frontend.conftest import ScriptedBackend

OBJECT = uuid.UUID("12345678-1234-5678-1234-567812345678")


def area() -> Inflight:
    fd = os.memfd_create("inflight")
    os.ftruncate(fd, 65536)
    return Inflight(fd, 65536, 0, 1, 64)


def with_fd(use: Callable[[Frontend, int], Any]) -> Callable[[Frontend], Any]:
    def call(frontend: Frontend) -> Any:
        fd = os.eventfd(0)
        try:
            return use(frontend, fd)
        finally:
            os.close(fd)

    return call


def with_region(use: Callable[[Frontend, DriverRegion], Any]) -> Callable[[Frontend], Any]:
    def call(frontend: Frontend) -> Any:
        with DriverRegion(8192, guest_address=0x1000, user_address=0x7000, file_offset=5) as region:
            return use(frontend, region)

    return call


def set_inflight(frontend: Frontend) -> None:
    inflight = area()
    try:
        frontend.set_inflight_fd(inflight)
    finally:
        inflight.close()


def get_inflight(frontend: Frontend) -> tuple[int, int]:
    inflight = frontend.get_inflight_fd(2, 64)
    inflight.close()
    inflight.close()
    return inflight.size, inflight.num_queues


def closing(use: Callable[[Frontend], int]) -> Callable[[Frontend], bool]:
    def call(frontend: Frontend) -> bool:
        os.close(use(frontend))
        return True

    return call


ROUND_TRIPS: dict[str, tuple[Callable[[Frontend], Any], Any]] = {
    "GET_FEATURES": (lambda f: f.get_features() == f.backend_features, True),
    "SET_FEATURES": (lambda f: f.set_features(VirtioFeature.VERSION_1), None),
    "SET_OWNER": (lambda f: f.set_owner(), None),
    "RESET_OWNER": (lambda f: f.reset_owner(), None),
    "SET_MEM_TABLE": (with_region(lambda f, region: f.set_mem_table([region])), []),
    "SET_LOG_BASE": (with_fd(lambda f, fd: f.set_log_base(fd, 4096, 3)), None),
    "SET_LOG_FD": (with_fd(lambda f, fd: f.set_log_fd(fd)), None),
    "SET_VRING_NUM": (lambda f: f.set_vring_num(1, 128), None),
    "SET_VRING_ADDR": (lambda f: f.set_vring_addr(1, descriptor=16, used=4, available=2), None),
    "SET_VRING_BASE": (lambda f: f.set_vring_base(1, 65535), None),
    "GET_VRING_BASE": (lambda f: f.get_vring_base(3), 7),
    "SET_VRING_KICK": (with_fd(lambda f, fd: f.set_vring_kick(1, fd)), None),
    "SET_VRING_CALL": (lambda f: f.set_vring_call(1, None), None),
    "SET_VRING_ERR": (with_fd(lambda f, fd: f.set_vring_err(255, fd)), None),
    "GET_PROTOCOL_FEATURES": (lambda f: f.get_protocol_features() == f.backend_protocol_features, True),
    "SET_PROTOCOL_FEATURES": (lambda f: f.set_protocol_features(ProtocolFeature.REPLY_ACK), None),
    "GET_QUEUE_NUM": (lambda f: f.get_queue_num(), 4),
    "SET_VRING_ENABLE": (lambda f: f.set_vring_enable(2, True), None),
    "SEND_RARP": (lambda f: f.send_rarp(b"\x52\x54\0\1\2\3"), None),
    "NET_SET_MTU": (lambda f: f.net_set_mtu(1500), None),
    "SET_BACKEND_REQ_FD": (with_fd(lambda f, fd: f.set_backend_req_fd(fd)), None),
    "IOTLB_MSG": (lambda f: f.iotlb_msg(Iotlb(0x1000, 0x1000, 0x7000, 3, IotlbType.UPDATE)), None),
    "SET_VRING_ENDIAN": (lambda f: f.set_vring_endian(0, False), None),
    "GET_CONFIG": (lambda f: f.get_config(8, 4), b"\0\1\2\3"),
    "SET_CONFIG": (lambda f: f.set_config(8, b"\1\2"), None),
    "CREATE_CRYPTO_SESSION": (lambda f: f.create_crypto_session(CryptoSession(1, b"x" * 8, 5)).session_id, 5),
    "CLOSE_CRYPTO_SESSION": (lambda f: f.close_crypto_session(5), None),
    "POSTCOPY_ADVISE": (closing(lambda f: f.postcopy_advise()), True),
    "POSTCOPY_LISTEN": (lambda f: f.postcopy_listen(), None),
    "POSTCOPY_END": (lambda f: f.postcopy_end(), None),
    "GET_INFLIGHT_FD": (get_inflight, (1 << 16, 2)),
    "SET_INFLIGHT_FD": (set_inflight, None),
    "GPU_SET_SOCKET": (with_fd(lambda f, fd: f.gpu_set_socket(fd)), None),
    "RESET_DEVICE": (lambda f: f.reset_device(), None),
    "GET_MAX_MEM_SLOTS": (lambda f: f.get_max_mem_slots(), 32),
    "ADD_MEM_REG": (with_region(lambda f, region: f.add_mem_reg(region)), None),
    "REM_MEM_REG": (with_region(lambda f, region: f.rem_mem_reg(region)), None),
    "SET_STATUS": (lambda f: f.set_status(4), None),
    "GET_STATUS": (lambda f: f.get_status(), 15),
    "GET_SHARED_OBJECT": (closing(lambda f: f.get_shared_object(OBJECT)), True),
    "SET_DEVICE_STATE_FD": (with_fd(lambda f, fd: f.set_device_state_fd(fd, 0)), None),
    "CHECK_DEVICE_STATE": (lambda f: f.check_device_state(), None),
    "GET_SHMEM_CONFIG": (lambda f: f.get_shmem_config(), {0: 1 << 20, 7: 8192}),
}


@pytest.mark.parametrize("name", [row.name for row in FRONTEND_REQUESTS if row.name != "VRING_KICK"])
def test_C001_every_message_goes_round(backend: ScriptedBackend, frontend: Frontend, name: str) -> None:
    use, wanted = ROUND_TRIPS[name]
    assert use(frontend) == wanted
    assert backend.names()[-1] == name
    fds = backend.received[-1][2]
    least, _ = FRONTEND_REQUESTS[FrontendRequest[name]].fds.bounds(backend.received[-1][1])
    assert fds == least  # and none where one would only be tolerated, as with REM_MEM_REG


def test_C133_an_in_band_kick_goes_round(make_backend: Callable[..., ScriptedBackend]) -> None:
    wanted = ProtocolFeature.INBAND_NOTIFICATIONS | ProtocolFeature.REPLY_ACK | ProtocolFeature.BACKEND_REQ
    backend = make_backend(protocol_features=wanted)
    with Frontend(backend.socket) as frontend:
        frontend.get_features()
        frontend.set_protocol_features(frontend.get_protocol_features())
        frontend.vring_kick(2)
    assert backend.names()[-1] == "VRING_KICK"


def test_C024_what_is_not_negotiated_is_not_sent(backend: ScriptedBackend) -> None:
    with Frontend(backend.socket) as frontend:
        frontend.get_features()
        for use in (
            frontend.get_queue_num,
            lambda: frontend.get_config(0, 4),
            lambda: frontend.set_vring_enable(0, True),
            lambda: frontend.set_status(1),
        ):
            with pytest.raises(RequestRefused, match=r"not sent.*C024"):
                use()
        assert frontend.get_features()
    assert backend.names() == ["GET_FEATURES", "GET_FEATURES"]


def test_C096_a_refusal_is_an_error_and_the_channel_lives(
    backend: ScriptedBackend, frontend: Frontend
) -> None:
    backend.script[FrontendRequest.SET_VRING_NUM] = lambda _: RequestRefused("no", rule="C069")
    with pytest.raises(RequestRefused, match=r"SET_VRING_NUM \(queue 9\).*C096"):
        frontend.set_vring_num(9, 64)
    assert frontend.get_queue_num() == 4


def test_C046_gpa_addresses_make_user_addresses_equal(make_backend: Callable[..., ScriptedBackend]) -> None:
    backend = make_backend(protocol_features=ProtocolFeature.GPA_ADDRESSES | ProtocolFeature.REPLY_ACK)
    with Frontend(backend.socket) as frontend, DriverRegion(4096, guest_address=0x5000) as region:
        frontend.get_features()
        frontend.set_mem_table([region])
        frontend.set_protocol_features(frontend.get_protocol_features())
        frontend.set_mem_table([region])
        frontend.barrier()
    tables = [payload for name, payload, _ in backend.received if name == "SET_MEM_TABLE"]
    assert [table.regions[0].user_addr for table in tables if isinstance(table, Memory)] == [
        0x7F00_0000_5000,
        0x5000,
    ]


def test_C119_postcopy_answers_with_addresses(backend: ScriptedBackend, frontend: Frontend) -> None:
    there = MemoryRegion(0x1000, 4096, 0xABC000)
    backend.script[FrontendRequest.SET_MEM_TABLE] = lambda _: Memory((there,))
    backend.script[FrontendRequest.ADD_MEM_REG] = lambda _: MemorySlot(there)
    with DriverRegion(4096, guest_address=0x1000) as region:
        assert frontend.set_mem_table([region], postcopy=True) == [0xABC000]
        assert frontend.add_mem_reg(region, postcopy=True) == 0xABC000


def test_C118_no_userfaultfd_is_a_refusal(backend: ScriptedBackend, frontend: Frontend) -> None:
    backend.script[FrontendRequest.POSTCOPY_ADVISE] = lambda _: Empty()
    with pytest.raises(RequestRefused):
        frontend.postcopy_advise()
    assert not frontend.closed


def test_raw_sends_anything(frontend: Frontend) -> None:
    frontend.raw(200, b"abc", need_reply=True)
    assert frontend.receive_bytes(20)[12:] == (1).to_bytes(8, "little")
    frontend.send_bytes(b"\xff" * 12)
    assert frontend.receive_bytes(12) == b""


def test_the_trace_keeps_the_last_messages(frontend: Frontend) -> None:
    frontend.get_queue_num()
    assert "GET_QUEUE_NUM reply value=4" in str(frontend.trace)
