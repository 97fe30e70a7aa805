"""Back-ends for the front-end to meet: a scripted one that answers or lies as told, our own, and QEMU's."""

from __future__ import annotations

import gc
import os
import queue
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.descriptors import open_fds
from tests.support.devices import Serve, serving_devices
from tests.support.programs import programs
from vhost_user.frontend import Frontend
from vhost_user.protocol.errors import Disconnected, ProtocolError, RequestRefused
from vhost_user.protocol.framing import Message, encode
from vhost_user.protocol.responder import ReceivedMessage, Refusal
from vhost_user.protocol.sessions import BackendSession
from vhost_user.protocol.transport import Connection
from vhost_user.spec.features import ProtocolFeature, VirtioFeature
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.structs import (
    U64,
    Config,
    Inflight,
    Memory,
    Payload,
    ShmemConfig,
    TransferReply,
    VringState,
)

FEATURES = (
    VirtioFeature.VERSION_1
    | VirtioFeature.PROTOCOL_FEATURES
    | VirtioFeature.LOG_ALL
    | VirtioFeature.ACCESS_PLATFORM
    | VirtioFeature.RING_EVENT_IDX
    | VirtioFeature.RING_INDIRECT_DESC
    | VirtioFeature.RING_PACKED
)
PROTOCOL_FEATURES = ProtocolFeature(sum(ProtocolFeature)) & ~(
    ProtocolFeature.XEN_MMAP | ProtocolFeature.GPA_ADDRESSES | ProtocolFeature.INBAND_NOTIFICATIONS
)

Answer = Payload | tuple[Payload, Sequence[int]] | Message | Exception | None
Script = Callable[[ReceivedMessage], Answer]


@pytest.fixture(autouse=True)
def _no_leaks() -> Iterator[None]:
    """Every test leaves the descriptors and threads that it found (C135)."""
    fds, threads = open_fds(), set(threading.enumerate())
    yield
    if open_fds() != fds:
        gc.collect()
    assert open_fds() == fds
    assert set(threading.enumerate()) <= threads


class ScriptedBackend:
    """Answers correctly by default; ``script[request]`` answers instead.

    With a payload, (payload, fds), raw bytes, or an error.

    ``received`` lists (name, payload, number of fds) in order. Descriptors it was given are kept in ``fds``
    by name.
    """

    def __init__(
        self, *, features: int = FEATURES, protocol_features: int = PROTOCOL_FEATURES, queues: int = 4
    ) -> None:
        ours, self.socket = socket.socketpair()
        self.connection = Connection(ours, timeout=10)
        self.session = BackendSession(features, protocol_features)
        self.queues = queues
        self.script: dict[int, Script] = {}
        self.received: list[tuple[str, Payload, int]] = []
        self.fds: dict[str, int] = {}
        self.temporary: list[int] = []
        self.error: Exception | None = None
        self.arrived: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def names(self) -> list[str]:
        """The messages received so far."""
        return [name for name, _, _ in self.received]

    def last(self, name: str) -> Any:
        """The payload of the last message of this name."""
        return next(payload for each, payload, _ in reversed(self.received) if each == name)

    def close(self) -> None:
        self.connection.shutdown()
        self.socket.close()
        self.thread.join(10)
        assert not self.thread.is_alive()
        for fd in [*self.fds.values(), *self.temporary]:
            os.close(fd)

    def _serve(self) -> None:
        try:
            while True:
                request: Any = self.connection.receive(self.session)
                if isinstance(request, Refusal):
                    self.connection.send(request.response)
                    continue
                self._answer(request)
        except Disconnected:
            pass
        except (ProtocolError, OSError) as error:
            self.error = error
        finally:
            self.session.close()
            self.connection.close()

    def _answer(self, request: ReceivedMessage) -> None:
        self.received.append((request.name, request.payload, len(request.fds)))
        fd = request.fds.take_one()
        if fd is not None:
            if (old := self.fds.get(request.name)) is not None:
                os.close(old)
            self.fds[request.name] = fd
        answer = self.script.get(request.row.id, self._default)(request)
        self.arrived.put(request.name)
        if isinstance(answer, RequestRefused):
            self.connection.send(self.session.refuse(request, answer))
        elif isinstance(answer, Message):
            self.session.reply(request, *self._shape(self._default(request)))
            if answer.data:
                self.connection.send(answer)
        elif isinstance(answer, Exception):
            raise answer
        else:
            self.connection.send(self.session.reply(request, *self._shape(answer)))

    def _shape(self, answer: Answer) -> tuple[Any, Sequence[int]]:
        return answer if isinstance(answer, tuple) else (answer, ())

    def _default(self, request: ReceivedMessage) -> Answer:
        payload = request.payload
        match request.row.request:
            case FrontendRequest.GET_QUEUE_NUM:
                return U64(self.queues)
            case FrontendRequest.GET_MAX_MEM_SLOTS:
                return U64(32)
            case FrontendRequest.GET_VRING_BASE:
                assert isinstance(payload, VringState)
                return VringState(payload.index, 7)
            case FrontendRequest.GET_CONFIG:
                assert isinstance(payload, Config)
                return Config(payload.offset, bytes(range(payload.size)), payload.flags)
            case FrontendRequest.GET_INFLIGHT_FD:
                assert isinstance(payload, Inflight)
                size = 1 << 16
                return Inflight(size, 0, payload.num_queues, payload.queue_size), [self.file(size)]
            case FrontendRequest.GET_STATUS:
                return U64(15)
            case FrontendRequest.GET_SHARED_OBJECT | FrontendRequest.POSTCOPY_ADVISE:
                return request.row.reply_payload(), [self.file(4096)]
            case FrontendRequest.SET_DEVICE_STATE_FD:
                return TransferReply()
            case FrontendRequest.GET_SHMEM_CONFIG:
                return ShmemConfig.of({0: 1 << 20, 7: 8192})
            case FrontendRequest.CREATE_CRYPTO_SESSION:
                return payload
        return None

    def file(self, size: int) -> int:
        """A descriptor that is closed at the end."""
        fd = os.memfd_create("scripted")
        os.ftruncate(fd, size)
        self.temporary.append(fd)
        return fd


def bad_reply(request: int, payload: bytes, *, flags: int = 5, fds: Sequence[int] = ()) -> Script:
    """A script that answers with these bytes instead."""
    return lambda _: Message(encode(request, flags, payload), tuple(fds))


def memory_reply(request: ReceivedMessage) -> Payload:
    """The back-end's own addresses, as post-copy answers SET_MEM_TABLE."""
    payload = request.payload
    assert isinstance(payload, Memory)
    return payload


@pytest.fixture
def make_backend() -> Iterator[Callable[..., ScriptedBackend]]:
    """Makes scripted back-ends and closes them."""
    with ExitStack() as stack:

        def make(**options: Any) -> ScriptedBackend:
            backend = ScriptedBackend(**options)
            stack.callback(backend.close)
            return backend

        yield make


@pytest.fixture
def backend(make_backend: Callable[..., ScriptedBackend]) -> ScriptedBackend:
    """A scripted back-end that can do everything."""
    return make_backend()


@pytest.fixture
def frontend(backend: ScriptedBackend) -> Iterator[Frontend]:
    """A front-end on ``backend``, everything negotiated that it offers."""
    with Frontend(backend.socket, timeout=10) as frontend:
        frontend.get_features()
        frontend.set_protocol_features(frontend.get_protocol_features())
        frontend.set_features(frontend.backend_features)
        yield frontend


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serves a device of ours in this process; gives the front-end's end of the socket."""
    with serving_devices() as start:
        yield start


@pytest.fixture
def storage_daemon(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Starts QEMU's block back-end on an image (or null-co); gives the path of its socket."""
    program = shutil.which("qemu-storage-daemon")
    assert program, "qemu-storage-daemon is missing: ./test installs it (package qemu-utils)"
    with programs() as running:

        def start(image: Path | None, *, queues: int = 1, writable: bool = True) -> Path:
            path = tmp_path / "qsd.sock"
            source = (
                f"driver=file,node-name=disk,filename={image}"
                if image
                else "driver=null-co,node-name=disk,size=67108864,read-zeroes=on"
            )
            export = (
                f"type=vhost-user-blk,id=e,node-name=disk,addr.type=unix,addr.path={path},"
                f"writable={'on' if writable else 'off'},num-queues={queues}"
            )
            running.listening(path, [program, "--blockdev", source, "--export", export])
            return path

        yield start
