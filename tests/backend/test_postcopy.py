"""Post-copy as the destination: pages that come when they are asked for, both rings (C118 to C121)."""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.children import children
from tests.support.front_end import until
from vhost_user import Batch, Device, Request, VhostUserBackend, VhostUserDaemon
from vhost_user.backend import DEFAULT_FEATURES, DEFAULT_PROTOCOL_FEATURES, postcopy
from vhost_user.backend.handover import UpgradeError, bring_to_rest
from vhost_user.devices import Blk, MemoryStorage
from vhost_user.engine.errors import MemoryFault
from vhost_user.engine.memory.file_system import type_of
from vhost_user.frontend import BlockDriver, Disconnected, Frontend, RequestRefused, VirtioDriver
from vhost_user.frontend.postcopy import PAGE, PostCopy
from vhost_user.protocol.errors import ProtocolError
from vhost_user.spec.features import DeviceStatus, ProtocolFeature, VirtioFeature
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.structs import U64

CONTENT = bytes(range(256)) * 16


class Echo(Device, type="rng"):
    """Answers with what it was asked, backwards."""

    def handle(self, request: Request) -> None:
        request.write(request.read()[::-1])


class Together(Device, type="rng"):
    def handle_batch(self, requests: Batch) -> None:
        for request in requests:
            request.write(request.read()[::-1])


class Coroutine(Device, type="rng"):
    async def handle(self, request: Request) -> None:
        request.write(request.read()[::-1])


class ByHand(VhostUserBackend):
    """Empties its ring with ``pop``, as devices of the trait do."""

    def num_queues(self) -> int:
        return 1

    def max_queue_size(self) -> int:
        return 256

    def features(self) -> int:
        return int(DEFAULT_FEATURES | VirtioFeature.RING_PACKED)

    def protocol_features(self) -> int:
        return DEFAULT_PROTOCOL_FEATURES

    def handle_event(self, device_event: int, event_set: int, vrings: Sequence[Any], thread_id: int) -> None:
        del event_set, thread_id
        vring = vrings[device_event]
        while (request := vring.pop()) is not None:
            request.write(request.read()[::-1])
            request.complete()


@pytest.fixture(params=[False, True], ids=["split", "packed"])
def packed(request: pytest.FixtureRequest) -> bool:
    assert isinstance(request.param, bool)
    return request.param


class Served:
    """A daemon, and a driver in post-copy on it."""

    def __init__(self, stack: ExitStack, packed: bool) -> None:
        self.stack = stack
        self._packed = packed
        self.pages = PostCopy()
        stack.callback(self.pages.close)
        self.daemon: VhostUserDaemon

    def serve(
        self, device: VhostUserBackend, kind: type[Any] = VirtioDriver, *, up: bool = True, **options: Any
    ) -> Any:
        ours, theirs = socket.socketpair()
        self.daemon = self.stack.enter_context(VhostUserDaemon("test", device))
        self.daemon.start_connection(theirs)
        options.setdefault("queue_size", 16)
        driver = kind(ours, postcopy=self.pages, packed=self._packed, **options)
        self.stack.callback(driver.close)
        return driver.bring_up() if up else driver

    def frontend(self, device: VhostUserBackend) -> Frontend:
        ours, theirs = socket.socketpair()
        self.daemon = self.stack.enter_context(VhostUserDaemon("test", device))
        self.daemon.start_connection(theirs)
        front = Frontend(ours)
        self.stack.callback(front.close)
        front.get_features()
        front.set_protocol_features(front.get_protocol_features())
        front.set_owner()
        return front


@pytest.fixture
def served(packed: bool) -> Iterator[Served]:
    with ExitStack() as stack:
        yield Served(stack, packed)
    until(lambda: not children(), "the end of the pager")


def pager_of(daemon: VhostUserDaemon) -> int:
    found = [pid for pid in children() if b"pager_process" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(found) == 1, daemon
    return found[0]


def ask(driver: VirtioDriver, pages: PostCopy, *, indirect: bool) -> tuple[int, int]:
    """Hand in a request whose pages are all missing: where its answer will be, and how long."""
    memory = driver.memory
    source, target = memory.allocate(PAGE, PAGE), memory.allocate(2 * PAGE, PAGE)
    memory.write(source, CONTENT)
    memory.write(target, b"old" * 2000)
    ring = driver.queues[0].ring
    ring.add([(source, PAGE)], [(target, PAGE), (target + PAGE, PAGE)], indirect=indirect)
    pages.withhold(source, PAGE)
    pages.withhold(target, 2 * PAGE)
    ring.publish()
    ring.kick()
    return source, target


def answered(driver: VirtioDriver, timeout: float = 10.0) -> int:
    """The length of the next answer."""
    end = time.monotonic() + timeout
    while (done := driver.queues[0].ring.poll()) is None:
        assert time.monotonic() < end, "no answer"
        time.sleep(0.001)
    return int(done[1])


@pytest.mark.parametrize("indirect", [False, True], ids=["direct", "indirect"])
@pytest.mark.parametrize("kind", [Echo, Together, Coroutine, ByHand])
def test_C121_buffers_come_when_the_device_wants_them(
    served: Served, kind: type[VhostUserBackend], indirect: bool
) -> None:
    driver = served.serve(kind())
    for _ in range(3):
        source, target = ask(driver, served.pages, indirect=indirect)
        assert answered(driver) == PAGE
        assert {source, target, target + PAGE} <= set(served.pages.asked)
        assert driver.memory.read(target, PAGE) == CONTENT[::-1]
        assert driver.memory.read(target + PAGE, PAGE)[:7] == (b"old" * 2000)[PAGE : PAGE + 7]
    assert served.pages.strays == []


def test_C121_the_pages_of_an_indirect_table_come_as_the_walk_gets_there(served: Served) -> None:
    driver = served.serve(Echo())
    memory, ring = driver.memory, driver.queues[0].ring
    source = memory.allocate(PAGE, PAGE)
    memory.write(source, CONTENT)
    target = memory.allocate(3 * PAGE, PAGE)
    parts = [(target + 16 * index, 16) for index in range(600)]
    ring.add([(source, PAGE)], parts, indirect=True)
    table = int.from_bytes(memory.read(ring.descriptor_address, 8), "little")
    inside = -(-table // PAGE) * PAGE
    assert inside + PAGE <= table + 16 * 601
    served.pages.withhold(inside, PAGE)
    ring.publish()
    ring.kick()
    assert answered(driver) == PAGE
    assert inside in served.pages.asked
    assert memory.read(target, PAGE) == CONTENT[::-1]


def areas_of(driver: VirtioDriver) -> list[int]:
    """The pages that the areas of the first ring lie in."""
    ring = driver.queues[0].ring
    return sorted(
        {
            address // PAGE * PAGE
            for address in (ring.descriptor_address, ring.driver_address, ring.device_address)
        }
    )


def started_without_pages(served: Served, device: VhostUserBackend) -> VirtioDriver:
    """A ring with a request in it that was started while its pages, and those of the request, are missing."""
    driver: VirtioDriver = served.serve(device, up=False)
    driver.negotiate()
    driver.make_queues()
    driver.acknowledge()
    driver.share_memory()
    served.pages.silent = True
    ask(driver, served.pages, indirect=False)
    for page in areas_of(driver):
        served.pages.withhold(page, PAGE)
    driver.start_queue(0)
    driver.enable_queue(0)
    driver.set_status(DeviceStatus.DRIVER_OK)
    return driver


def test_C121_a_ring_starts_when_its_pages_have_come_and_messages_are_answered_meanwhile(
    served: Served,
) -> None:
    driver = started_without_pages(served, Echo())
    until(lambda: served.pages.asked, "the question for the ring")
    for _ in range(10):
        driver.frontend.get_features()
    assert not served.daemon.vrings[0].started
    served.pages.silent = False
    served.pages.bring_all()
    assert answered(driver) == PAGE
    assert served.daemon.vrings[0].started


def test_C053_a_ring_that_waits_for_its_pages_can_be_stopped(served: Served) -> None:
    driver = started_without_pages(served, Echo())
    until(lambda: served.pages.asked, "the question for the ring")
    base = driver.frontend.get_vring_base(0)
    assert base & 0x7FFF == 0
    served.pages.silent = False
    served.pages.bring_all()
    driver.frontend.barrier()
    time.sleep(0.05)
    assert not served.daemon.vrings[0].started
    driver.start_queue(0, base=base)
    assert answered(driver) == PAGE


def test_C119_nothing_is_touched_before_the_front_end_is_ready(served: Served) -> None:
    front = served.frontend(Echo())
    front.set_features(front.backend_features & DEFAULT_FEATURES)
    pages, memory = served.pages, VirtioDriver(front, postcopy=served.pages).memory
    try:
        pages.announce(front)
        pages.share(memory.regions, ready=False)
        front.barrier()
        assert served.daemon.memory.memory().regions == ()
        front.postcopy_ready(status=5)
        front.barrier()
        assert served.daemon.memory.memory().regions == ()
        front.postcopy_ready()  # of nothing: that table is gone
        front.barrier()
        assert served.daemon.memory.memory().regions == ()
        pages.share(memory.regions)
        front.barrier()
        assert len(served.daemon.memory.memory().regions) == 1
        assert pages.asked == []
    finally:
        front.close()
        memory.close()


@pytest.mark.parametrize(
    "request_id", [0, FrontendRequest.SET_MEM_TABLE, FrontendRequest.ADD_MEM_REG, FrontendRequest.REM_MEM_REG]
)
def test_C119_readiness_comes_with_the_number_of_the_last_message(served: Served, request_id: int) -> None:
    driver = served.serve(Echo(), memory_slots=True)
    frontend = driver.frontend
    region = driver.memory.regions[0]
    frontend.rem_mem_reg(region)
    assert frontend.add_mem_reg(region, postcopy=True)
    frontend.raw(request_id, U64(0).pack())
    frontend.barrier()
    served.pages.bases = []
    assert len(served.daemon.memory.memory().regions) == 1


def test_C120_after_the_end_nothing_is_asked_for(served: Served) -> None:
    driver = served.serve(Echo())
    ask(driver, served.pages, indirect=False)
    answered(driver)
    late = driver.memory.allocate(PAGE, PAGE)
    driver.memory.write(late, CONTENT)
    served.pages.withhold(late, PAGE)
    served.pages.end()
    until(lambda: not children(), "the end of the pager")
    assert not served.daemon.memory.memory().sparse
    assert served.daemon.memory.memory().read(late, PAGE) == CONTENT
    asked = len(served.pages.asked)
    assert driver.queues[0].request(CONTENT, PAGE) == CONTENT[::-1]
    assert len(served.pages.asked) == asked


def test_C120_what_waits_when_the_end_comes_goes_on(served: Served) -> None:
    driver = served.serve(Echo())
    served.pages.silent = True
    ask(driver, served.pages, indirect=False)
    until(lambda: served.pages.asked, "the question")
    # It says that all is there, and does not wake anybody: that is done here.
    with served.pages._lock:
        for page in list(served.pages._withheld):
            served.pages._bring(page)
    driver.frontend.postcopy_end()
    assert answered(driver) == PAGE


def test_C118_orders_that_make_no_sense_are_refused(served: Served) -> None:
    front = served.frontend(Echo())
    with pytest.raises(RequestRefused):
        front.postcopy_end()
    with pytest.raises(RequestRefused):
        front.postcopy_listen()
    os.close(front.postcopy_advise())
    os.close(front.postcopy_advise())  # nothing had come of the first
    assert len(children()) == 1
    front.postcopy_listen()
    with pytest.raises(RequestRefused):
        front.postcopy_listen()
    with pytest.raises(RequestRefused):
        front.postcopy_advise()
    front.postcopy_end()
    with pytest.raises(RequestRefused):
        front.postcopy_end()


def test_C118_announced_and_then_not_needed(served: Served) -> None:
    front = served.frontend(Echo())
    os.close(front.postcopy_advise())
    front.postcopy_end()
    assert not children()


def test_C118_announced_and_over_before_it_began(served: Served) -> None:
    """What QEMU does when a migration that could have become post-copy did not."""
    ours, theirs = socket.socketpair()
    daemon = served.stack.enter_context(VhostUserDaemon("test", Echo()))
    daemon.start_connection(theirs)
    driver = VirtioDriver(ours)
    served.stack.callback(driver.close)
    driver.negotiate()
    os.close(driver.frontend.postcopy_advise())
    driver.make_queues()
    driver.acknowledge()
    driver.share_memory()
    driver.frontend.barrier()
    assert not children()
    state = daemon.session
    assert state is not None
    assert not state.postcopy.active
    driver.frontend.postcopy_end()  # others may say so
    with pytest.raises(RequestRefused):
        driver.frontend.postcopy_end()


def test_C118_memory_that_came_before_cannot_be_watched(served: Served) -> None:
    ours, theirs = socket.socketpair()
    with VhostUserDaemon("test", Echo()) as daemon:
        daemon.start_connection(theirs)
        stack = served.stack
        driver = stack.enter_context(VirtioDriver(ours))
        os.close(driver.frontend.postcopy_advise())
        with pytest.raises(RequestRefused):
            driver.frontend.postcopy_listen()
        assert driver.queues[0].request(b"abc", 3) == b"cba"


def test_C097_C119_memory_that_cannot_be_watched_ends_the_connection_in_words(
    served: Served, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    front = served.frontend(Echo())
    os.close(front.postcopy_advise())
    front.postcopy_listen()
    # Either of them lies on a disk.
    folder = Path(__file__).parent if type_of_folder(tmp_path) == "tmpfs" else tmp_path
    with tempfile.TemporaryFile(dir=folder) as file:
        file.truncate(1 << 20)

        class Region:
            fd, guest_address, size, user_address, file_offset = file.fileno(), 0, 1 << 20, 1 << 40, 0

        with pytest.raises((Disconnected, ProtocolError)):
            front.set_mem_table([Region()], postcopy=True)
    assert "its reply can not say so" in caplog.text


@pytest.mark.parametrize("fast_path", [True, False], ids=["fast", "python"])
def test_C121_a_disk_reads_and_writes_missing_pages(served: Served, fast_path: bool) -> None:
    disk = Blk(MemoryStorage(1 << 20), fast_path=fast_path)
    driver = served.serve(disk, BlockDriver)
    check_disk(driver, served.pages)


@pytest.mark.parametrize("fast_path", [True, False], ids=["fast", "python"])
def test_C121_a_disk_in_a_file_too(served: Served, fast_path: bool, tmp_path: Path) -> None:
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(1 << 20)
    driver = served.serve(Blk(image, fast_path=fast_path), BlockDriver)
    check_disk(driver, served.pages)


def type_of_folder(folder: Path) -> str | None:
    with tempfile.TemporaryFile(dir=folder) as file:
        return type_of(file.fileno())


def check_disk(driver: BlockDriver, pages: PostCopy) -> None:
    """Write a megabyte from pages that are missing, and read it into others."""
    memory, ring = driver.memory, driver.queues[0].ring
    content = os.urandom(256 << 10)
    for kind in (1, 0):
        header, data, status = memory.allocate(16), memory.allocate(len(content), PAGE), memory.allocate(1)
        memory.write(header, kind.to_bytes(8, "little") + bytes(8))
        memory.write(data, content if kind else bytes(len(content)))
        memory.write(status, b"\xff")
        out, back = [(header, 16)], [(status, 1)]
        if kind:
            out.append((data, len(content)))
        else:
            back.insert(0, (data, len(content)))
        ring.add(out, back)
        pages.withhold(data, len(content))
        ring.publish()
        ring.kick()
        answered(driver)
        assert memory.read(status, 1) == b"\0"
        assert memory.read(data, len(content)) == content


def test_C134_a_front_end_that_never_serves_holds_up_no_end(served: Served) -> None:
    driver = served.serve(Echo())
    served.pages.silent = True
    ask(driver, served.pages, indirect=False)
    until(lambda: served.pages.asked, "the question")
    driver.frontend.get_features()
    driver.frontend.close()
    until(lambda: served.daemon.session is None, "the end of the session")


def test_C134_nor_does_it_hold_up_stop(served: Served) -> None:
    started_without_pages(served, Echo())
    until(lambda: served.pages.asked, "the question for the ring")
    served.daemon.close()
    assert served.daemon.session_end_reason == "the back-end was stopped"


def test_C121_when_the_pager_is_killed_the_session_ends_and_says_so(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    driver = served.serve(Echo())
    served.pages.silent = True
    ask(driver, served.pages, indirect=False)
    until(lambda: served.pages.asked, "the question")
    os.kill(pager_of(served.daemon), signal.SIGKILL)
    until(lambda: served.daemon.session is None, "the end of the session")
    assert "the pager has ended" in caplog.text


def test_C121_a_page_that_is_taken_away_again_ends_the_session_and_is_not_made(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    driver = served.serve(Echo())
    source, _ = ask(driver, served.pages, indirect=False)
    answered(driver)
    served.pages.withhold(source, PAGE)
    view = served.daemon.memory.memory().view(source, PAGE)
    try:
        assert bytes(view) == bytes(PAGE)  # not the guest's: see the next line
    finally:
        view.release()
    region = driver.memory.regions[0]
    assert os.lseek(region.fd, source - region.guest_address, os.SEEK_DATA) != source - region.guest_address
    served.daemon.check_memory()
    until(lambda: served.daemon.session is None, "the end of the session")
    assert "took its memory away" in caplog.text


def test_C121_memory_that_a_device_reads_and_writes_by_itself_is_waited_for(served: Served) -> None:
    driver = served.serve(Echo())
    memory = served.daemon.memory.memory()
    place = driver.memory.allocate(8 * PAGE, PAGE)
    driver.memory.write(place, CONTENT * 8)
    served.pages.withhold(place, 8 * PAGE)
    assert memory.read(place + 100, PAGE) == (CONTENT * 2)[100 : 100 + PAGE]
    memory.write(place + 2 * PAGE + 1, b"new")
    assert memory.load(place + 3 * PAGE, 4) == 0x03020100
    memory.store(place + 4 * PAGE, 7, 8)
    with memory.view(place + 5 * PAGE, 4) as view:
        assert bytes(view) == CONTENT[:4]
    (part,) = memory.get_slices(place + 6 * PAGE, 4)
    assert bytes(part) == CONTENT[:4]
    part.release()
    assert set(served.pages.asked) >= {place + page * PAGE for page in range(7)}
    served.pages.bring_all()
    expected = bytearray(CONTENT * 8)
    expected[2 * PAGE + 1 : 2 * PAGE + 4] = b"new"
    expected[4 * PAGE : 4 * PAGE + 8] = (7).to_bytes(8, "little")
    assert driver.memory.read(place, 8 * PAGE) == expected


def test_C121_such_an_access_ends_with_the_session(served: Served) -> None:
    driver = served.serve(Echo())
    memory = served.daemon.memory.memory()
    place = driver.memory.allocate(PAGE, PAGE)
    driver.memory.write(place, CONTENT)
    served.pages.silent = True
    served.pages.withhold(place, PAGE)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(memory.read, place, PAGE)
        until(lambda: place in served.pages.asked, "the question")
        driver.frontend.close()
        with pytest.raises(MemoryFault, match="did not come"):
            reading.result(10)
    del reading, memory


def test_C118_it_is_not_offered_where_the_system_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postcopy, "obstacle", lambda: "userfaultfd: Function not implemented")
    with VhostUserDaemon("test", Echo()) as daemon:
        assert not daemon.offered[1] & ProtocolFeature.PAGEFAULT


def test_C097_C118_without_a_pager_there_is_no_descriptor(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    front = served.frontend(Echo())
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(RequestRefused):
        front.postcopy_advise()
    front.barrier()
    assert "there can be no pager: No such file or directory" in caplog.text


def test_no_upgrade_while_pages_are_on_their_way(served: Served) -> None:
    driver = served.serve(Echo())
    state = served.daemon.session
    assert state is not None
    with pytest.raises(UpgradeError, match="post-copy"):
        bring_to_rest(state, 1.0)
    served.pages.end()
    driver.frontend.barrier()
    for ring in bring_to_rest(state, 1.0):
        ring.hold(False)


def test_C118_it_is_not_offered_with_an_iommu() -> None:
    with VhostUserDaemon("test", Echo(), iommu=True) as daemon:
        assert not daemon.offered[1] & ProtocolFeature.PAGEFAULT
    with VhostUserDaemon("test", Echo()) as daemon:
        assert daemon.offered[1] & ProtocolFeature.PAGEFAULT


def test_C119_a_table_on_a_running_ring_has_it_go_on_when_its_pages_came(served: Served) -> None:
    driver = served.serve(Echo())
    ask(driver, served.pages, indirect=False)
    answered(driver)
    served.pages.share(driver.memory.regions)
    driver.frontend.barrier()
    ask(driver, served.pages, indirect=False)
    assert answered(driver) == PAGE
