"""Two back-ends on one image: the one whose rings run has it, and gives it up when they rest."""

from __future__ import annotations

import logging
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.front_end import REQUEST, FrontEnd, until
from tests.support.images import is_free
from vhost_user import Request, VhostUserBackend, VhostUserDaemon
from vhost_user.backend import NotYet
from vhost_user.devices import Blk, FileStorage
from vhost_user.protocol.transport import Connection
from vhost_user.spec.features import VirtioFeature
from vhost_user.spec.structs import U64, Config, VringFd, VringState

SIZE = 1 << 20
READ = struct.pack("<IIQ", 0, 0, 0)
Connect = Callable[..., FrontEnd]
Make = Callable[..., Blk]


def write(sector: int = 0, data: bytes = b"\x33" * 512) -> bytes:
    return struct.pack("<IIQ", 1, 0, sector) + data


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(b"\x11" * SIZE)
    return path


@pytest.fixture(params=[True, False], ids=["fast", "Python"])
def make(image: Path, request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes disks on the one image."""
    with ExitStack() as stack:

        def made(*, patience: float = 30.0, storage: FileStorage | None = None, **options: object) -> Blk:
            disk = Blk(storage or image, fast_path=request.param, **options)  # type: ignore[arg-type]
            disk.activation_patience = patience
            stack.callback(disk.close)
            return disk

        yield made


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Serves a device, and gives a front-end that has negotiated and shared its memory; no ring runs."""
    with ExitStack() as stack:

        def connected(device: VhostUserBackend) -> FrontEnd:
            ours, theirs = socket.socketpair()
            daemon = stack.enter_context(VhostUserDaemon("test", device))
            daemon.start_connection(theirs)
            front_end = FrontEnd(Connection(ours))
            stack.callback(front_end.close)
            front_end.negotiate()
            front_end.share_memory()
            return front_end

        yield connected


def status(front_end: FrontEnd, queue: int = 0) -> int:
    """What a read of sector 0 ends with."""
    token, address = front_end.post(queue, READ, 513)
    assert front_end.collect(queue)[0] == token
    return front_end.memory.read(address + 512, 1)[0]


def test_both_back_ends_are_up_and_whose_ring_runs_has_the_image(
    make: Make, connect: Connect, image: Path
) -> None:
    source, destination = connect(make()), connect(make())
    assert is_free(image), "a back-end without a running ring has nothing to lock"
    for base in range(3):
        for front_end in (source, destination):
            front_end.start_ring(base=base)
            assert status(front_end) == 0
            assert not is_free(image)
            assert front_end.stop_ring() == base + 1
            assert is_free(image), "the reply of GET_VRING_BASE says that the destination may begin"


def test_a_ring_that_starts_too_early_waits_and_nothing_else_does(
    make: Make, connect: Connect, image: Path
) -> None:
    source, destination = connect(make()), connect(make())
    source.start_ring()
    source.request(0, write(), 1)
    assert image.read_bytes()[:512] == b"\x33" * 512
    destination.start_ring()
    token, _ = destination.post(0, READ, 513)
    for _ in range(20):
        destination.rings[0].kick()
        assert destination.call(REQUEST.GET_FEATURES).value, "the control thread waits with the ring"
        assert status(source) == 0
    assert destination.rings[0].poll() is None, "served although another program has the image"
    assert destination.call(REQUEST.GET_CONFIG, Config(0, bytes(8), 0)).data == struct.pack("<Q", SIZE // 512)
    source.stop_ring()
    assert destination.collect() == (token, 513)
    assert not is_free(image)


def test_what_a_waiting_ring_holds_goes_back_untouched(make: Make, connect: Connect) -> None:
    source, destination = connect(make()), connect(make())
    source.start_ring()
    assert status(source) == 0
    ring = destination.start_ring()
    token, _ = destination.post(0, READ, 513)
    assert destination.stop_ring() == 0, "the base counts a request that was never taken"
    source.stop_ring()
    destination.configure_ring(base=0)
    destination.kick()
    assert destination.collect() == (token, 513)
    assert ring.poll() is None


def test_a_second_writer_is_refused_in_words_for_that_ring_until_it_starts_again(
    make: Make, connect: Connect, image: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, destination = connect(make()), connect(make(patience=0.05, num_queues=2))
    source.start_ring()
    assert status(source) == 0
    error = os.eventfd(0, os.EFD_NONBLOCK)
    destination.configure_ring()
    destination.call(REQUEST.SET_VRING_ERR, VringFd.of(0), [error])
    destination.kick()
    destination.enable()
    until(lambda: "is refused until it is started again" in caplog.text, "the refusal")
    assert "queue 0" in caplog.text
    assert f"{image}: another program has this image open" in caplog.text
    assert os.eventfd_read(error) == 1
    os.close(error)
    assert destination.call(REQUEST.GET_FEATURES).value
    destination.post(0, READ, 513)
    assert status(source) == 0, "the one that is active goes on"

    source.stop_ring()
    destination.start_ring(1)
    assert status(destination, 1) == 0, "another ring is another start"
    assert destination.rings[0].poll() is None, "a refused ring is served without having been started again"
    assert destination.stop_ring() == 0
    destination.configure_ring()
    destination.kick()
    assert destination.collect()[1] == 513


def test_the_last_of_several_rings_gives_the_image_up(make: Make, connect: Connect, image: Path) -> None:
    front_end = connect(make(num_queues=3))
    for queue in (0, 1):
        front_end.start_ring(queue)
        assert status(front_end, queue) == 0
    front_end.stop_ring(0)
    assert status(front_end, 1) == 0
    assert not is_free(image)
    front_end.stop_ring(1)
    assert is_free(image)


def test_C064_rings_that_are_disabled_and_then_stopped_give_it_up_too(
    make: Make, connect: Connect, image: Path
) -> None:
    front_end = connect(make(num_queues=2))
    for queue in (0, 1):
        front_end.start_ring(queue)
        assert status(front_end, queue) == 0
    for queue in (0, 1):
        front_end.enable(queue, False)
    for queue in (0, 1):
        assert front_end.stop_ring(queue) == 1
    assert is_free(image)
    front_end.start_ring(0, base=1)
    assert status(front_end) == 0


def test_C134_a_front_end_that_goes_leaves_the_image_free(make: Make, connect: Connect, image: Path) -> None:
    front_end = connect(make())
    front_end.start_ring()
    assert status(front_end) == 0
    assert not is_free(image)
    front_end.connection.close()
    until(lambda: is_free(image), "the end of the lock")


def test_C075_a_reset_gives_it_up_and_the_next_driver_gets_it(
    make: Make, connect: Connect, image: Path
) -> None:
    front_end = connect(make())
    front_end.start_ring()
    assert status(front_end) == 0
    front_end.call(REQUEST.RESET_DEVICE)
    assert is_free(image)
    front_end.enable()
    assert status(front_end) == 0
    assert not is_free(image)


def test_readers_share_an_image_and_a_writer_waits_for_all_of_them(make: Make, connect: Connect) -> None:
    first, second = connect(make(read_only=True)), connect(make(read_only=True))
    writer = connect(make())
    for reader in (first, second):
        reader.start_ring()
        assert status(reader) == 0
    writer.start_ring()
    token, _ = writer.post(0, READ, 513)
    first.stop_ring()
    assert status(second) == 0
    assert writer.rings[0].poll() is None
    second.stop_ring()
    assert writer.collect() == (token, 513)


def test_C130_the_size_that_the_other_left_is_taken_over(make: Make, connect: Connect, image: Path) -> None:
    old, new = make(), make()
    source, destination = connect(old), connect(new)
    source.start_ring()
    assert status(source) == 0
    os.truncate(image, 3 * SIZE)
    assert old.resize() == 3 * SIZE
    source.request(0, write(2 * SIZE // 512), 1)
    source.stop_ring()
    destination.start_ring()
    got = destination.request(0, struct.pack("<IIQ", 0, 0, 2 * SIZE // 512), 513)
    assert got == b"\x33" * 512 + b"\0"
    assert destination.call(REQUEST.GET_CONFIG, Config(0, bytes(8), 0)).data == struct.pack(
        "<Q", 3 * SIZE // 512
    )


class Slow(FileStorage):
    """Its reads stay inside until they are told to go on."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.entered = threading.Event()
        self.go_on = threading.Event()

    def read(self, request: Request, offset: int, length: int) -> int:
        self.entered.set()
        assert self.go_on.wait(30)
        return super().read(request, offset, length)


def test_a_request_that_outlives_its_session_keeps_the_image_until_it_ends(
    make: Make, connect: Connect, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vhost_user.backend.draining.RESET_DRAIN", 0.05)
    storage = Slow(image)
    disk = make(storage=storage)
    front_end = connect(disk)
    front_end.start_ring()
    front_end.post(0, READ, 513)
    assert storage.entered.wait(10)
    front_end.connection.close()
    until(lambda: disk._daemon is not None and not disk._daemon.connected, "the end of the session")
    assert not is_free(image), "given up while a request still reads"
    storage.go_on.set()
    until(lambda: is_free(image), "the end of the lock")


def test_an_image_in_use_is_told_when_the_disk_is_served(
    make: Make, connect: Connect, image: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = connect(make())
    source.start_ring()
    assert status(source) == 0
    assert "another program" not in caplog.text
    with caplog.at_level(logging.WARNING):
        connect(make())
    assert f"{image}: another program has this image open" in caplog.text
    assert "lslocks" in caplog.text


def test_an_error_of_the_host_is_a_refusal_in_its_words(
    make: Make, connect: Connect, image: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(FileStorage):
        def activate(self) -> None:
            raise OSError(5, "the cable is out")

    front_end = connect(make(storage=Broken(image), patience=0.02))
    front_end.start_ring()
    until(lambda: "the cable is out" in caplog.text, "the refusal")
    assert "queue 0 is refused" in caplog.text


def test_C131_a_disk_that_was_closed_fails_requests_as_ever(make: Make, connect: Connect) -> None:
    disk = make()
    front_end = connect(disk)
    front_end.start_ring()
    assert status(front_end) == 0
    disk.close()
    assert status(front_end) == 1


def test_not_yet_is_no_error_and_the_worker_comes_again(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    class Late(Blk):
        turns = 0

        def queue_event(self, vring: object) -> object:
            self.turns += 1
            if self.turns < 6:
                raise NotYet
            return super().queue_event(vring)  # type: ignore[arg-type]

    from vhost_user.devices import MemoryStorage

    front_end = connect(Late(MemoryStorage(SIZE)))
    front_end.start_ring()
    assert status(front_end) == 0
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_the_driver_without_protocol_features_gives_it_up_as_well(
    make: Make, connect: Connect, image: Path
) -> None:
    front_end = connect(make())
    front_end.call(REQUEST.SET_FEATURES, U64(VirtioFeature.VERSION_1 | (1 << 9)))
    front_end.configure_ring()
    front_end.kick()
    assert status(front_end) == 0
    assert front_end.call(REQUEST.GET_VRING_BASE, VringState(0)).num == 1
    assert is_free(image)
