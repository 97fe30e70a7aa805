"""Shared memory regions and shared objects of a ``Device``, and crypto sessions: C097, C100, C103 to C105."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.descriptors import open_fds
from tests.support.devices import Echo
from tests.support.front_end import FrontEnd, until
from vhost_user import (
    BackChannelError,
    Device,
    Request,
    RequestRefused,
    SharedMemory,
    SharedObjects,
    VhostUserDaemon,
)
from vhost_user.frontend.back_channel import BackChannel, BackChannelHandler
from vhost_user.spec.features import ProtocolFeature
from vhost_user.spec.requests import FrontendRequest as Ask
from vhost_user.spec.structs import U64, CryptoSession, SharedUuid

if TYPE_CHECKING:
    from tests.backend.conftest import Stage

PAGE = 4096


class Screen(Echo):
    shared_memory = SharedMemory({1: 8 * PAGE, 7: PAGE})
    shared_objects = SharedObjects()


class VmmHandler(BackChannelHandler):
    """The front-end's side, which can be slow."""

    def __init__(self) -> None:
        super().__init__(shmem={1: 8 * PAGE, 7: PAGE})
        self.asked = threading.Event()
        self.answer = threading.Event()
        self.answer.set()

    def shmem_map(self, request: Any, fd: int) -> None:
        self.asked.set()
        assert self.answer.wait(20)
        super().shmem_map(request, fd)


class Vmm:
    def __init__(self, front: FrontEnd, *, channel: bool = True) -> None:
        self.front = front
        self.handler = VmmHandler()
        front.negotiate()
        self.channel = BackChannel(front.session.negotiation, self.handler)
        if channel:
            front.call(Ask.SET_BACKEND_REQ_FD, None, [self.channel.backend_socket.fileno()])
            self.channel.sent()

    def run(self) -> None:
        self.front.share_memory()
        self.front.start_ring()

    def object(self, identifier: uuid.UUID) -> int | None:
        """A descriptor of what the back-end exports."""
        front, payload = self.front, SharedUuid.of(identifier)
        try:
            reply = front.connection.call(front.session, Ask.GET_SHARED_OBJECT, payload, timeout=20)
        except RequestRefused:  # no descriptor (C097)
            return None
        assert reply is not None
        with reply.fds as fds:
            return fds.take_one()


Begin = Callable[..., Vmm]


@pytest.fixture
def file() -> Iterator[int]:
    fd = os.memfd_create("frame")
    os.truncate(fd, 4 * PAGE)
    yield fd
    os.close(fd)


@pytest.fixture
def begin(stage: Stage) -> Iterator[Begin]:
    with contextlib.ExitStack() as stack:

        def start(daemon: VhostUserDaemon, **options: Any) -> Vmm:
            ours, theirs = socket.socketpair()
            assert daemon.wait(20)
            daemon.start_connection(theirs)
            vmm = Vmm(stage.front_end(ours), **options)
            stack.callback(vmm.channel.close)
            stack.callback(vmm.handler.answer.set)
            return vmm

        yield start


def memory_of(device: Screen) -> SharedMemory:
    assert device.shared_memory is not None
    return device.shared_memory


def objects_of(device: Screen) -> SharedObjects:
    assert device.shared_objects is not None
    return device.shared_objects


# Shared memory


def test_C104_C105_a_file_in_a_region(stage: Stage, begin: Begin, file: int) -> None:
    device = Screen()
    vmm = begin(stage.daemon(device))
    sizes = vmm.front.call(Ask.GET_SHMEM_CONFIG)
    assert {shmid: size for shmid, size in enumerate(sizes.sizes) if size} == {1: 8 * PAGE, 7: PAGE}
    vmm.run()
    memory = memory_of(device)
    mapping = memory.map(1, file, offset=PAGE, length=2 * PAGE, fd_offset=PAGE, writable=True)
    assert memory.mappings == (mapping,)
    (seen,) = vmm.handler.shmem_maps[1]
    assert (seen.shm_offset, seen.length, seen.fd_offset, seen.flags) == (PAGE, 2 * PAGE, PAGE, 1)
    other = memory.map(7, file, offset=0, length=PAGE)
    assert vmm.handler.shmem_maps[7][0].flags == 0
    memory.unmap(mapping)
    assert vmm.handler.shmem_maps[1] == []
    assert memory.mappings == (other,)
    with pytest.raises(ValueError, match="is not mapped"):
        memory.unmap(mapping)
    # Where it was there is room again.
    memory.map(1, file, offset=2 * PAGE, length=PAGE)


UNMAPPABLE: list[tuple[int, dict[str, Any], str]] = [
    (0, {"offset": 0, "length": PAGE}, "there is no shared memory region 0"),
    (1, {"offset": 0, "length": 0}, "whole pages"),
    (1, {"offset": 0, "length": -PAGE}, "whole pages"),
    (1, {"offset": 8, "length": PAGE}, "whole pages"),
    (1, {"offset": 0, "length": PAGE, "fd_offset": 8}, "whole pages"),
    (1, {"offset": 0, "length": PAGE, "fd_offset": -PAGE}, "whole pages"),
    (1, {"offset": -PAGE, "length": PAGE}, "lies outside"),
    (1, {"offset": 8 * PAGE, "length": PAGE}, "lies outside"),
    (1, {"offset": 0, "length": 9 * PAGE}, "lies outside"),
    (1, {"offset": 1 << 70, "length": PAGE}, "lies outside"),
    (1, {"offset": 3 * PAGE, "length": 2 * PAGE}, "overlaps 0x4000\\+0x1000"),
]


@pytest.mark.parametrize("wrong", UNMAPPABLE, ids=lambda wrong: wrong[2])
def test_C104_what_cannot_be_mapped_is_not_asked_for(
    stage: Stage, begin: Begin, file: int, wrong: tuple[int, dict[str, Any], str]
) -> None:
    region, given, words = wrong
    device = Screen()
    vmm = begin(stage.daemon(device))
    vmm.run()
    memory = memory_of(device)
    first = memory.map(1, file, offset=4 * PAGE, length=PAGE)
    with pytest.raises(ValueError, match=words):
        memory.map(region, file, **given)
    assert vmm.channel.counts["SHMEM_MAP"] == 1
    assert memory.mappings == (first,)


def test_C104_what_the_front_end_refuses_is_not_mapped(stage: Stage, begin: Begin, file: int) -> None:
    device = Screen()
    vmm = begin(stage.daemon(device))
    vmm.run()
    vmm.handler.shmem = {1: PAGE}
    memory = memory_of(device)
    with pytest.raises(RequestRefused):
        memory.map(1, file, offset=PAGE, length=PAGE)
    assert memory.mappings == ()
    memory.map(1, file, offset=0, length=PAGE)


@pytest.mark.parametrize("reset", ["RESET_DEVICE", "the end of the session"])
def test_C104_mappings_end_with_a_reset(stage: Stage, begin: Begin, file: int, reset: str) -> None:
    device = Screen()
    daemon = stage.daemon(device)
    vmm = begin(daemon)
    vmm.run()
    memory = memory_of(device)
    mapping = memory.map(1, file, offset=0, length=PAGE)
    if reset == "RESET_DEVICE":
        vmm.front.call(Ask.RESET_DEVICE)
    else:
        vmm.front.close()
        assert daemon.wait(20)
    assert memory.mappings == ()
    with pytest.raises(ValueError, match="is not mapped"):
        memory.unmap(mapping)


def test_C102_C104_a_reset_while_the_front_end_is_asked(stage: Stage, begin: Begin, file: int) -> None:
    """The reset does not wait for the mapping, and the mapping does not survive it."""
    device = Screen()
    vmm = begin(stage.daemon(device))
    vmm.run()
    memory = memory_of(device)
    failures: list[Exception] = []

    def show() -> None:
        try:
            memory.map(1, file, offset=0, length=PAGE)
        except BackChannelError as error:
            failures.append(error)

    vmm.handler.answer.clear()
    thread = threading.Thread(target=show)
    thread.start()
    assert vmm.handler.asked.wait(20)
    vmm.front.call(Ask.RESET_DEVICE)
    vmm.handler.answer.set()
    thread.join(20)
    (failure,) = failures
    assert "is gone again" in str(failure)
    assert memory.mappings == ()


def test_C076_nothing_can_be_mapped_while_the_rings_are_stopped(
    stage: Stage, begin: Begin, file: int
) -> None:
    device = Screen()
    vmm = begin(stage.daemon(device))
    memory = memory_of(device)
    with pytest.raises(BackChannelError, match="C076"):
        memory.map(1, file, offset=0, length=PAGE)
    vmm.run()
    mapping = memory.map(1, file, offset=0, length=PAGE)
    vmm.front.stop_ring()
    with pytest.raises(BackChannelError, match="C076"):
        memory.unmap(mapping)
    assert memory.mappings == (mapping,), "it is still there"


def test_C104_without_a_front_end(file: int) -> None:
    with pytest.raises(BackChannelError, match="there is no front-end"):
        memory_of(Screen()).map(1, file, offset=0, length=PAGE)


def test_each_device_has_a_memory_of_its_own() -> None:
    first, second = Screen(), Screen()
    assert first.shared_memory is not second.shared_memory
    assert first.shared_memory is not Screen.shared_memory
    assert first.shared_objects is not second.shared_objects


@pytest.mark.parametrize("sizes", [{256: PAGE}, {-1: PAGE}, {0: 0}, {0: 100}, {0: -PAGE}, {0: 1 << 64}])
def test_C105_regions_that_cannot_be(sizes: dict[int, int]) -> None:
    with pytest.raises(ValueError, match="shared memory region"):
        SharedMemory(sizes)


def test_a_declaration_of_another_kind() -> None:
    with pytest.raises(TypeError, match="shared_memory = SharedMemory"):

        class _Wrong(Echo):
            shared_memory = {0: PAGE}  # type: ignore[assignment]  # noqa: RUF012

    with pytest.raises(TypeError, match=r"shared_objects = SharedObjects\(\)"):

        class _AlsoWrong(Echo, shared_objects=True):
            pass


def test_C024_nothing_of_it_is_offered_by_others(stage: Stage) -> None:
    protocol_features = Echo().protocol_features()
    assert not protocol_features & (ProtocolFeature.SHMEM | ProtocolFeature.SHARED_OBJECT)
    wanted = ProtocolFeature.SHMEM | ProtocolFeature.SHARED_OBJECT | ProtocolFeature.BACKEND_SEND_FD
    assert Screen().protocol_features() & wanted == wanted
    del stage


# Shared objects


def test_C097_C100_C103_objects_go_both_ways(stage: Stage, begin: Begin, file: int) -> None:
    device = Screen()
    vmm = begin(stage.daemon(device))
    vmm.run()
    objects = objects_of(device)
    identifier = objects.add(file)
    assert vmm.handler.shared_objects == {identifier}
    assert identifier in objects
    fd = vmm.object(identifier)
    assert fd is not None
    assert os.path.sameopenfile(fd, file)
    os.close(fd)
    assert vmm.object(uuid.uuid4()) is None
    objects.remove(identifier)
    assert vmm.handler.shared_objects == set()
    assert vmm.object(identifier) is None
    with pytest.raises(ValueError, match="is not shared here"):
        objects.remove(identifier)
    # One of another device.
    theirs = uuid.uuid4()
    with pytest.raises(RequestRefused):
        objects.lookup(theirs)
    vmm.handler.shared_object_lookups[theirs] = lambda: os.dup(file)
    fd = objects.lookup(theirs)
    assert os.path.sameopenfile(fd, file)
    os.close(fd)


def test_C076_what_was_shared_while_the_rings_stood_is_told_when_one_runs(
    stage: Stage, begin: Begin, file: int
) -> None:
    device = Screen()
    objects = objects_of(device)
    first = objects.add(file)
    vmm = begin(stage.daemon(device))
    second = objects.add(file)
    third = objects.add(file)
    objects.remove(third)
    assert vmm.channel.counts == {}
    vmm.run()
    until(lambda: vmm.handler.shared_objects == {first, second})
    assert vmm.channel.counts == {"SHARED_OBJECT_ADD": 2}
    vmm.front.stop_ring()
    objects.remove(first)
    assert vmm.handler.shared_objects == {first, second}
    vmm.front.configure_ring(base=0)
    vmm.front.kick()
    until(lambda: vmm.handler.shared_objects == {second})


def test_C032_the_next_front_end_is_told_too(stage: Stage, begin: Begin, file: int) -> None:
    device = Screen()
    daemon = stage.daemon(device)
    objects = objects_of(device)
    identifiers: set[uuid.UUID] = set()
    for number in range(3):
        vmm = begin(daemon)
        vmm.run()
        until(lambda vmm=vmm, known=set(identifiers): vmm.handler.shared_objects == known)  # type: ignore[misc]
        identifiers.add(objects.add(file, uuid.UUID(int=number + 1)))
        assert vmm.handler.shared_objects == identifiers
        vmm.front.close()
        assert daemon.wait(20)


def test_C102_an_object_shared_by_what_is_called_in_the_control_thread(
    stage: Stage, begin: Begin, file: int
) -> None:
    class Early(Screen):
        def started(self) -> None:
            assert self.shared_objects is not None
            self.shared_objects.add(file, uuid.UUID(int=5))

    vmm = begin(stage.daemon(Early()))
    vmm.run()
    until(lambda: vmm.handler.shared_objects == {uuid.UUID(int=5)})


def test_C103_an_object_that_the_front_end_refuses_is_not_shared(
    stage: Stage, begin: Begin, file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Screen()
    vmm = begin(stage.daemon(device))
    vmm.run()

    def refuse(_self: object, _identifier: uuid.UUID) -> None:
        raise RequestRefused("not here", rule="C103")

    monkeypatch.setattr(VmmHandler, "shared_object_add", refuse)
    before = open_fds()
    with pytest.raises(RequestRefused):
        objects_of(device).add(file, uuid.UUID(int=5))
    assert uuid.UUID(int=5) not in objects_of(device)
    assert open_fds() == before
    monkeypatch.undo()
    objects_of(device).add(file, uuid.UUID(int=5))
    with pytest.raises(ValueError, match="is shared already"):
        objects_of(device).add(file, uuid.UUID(int=5))


def test_descriptors_of_objects_are_closed_with_the_device(file: int) -> None:
    before = open_fds()
    device = Screen()
    with VhostUserDaemon("test", device):
        for _ in range(10):
            objects_of(device).add(file)
        assert len(objects_of(device)) == 10
    assert open_fds() == before


def test_H56_a_front_end_that_forgets_the_uuid(stage: Stage, begin: Begin, file: int) -> None:
    """QEMU up to 11.1 sends GET_SHARED_OBJECT without it."""
    device = Screen()
    vmm = begin(stage.daemon(device))
    vmm.run()
    objects_of(device).add(file)
    front = vmm.front
    from vhost_user.protocol.framing import Message, encode

    front.connection.send(Message(encode(Ask.GET_SHARED_OBJECT, 1, b""), ()))
    header = front.connection._socket.recv(12)
    assert header == encode(Ask.GET_SHARED_OBJECT, 5, b"")
    assert front.request(readable=b"abc", writable=3) == b"cba"


# Crypto sessions


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
