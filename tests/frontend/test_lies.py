"""A back-end that lies, is silent, or goes away: H101 to H105, H110, and the quirks that are tolerated."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from vhost_user.frontend import Disconnected, Frontend, PeerTimeout, ProtocolError, Quirk, RequestRefused
from vhost_user.frontend.migration import load_device_state, save_device_state
from vhost_user.protocol.framing import Message, encode
from vhost_user.spec.features import ProtocolFeature
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.structs import NO_FD_BIT, TransferReply

if TYPE_CHECKING:
    from tests.frontend.conftest import Script, ScriptedBackend

REQUEST = FrontendRequest
U64_1 = struct.pack("=Q", 1)


def bad(request: int, payload: bytes, *, flags: int = 5, size: int | None = None) -> Script:
    data = bytearray(encode(request, flags, payload))
    if size is not None:
        data[8:12] = struct.pack("=I", size)
    return lambda _: Message(bytes(data))


LIES: dict[str, tuple[Callable[[Frontend], Any], Script, str]] = {
    "wrong id": (lambda f: f.get_queue_num(), bad(REQUEST.GET_CONFIG, U64_1), "C006"),
    "unknown id": (lambda f: f.get_queue_num(), bad(999, U64_1), "C006"),
    "no REPLY flag": (lambda f: f.get_queue_num(), bad(REQUEST.GET_QUEUE_NUM, U64_1, flags=1), "C003"),
    "NEED_REPLY in a reply": (
        lambda f: f.get_queue_num(),
        bad(REQUEST.GET_QUEUE_NUM, U64_1, flags=0xD),
        "C003",
    ),
    "version 2": (lambda f: f.get_queue_num(), bad(REQUEST.GET_QUEUE_NUM, U64_1, flags=6), "C002"),
    "too short": (lambda f: f.get_queue_num(), bad(REQUEST.GET_QUEUE_NUM, b"\1\0\0\0"), "H101"),
    "too long": (lambda f: f.get_queue_num(), bad(REQUEST.GET_QUEUE_NUM, U64_1 * 2), "H101"),
    "empty": (lambda f: f.get_queue_num(), bad(REQUEST.GET_QUEUE_NUM, b""), "H101"),
    "huge size": (lambda f: f.get_queue_num(), bad(REQUEST.GET_QUEUE_NUM, b"", size=0xFFFF_FFFF), "C007"),
    "ack of another size": (lambda f: f.set_owner(), bad(REQUEST.SET_OWNER, b"\0" * 4), "H101"),
    "another vring": (
        lambda f: f.get_vring_base(1),
        bad(REQUEST.GET_VRING_BASE, struct.pack("=II", 2, 0)),
        "H101",
    ),
    "no queues": (lambda f: f.get_queue_num(), bad(REQUEST.GET_QUEUE_NUM, bytes(8)), "H104"),
    "2^63 queues": (
        lambda f: f.get_queue_num(),
        bad(REQUEST.GET_QUEUE_NUM, struct.pack("=Q", 1 << 63)),
        "H104",
    ),
    "no memory slots": (lambda f: f.get_max_mem_slots(), bad(REQUEST.GET_MAX_MEM_SLOTS, bytes(8)), "H105"),
    "longer config": (
        lambda f: f.get_config(0, 4),
        bad(REQUEST.GET_CONFIG, struct.pack("=III8x", 0, 8, 0)),
        "H102",
    ),
    "config of another offset": (
        lambda f: f.get_config(0, 4),
        bad(REQUEST.GET_CONFIG, struct.pack("=III4x", 4, 4, 0)),
        "H102",
    ),
    "config size field": (
        lambda f: f.get_config(0, 4),
        bad(REQUEST.GET_CONFIG, struct.pack("=III4x", 0, 400, 0)),
        "H101",
    ),
    "in-flight area of other queues": (
        lambda f: f.get_inflight_fd(2, 64),
        bad(REQUEST.GET_INFLIGHT_FD, struct.pack("=QQHH4x", 65536, 0, 1, 64)),
        "H101",
    ),
    "shared memory count": (
        lambda f: f.get_shmem_config(),
        bad(REQUEST.GET_SHMEM_CONFIG, struct.pack("=I4x256Q", 2, 4096, *([0] * 255))),
        "C105",
    ),
    "status of 9 bits": (
        lambda f: f.get_status(),
        bad(REQUEST.GET_STATUS, struct.pack("=Q", 0x100)),
        "C131",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_H101_a_reply_that_lies_ends_the_connection(
    backend: ScriptedBackend, frontend: Frontend, lie: str
) -> None:
    use, script, rule = LIES[lie]
    request = next(request for request in REQUEST if request.name.lower() in use.__code__.co_names)
    backend.script[request] = script
    with pytest.raises(ProtocolError, match=rule):
        use(frontend)
    assert frontend.closed
    with pytest.raises(Disconnected):
        frontend.get_features()


def test_H101_descriptors_nobody_asked_for_are_closed(backend: ScriptedBackend, frontend: Frontend) -> None:
    fds = [backend.file(1) for _ in range(3)]
    message = Message(encode(REQUEST.GET_QUEUE_NUM, 5, U64_1), tuple(fds))
    backend.script[REQUEST.GET_QUEUE_NUM] = lambda _: message
    with pytest.raises(ProtocolError, match="H101"):
        frontend.get_queue_num()
    # the fixture checks that nothing stays open


def test_H101_two_replies_end_the_connection(backend: ScriptedBackend, frontend: Frontend) -> None:
    reply = encode(REQUEST.GET_QUEUE_NUM, 5, U64_1)
    backend.script[REQUEST.GET_QUEUE_NUM] = lambda _: Message(reply + reply)
    assert frontend.get_queue_num() == 1
    with pytest.raises(ProtocolError, match="no reply is due"):
        frontend.get_queue_num()
    assert frontend.closed


def test_H101_no_reply_ends_in_a_time_out(backend: ScriptedBackend) -> None:
    with Frontend(backend.socket, timeout=0.05) as frontend:
        backend.script[REQUEST.GET_FEATURES] = lambda _: Message(b"")
        with pytest.raises(PeerTimeout, match=r"GET_FEATURES.*H101"):
            frontend.get_features()
        assert frontend.closed


def test_H101_half_a_reply_ends_in_a_time_out(backend: ScriptedBackend) -> None:
    with Frontend(backend.socket, timeout=0.05) as frontend:
        backend.script[REQUEST.GET_FEATURES] = lambda _: Message(encode(REQUEST.GET_FEATURES, 5, U64_1)[:15])
        with pytest.raises(PeerTimeout):
            frontend.get_features()
        assert frontend.closed


def test_C016_the_end_of_the_stream_is_told_apart(backend: ScriptedBackend, frontend: Frontend) -> None:
    backend.script[REQUEST.GET_QUEUE_NUM] = lambda _: Disconnected()
    with pytest.raises(Disconnected):
        frontend.get_queue_num()
    assert frontend.closed


def test_H103_an_area_larger_than_its_file_is_refused(backend: ScriptedBackend, frontend: Frontend) -> None:
    reply = struct.pack("=QQHH4x", 1 << 20, 0, 2, 64)
    fd = backend.file(4096)
    backend.script[REQUEST.GET_INFLIGHT_FD] = lambda _: Message(
        encode(REQUEST.GET_INFLIGHT_FD, 5, reply), (fd,)
    )
    with pytest.raises(ProtocolError, match="H103"):
        frontend.get_inflight_fd(2, 64)
    assert frontend.closed


def test_H103_an_area_smaller_than_its_queues_is_refused(
    backend: ScriptedBackend, frontend: Frontend
) -> None:
    reply = struct.pack("=QQHH4x", 64, 0, 2, 64)
    fd = backend.file(4096)
    backend.script[REQUEST.GET_INFLIGHT_FD] = lambda _: Message(
        encode(REQUEST.GET_INFLIGHT_FD, 5, reply), (fd,)
    )
    with pytest.raises(ProtocolError, match="H103"):
        frontend.get_inflight_fd(2, 64)


def test_H105_memory_slots_that_decrease_end_the_connection(
    backend: ScriptedBackend, frontend: Frontend
) -> None:
    assert frontend.get_max_mem_slots() == 32
    backend.script[REQUEST.GET_MAX_MEM_SLOTS] = bad(REQUEST.GET_MAX_MEM_SLOTS, struct.pack("=Q", 31))
    with pytest.raises(ProtocolError, match="H105"):
        frontend.get_max_mem_slots()
    assert frontend.closed


def test_closing_ends_a_call_in_progress(backend: ScriptedBackend, frontend: Frontend) -> None:
    backend.script[REQUEST.GET_QUEUE_NUM] = lambda _: Message(b"")
    while not backend.arrived.empty():
        backend.arrived.get()
    errors: list[BaseException] = []

    def call() -> None:
        try:
            frontend.get_queue_num()
        except Disconnected as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    assert backend.arrived.get(timeout=10) == "GET_QUEUE_NUM"
    frontend.close()
    thread.join(10)
    assert len(errors) == 1


# quirks of known back-ends


@pytest.mark.parametrize("size", [0, 8, 16])
def test_C081_any_known_size_of_the_log_reply_is_taken(
    backend: ScriptedBackend, frontend: Frontend, size: int
) -> None:
    backend.script[REQUEST.SET_LOG_BASE] = bad(REQUEST.SET_LOG_BASE, bytes(size))
    fd = backend.file(4096)
    frontend.set_log_base(fd, 4096)
    assert not frontend.closed


@pytest.mark.parametrize("reply", [b"", struct.pack("=III", 0, 0, 0)])
def test_C128_both_forms_of_a_config_error_are_refusals(
    backend: ScriptedBackend, frontend: Frontend, reply: bytes
) -> None:
    backend.script[REQUEST.GET_CONFIG] = bad(REQUEST.GET_CONFIG, reply)
    with pytest.raises(RequestRefused):
        frontend.get_config(0, 4)
    assert frontend.get_queue_num() == 4


def test_C094_an_ack_to_SET_PROTOCOL_FEATURES_that_nobody_asked_for_is_taken(
    backend: ScriptedBackend,
) -> None:
    backend.script[REQUEST.SET_PROTOCOL_FEATURES] = bad(REQUEST.SET_PROTOCOL_FEATURES, bytes(8))
    with Frontend(backend.socket) as frontend:
        frontend.get_features()
        frontend.set_protocol_features(ProtocolFeature.MQ & frontend.get_protocol_features())
        assert frontend.get_queue_num() == 4
    strict, other = socket.socketpair()
    with Frontend(strict, quirks=Quirk.NONE) as frontend:
        other.send(encode(REQUEST.SET_PROTOCOL_FEATURES, 5, bytes(8)))
        with pytest.raises(ProtocolError):
            frontend.get_features()
    other.close()


# device state


def test_H110_a_state_that_never_ends_is_given_up(backend: ScriptedBackend, frontend: Frontend) -> None:
    stop = threading.Event()

    def flood(request: Any) -> TransferReply:
        fd = backend.fds.pop(request.name)

        def write() -> None:
            try:
                while not stop.is_set():
                    os.write(fd, bytes(65536))
            except BrokenPipeError:
                pass
            finally:
                os.close(fd)

        threads.append(threading.Thread(target=write))
        threads[0].start()
        return TransferReply(NO_FD_BIT)

    threads: list[threading.Thread] = []
    backend.script[REQUEST.SET_DEVICE_STATE_FD] = flood
    with pytest.raises(ProtocolError, match="H110"):
        save_device_state(frontend, limit=1 << 20)
    stop.set()
    threads[0].join(10)


def test_H110_a_state_that_never_begins_times_out(backend: ScriptedBackend, frontend: Frontend) -> None:
    with pytest.raises(PeerTimeout, match="H110"):
        save_device_state(frontend, timeout=0.05)
    assert backend.names()[-1] == "SET_DEVICE_STATE_FD"


@pytest.mark.parametrize("own", [False, True])
def test_C124_state_is_saved_and_loaded(backend: ScriptedBackend, frontend: Frontend, own: bool) -> None:
    state = os.urandom(3 << 20)
    loaded = bytearray()
    threads: list[threading.Thread] = []

    def transfer(request: Any) -> Any:
        fd = backend.fds.pop(request.name)
        answer: Any = TransferReply(NO_FD_BIT)
        if own:  # the back-end prefers a pipe of its own (C123)
            os.close(fd)
            reading, writing = os.pipe()
            fd, theirs = (writing, reading) if request.payload.direction == 0 else (reading, writing)
            backend.temporary.append(theirs)
            answer = TransferReply(0), [theirs]

        def work() -> None:
            with os.fdopen(fd, "wb" if request.payload.direction == 0 else "rb") as file:
                if request.payload.direction == 0:
                    file.write(state)
                else:
                    for piece in iter(lambda: file.read(1 << 16), b""):
                        loaded.extend(piece)

        threads.append(threading.Thread(target=work))
        threads[-1].start()
        return answer

    def check(_: Any) -> Any:
        for fd in backend.temporary:  # its copies of the pipe ends
            os.close(fd)
        backend.temporary.clear()
        threads[-1].join(10)
        return None

    backend.script[REQUEST.SET_DEVICE_STATE_FD] = transfer
    backend.script[REQUEST.CHECK_DEVICE_STATE] = check
    if not own:
        load_device_state(frontend, state)
        assert bytes(loaded) == state
    assert save_device_state(frontend) == state
    assert backend.names()[-1] == "CHECK_DEVICE_STATE"
