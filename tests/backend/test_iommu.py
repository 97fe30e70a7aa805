"""Addresses behind an IOMMU: misses, invalidations, permissions, both rings (C078, C088 to C092)."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import pytest

from tests.support.devices import Echo
from tests.support.front_end import until
from tests.support.iommu import DriveIommu, ask
from vhost_user import Device, Request, VhostUserDaemon
from vhost_user.devices import Blk, FileStorage, MemoryStorage
from vhost_user.engine.driver.memory import DriverMemory
from vhost_user.frontend import BlockDriver, PeerTimeout, VirtioDriver
from vhost_user.frontend.iommu import GUEST_SHIFT, PAGE, Iommu
from vhost_user.spec.features import VirtioFeature
from vhost_user.spec.structs import IotlbPermission, IotlbType

TOP = 1 << 64
READ, WRITE = IotlbPermission.READ, IotlbPermission.WRITE


class HoldingEcho(Device):
    """Answers with what it was asked, backwards; holds requests while ``holding``."""

    def __init__(self) -> None:
        super().__init__()
        self.holding = False
        self.held: list[Request] = []
        self.arrived = threading.Event()
        self.failed: list[BaseException] = []

    def handle(self, request: Request) -> None:
        if self.holding:
            request.hold()
            self.held.append(request)
            self.arrived.set()
            return
        request.write(request.read()[::-1])

    def fail(self, request: Request, error: BaseException) -> None:
        del request
        self.failed.append(error)

    def answer_held(self) -> None:
        for request in self.held:
            request.write(request.read()[::-1])
            request.complete()
        self.held.clear()


class Impatient(HoldingEcho):
    stop_patience = 0.05


def test_C088_C090_rings_and_buffers_are_found_by_asking(behind_iommu: DriveIommu) -> None:
    iommu = Iommu()
    driver = behind_iommu(Echo(), iommu)
    assert ask(driver) == b"cba"
    assert iommu.misses
    assert all(message.type == IotlbType.MISS for message in iommu.misses)
    asked = len(iommu.misses)
    for _ in range(100):
        assert ask(driver) == b"cba"
    assert len(iommu.misses) < asked + 20  # cached: not once a request


@pytest.mark.parametrize("indirect", [False, True], ids=["direct", "indirect"])
def test_C088_a_request_of_many_pages_and_tables(behind_iommu: DriveIommu, indirect: bool) -> None:
    driver = behind_iommu(Echo(), Iommu(), use_indirect=indirect, queue_size=256)
    text = bytes(range(256)) * 512
    parts = [text[at : at + 5000] for at in range(0, len(text), 5000)]
    assert driver.queues[0].request(parts, [7000] * 19) == text[::-1]


def test_C091_what_is_flushed_is_asked_for_again(behind_iommu: DriveIommu) -> None:
    iommu = Iommu()
    driver = behind_iommu(Echo(), iommu)
    for _ in range(20):
        assert ask(driver) == b"cba"
        iommu.invalidate(0, TOP - 1)
    assert len(iommu.misses) >= 20


def test_C091_memory_is_not_used_after_invalidate_was_answered(behind_iommu: DriveIommu) -> None:
    device, iommu = HoldingEcho(), Iommu()
    driver = behind_iommu(device, iommu)
    ask(driver)
    device.holding = True
    pending = driver.queues[0].submit(b"abc", 3)
    assert device.arrived.wait(10)
    address = pending.writable_address
    answered = threading.Event()

    def unmap() -> None:
        iommu.unmap(address & -PAGE, PAGE)
        answered.set()

    thread = threading.Thread(target=unmap)
    thread.start()
    assert not answered.wait(0.1)  # the request in flight uses it
    device.answer_held()
    assert answered.wait(10)
    thread.join()
    driver.queues[0].wait_for([pending])
    assert pending.data == b"cba"


def test_C091_a_request_that_does_not_end_is_given_back(behind_iommu: DriveIommu) -> None:
    """The guest may use the page for something else once the answer is there: the device must not write."""
    device, iommu = Impatient(), Iommu()
    driver = behind_iommu(device, iommu)
    ask(driver)
    device.holding = True
    pending = driver.queues[0].submit(b"abc", 3)
    assert device.arrived.wait(10)
    device.arrived.clear()
    iommu.invalidate(pending.writable_address & -PAGE, PAGE)  # it stays mapped, as when a guest flushes all
    (first,) = device.held
    assert not first.alive
    # It was never taken, so it comes again, with a translation of now.
    assert device.arrived.wait(10)
    device.held.pop(0)
    device.answer_held()
    driver.queues[0].wait_for([pending])
    assert pending.data == b"cba"


def test_C091_requests_on_other_pages_are_not_waited_for(behind_iommu: DriveIommu) -> None:
    device, iommu = HoldingEcho(), Iommu()
    driver = behind_iommu(device, iommu)
    spare = driver.memory.allocate(PAGE, PAGE)
    device.holding = True
    pending = driver.queues[0].submit(b"abc", 3)
    assert device.arrived.wait(10)
    iommu.unmap(spare, PAGE)
    assert len(device.held) == 1
    assert device.held[0].alive
    device.answer_held()
    driver.queues[0].wait_for([pending])


def test_C091_a_ring_whose_memory_is_unmapped_pauses_and_goes_on(behind_iommu: DriveIommu) -> None:
    iommu = Iommu()
    driver = behind_iommu(Echo(), iommu)
    ask(driver)
    ring = driver.queues[0].ring
    start = ring.descriptor_address & -PAGE
    iommu.unmap(start, PAGE)
    pending = driver.queues[0].submit(b"abc", 3)
    with pytest.raises(PeerTimeout):
        driver.queues[0].wait_for([pending], 0.3)
    iommu.map(start, PAGE, driver.memory.guest_to_user(start))
    driver.queues[0].wait_for([pending])  # nobody kicked: it is asked for again
    assert pending.data == b"cba"


def test_C090_a_miss_that_is_never_answered_blocks_nobody(behind_iommu: DriveIommu) -> None:
    iommu = Iommu()
    driver = behind_iommu(Echo(), iommu, num_queues=1)
    ask(driver)
    iommu.silent = True
    iommu.invalidate(0, TOP - 1)
    driver.queues[0].submit(b"abc", 3)
    until(lambda: bool(iommu.misses))
    driver.frontend.barrier()  # the control thread answers
    began = time.monotonic()
    driver.stop_queue(0)  # nothing was taken, so nothing is waited for
    assert time.monotonic() - began < 5


def test_C090_a_parked_ring_goes_on_where_it_stopped(behind_iommu: DriveIommu) -> None:
    iommu = Iommu()
    driver = behind_iommu(Echo(), iommu)
    iommu.silent = True
    iommu.invalidate(0, TOP - 1)
    requests = [driver.queues[0].submit(bytes([number]) * 3, 3) for number in range(5)]
    until(lambda: bool(iommu.misses))
    iommu.silent = False
    for page in range(0, 0x40000, PAGE):
        iommu.update(driver.memory.regions[0].guest_address + page)
    driver.queues[0].wait_for(requests)
    assert [pending.data for pending in requests] == [bytes([number]) * 3 for number in range(5)]


def test_C092_what_may_only_be_read_is_not_written(behind_iommu: DriveIommu) -> None:
    device, iommu = HoldingEcho(), Iommu()
    driver = behind_iommu(device, iommu)
    ask(driver)
    page = driver.memory.allocate(PAGE, PAGE)
    driver.memory.write(page, b"secret")
    iommu.map(page, PAGE, driver.memory.guest_to_user(page), READ)
    iommu.invalidate(page, PAGE)
    ring = driver.queues[0].ring
    text = driver.memory.allocate(PAGE, PAGE)
    ring.add([(text, 6)], [(page, 6)])
    ring.publish()
    ring.kick()
    assert ring.wait(10)
    assert driver.memory.read(page, 6) == b"secret"
    until(lambda: bool(device.failed))
    assert ring.poll() is not None
    assert ask(driver) == b"cba"  # the ring goes on


def test_C090_a_miss_that_is_denied_fails_one_request(behind_iommu: DriveIommu) -> None:
    device, iommu = HoldingEcho(), Iommu()
    driver = behind_iommu(device, iommu)
    ask(driver)
    page = driver.memory.allocate(PAGE, PAGE)
    answer = driver.memory.allocate(PAGE, PAGE)
    iommu.unmap(page, PAGE)
    ring = driver.queues[0].ring
    ring.add([(page, 6)], [(answer, 6)])
    ring.publish()
    ring.kick()
    assert ring.wait(10)
    assert ring.poll() is not None
    assert device.failed
    # The guest maps it after that: it is asked for again.
    iommu.map(page, PAGE, driver.memory.guest_to_user(page))
    ring.add([(page, 6)], [(answer, 6)])
    ring.publish()
    ring.kick()
    assert ring.wait(10)
    assert len(device.failed) == 1


def test_ring_areas_on_scattered_pages_are_put_together(packed: bool) -> None:
    """A guest's IOMMU shows its driver pages in one piece that lie apart."""
    iommu, memory = Iommu(mapped=False), DriverMemory(4 << 20)
    region = memory.regions[0]
    # What the driver calls page n is page (n ^ 1) of the file.
    for page in range(0, region.size, PAGE):
        iommu.map(region.guest_address + page, PAGE, region.user_address + (page ^ PAGE))
    ours, theirs = socket.socketpair()
    with VhostUserDaemon("test", Echo(), iommu=True) as daemon:
        daemon.start_connection(theirs)
        driver = VirtioDriver(ours, iommu=iommu, packed=packed, queue_size=256, memory=memory, timeout=3)
        try:
            driver.negotiate()
            driver.acknowledge()
            driver.make_queues()
            driver.share_memory()
            driver.start_queue(0)
            driver.enable_queue(0)
            (vring,) = daemon.vrings
            until(lambda: vring.mapped)
            assert not vring.translation.scattered
        finally:
            driver.close()
            memory.close()


def test_C078_the_log_speaks_of_guest_addresses(behind_iommu: DriveIommu) -> None:
    import mmap  # for this test alone
    import os

    iommu = Iommu()
    driver = behind_iommu(Echo(), iommu)
    size = (GUEST_SHIFT + (1 << 32)) // PAGE // 8
    fd = os.memfd_create("log")
    try:
        os.ftruncate(fd, size)
        driver.frontend.set_log_base(fd, size)
        driver.frontend.set_features(driver.frontend.features | VirtioFeature.LOG_ALL)
        pending = driver.queues[0].submit(b"abc", 3)
        driver.queues[0].wait_for([pending])
        driver.frontend.barrier()
        page = (pending.writable_address + GUEST_SHIFT) // PAGE
        with mmap.mmap(fd, mmap.PAGESIZE, offset=page // 8 // PAGE * PAGE) as log:
            assert log[page // 8 % PAGE] >> page % 8 & 1
    finally:
        os.close(fd)


@pytest.mark.parametrize("fast", [False, True], ids=["Python", "file"])
def test_C088_a_disk_reads_what_it_wrote(behind_iommu: DriveIommu, tmp_path: Any, fast: bool) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(1 << 20))
    iommu = Iommu()
    storage = FileStorage(image) if fast else MemoryStorage(1 << 20)
    disk: Any = behind_iommu(Blk(storage), iommu, BlockDriver)
    for number in range(64):
        disk.write(number * 16, bytes([number]) * 8192)
        if number % 8 == 0:
            iommu.invalidate(0, TOP - 1)
    for number in range(64):
        assert disk.read(number * 16, 16) == bytes([number]) * 8192
