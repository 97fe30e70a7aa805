"""A balloon whose memory changes under it, is logged, or is behind an IOMMU: C042, C075, C078, C088."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from tests.support.ballooning import MIB, Drive, filled, pages_of, resident
from vhost_user import VhostUserDaemon
from vhost_user.conformance.logged_driver import set_log
from vhost_user.devices import Balloon, balloon_pages
from vhost_user.engine.driver.memory import DriverMemory, DriverRegion
from vhost_user.engine.memory.guest_memory import GuestMemory
from vhost_user.frontend import BalloonDriver
from vhost_user.frontend.iommu import GUEST_SHIFT, Iommu
from vhost_user.spec.balloon import (
    INFLATE_QUEUE,
    PAGE_SIZE,
    pack_page_numbers,
)
from vhost_user.spec.features import VirtioFeature


class Slow:
    """``give_back`` that can be held up, and notes whether the memory it was asked for was there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.calls: list[bool] = []
        monkeypatch.setattr(balloon_pages, "give_back", self.give_back)
        monkeypatch.setattr(balloon_pages, "PIECE", PAGE_SIZE)

    def give_back(self, memory: GuestMemory, address: int, length: int) -> int:
        self.calls.append(memory.is_mapped(address, length))
        self.begun.set()
        assert self.go_on.wait(10)
        return length


@pytest.mark.parametrize("change", ["remove", "reset"])
def test_C042_C075_nothing_is_given_back_once_it_may_be_somebody_elses(
    drive_balloon: Drive, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr("vhost_user.backend.draining.RESET_DRAIN", 0.02)
    slow = Slow(monkeypatch)
    extra = DriverRegion(MIB, guest_address=1 << 32)
    memory = DriverMemory([DriverRegion(8 * MIB, guest_address=1 << 20), extra])
    driver = drive_balloon(Balloon(), memory=memory, memory_slots=True)
    answered = threading.Event()

    def tell() -> None:
        if change == "remove":
            driver.frontend.rem_mem_reg(extra, need_reply=True)
        else:
            driver.frontend.reset_device(need_reply=True)
        answered.set()

    thread = threading.Thread(target=tell)
    try:
        numbers = [page // PAGE_SIZE for page in pages_of(1 << 32, MIB)]
        driver.queues[INFLATE_QUEUE].submit(pack_page_numbers(numbers))
        assert slow.begun.wait(10)
        thread.start()
        # An answer now would be a promise that is broken a moment later.
        assert not answered.wait(0.3)
        slow.go_on.set()
        assert answered.wait(10)
        done = len(slow.calls)
        if change == "remove":
            driver.queues[INFLATE_QUEUE].wait_for([*driver.queues[INFLATE_QUEUE].pending.values()], 10)
            assert not any(slow.calls[done:])
        else:
            driver.frontend.barrier()
            assert len(slow.calls) == done < len(numbers)
    finally:
        slow.go_on.set()
        thread.join()
        driver.close()
        memory.close()


def test_C042_of_a_region_that_was_removed_nothing_goes_back(
    drive_balloon: Drive, caplog: pytest.LogCaptureFixture
) -> None:
    extra = DriverRegion(MIB, guest_address=1 << 32)
    memory = DriverMemory([DriverRegion(8 * MIB, guest_address=1 << 20), extra])
    try:
        driver = drive_balloon(Balloon(), memory=memory, memory_slots=True)
        memory.fill(1 << 32, MIB, 0xAA)
        driver.frontend.rem_mem_reg(extra)
        driver.tell(INFLATE_QUEUE, pages_of(1 << 32, MIB))
        assert os.fstat(extra.fd).st_blocks * 512 == MIB
        assert "does not have" in caplog.text
        driver.close()
    finally:
        memory.close()


def test_C078_pages_that_were_given_back_are_logged(drive_balloon: Drive) -> None:
    log = DriverRegion(PAGE_SIZE, guest_address=0)  # of 128 MiB
    memory = DriverMemory([DriverRegion(16 * MIB, guest_address=1 << 20)])
    driver = drive_balloon(Balloon(), memory=memory)
    try:
        address = filled(driver, 4 * MIB)
        set_log(driver, log.fd, PAGE_SIZE)
        driver.frontend.set_features(driver.frontend.features | VirtioFeature.LOG_ALL)
        driver.frontend.barrier()
        driver.tell(INFLATE_QUEUE, [address, address + 2 * PAGE_SIZE])
        driver.report([(address + MIB, MIB)])
        marks = memoryview(log)
        dirty = {page for page in range(0, 128 * MIB, PAGE_SIZE) if marks[page >> 15] >> (page >> 12) % 8 & 1}
        marks.release()
        assert dirty == {address, address + 2 * PAGE_SIZE, *pages_of(address + MIB, MIB)}
    finally:
        driver.close()
        memory.close()
        log.close()


def test_C088_behind_an_iommu_reports_are_translated_and_page_numbers_are_of_the_guest(packed: bool) -> None:
    balloon, ours, theirs = Balloon(), *socket.socketpair()
    with VhostUserDaemon("test", balloon, iommu=True) as daemon:
        daemon.start_connection(theirs)
        with BalloonDriver(ours, iommu=Iommu(), packed=packed) as driver:
            address = filled(driver, 8 * MIB)
            driver.report([(address, 4 * MIB)])
            assert resident(driver, address, 8 * MIB) == 4 * MIB
            driver.tell(INFLATE_QUEUE, pages_of(address + 4 * MIB + GUEST_SHIFT, MIB))
            assert resident(driver, address, 8 * MIB) == 3 * MIB
            assert balloon.given_back == 5 * MIB
