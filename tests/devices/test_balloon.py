"""The balloon, driven in this process; C042, C054, C075, C078, C088, C124, C125, C129, C130, C134."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.front_end import until
from vhost_user import VhostUserDaemon
from vhost_user.conformance.logged_driver import set_log
from vhost_user.device_types import find
from vhost_user.devices import Balloon, Statistics, balloon_pages
from vhost_user.devices.balloon_pages import runs
from vhost_user.engine.driver.memory import DriverMemory, DriverRegion
from vhost_user.engine.memory.guest_memory import GuestMemory
from vhost_user.frontend import BalloonDriver, PeerTimeout
from vhost_user.frontend.iommu import GUEST_SHIFT, Iommu
from vhost_user.spec.balloon import (
    DEFLATE_QUEUE,
    INFLATE_QUEUE,
    PAGE_SIZE,
    REPORTING_QUEUE,
    BalloonConfig,
    BalloonFeature,
    BalloonStat,
    HintCommand,
    pack_page_numbers,
)
from vhost_user.spec.features import VirtioFeature
from vhost_user.testing.virtio import Virtio

MIB = 1 << 20
ALL = sum(BalloonFeature)
STATS, POISON = BalloonFeature.STATS_VQ, BalloonFeature.PAGE_POISON
HINT, REPORTING = BalloonFeature.FREE_PAGE_HINT, BalloonFeature.PAGE_REPORTING
Drive = Callable[..., BalloonDriver]


@pytest.fixture(params=[False, True], ids=["split", "packed"])
def packed(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def drive(virtio: Virtio, packed: bool) -> Drive:
    """Serve a balloon, and bring a driver up on it."""

    def up(device: Balloon, **options: Any) -> BalloonDriver:
        return virtio.attach(device, packed=packed).drive(BalloonDriver, **options)

    return up


def blocks(driver: BalloonDriver) -> int:
    """Bytes of the host that the driver's memory takes, rings and requests included."""
    return sum(os.fstat(region.fd).st_blocks * 512 for region in driver.memory.regions)


def resident(driver: BalloonDriver, address: int, size: int) -> int:
    """Bytes of the host that this part of it takes."""
    (region,) = driver.memory.regions
    begin = address - region.guest_address + region.file_offset
    end, found = begin + size, 0
    while begin < end:
        try:
            data = os.lseek(region.fd, begin, os.SEEK_DATA)
        except OSError:  # there is none after it
            break
        begin = os.lseek(region.fd, data, os.SEEK_HOLE)
        found += max(0, min(begin, end) - data)
    return found


def filled(driver: BalloonDriver, size: int) -> int:
    """Memory that the guest has used, at a border of 4 MiB."""
    address = driver.memory.allocate(size, 4 * MIB)
    driver.memory.fill(address, size, 0xAA)
    return address


def pages_of(address: int, size: int) -> range:
    return range(address, address + size, PAGE_SIZE)


def wait(coroutine: Any) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 10))


# Inflate and deflate


def test_memory_in_the_balloon_goes_back_to_the_host(drive: Drive) -> None:
    balloon = Balloon()
    driver = drive(balloon)
    address = filled(driver, 16 * MIB)
    assert resident(driver, address, 16 * MIB) == 16 * MIB
    before = blocks(driver)
    balloon.target = 8 * MIB
    assert driver.configuration().num_pages == 2048
    assert balloon.actual == 0
    driver.inflate(pages_of(address, 8 * MIB))
    wait(balloon.reached())
    assert balloon.actual == balloon.given_back == 8 * MIB
    assert resident(driver, address, 16 * MIB) == 8 * MIB
    assert before - blocks(driver) > 7 * MIB
    assert driver.memory.read(address, 8 * MIB) == bytes(8 * MIB)
    assert driver.memory.read(address + 8 * MIB, 8 * MIB) == b"\xaa" * (8 * MIB)
    balloon.target = 0
    assert driver.follow() == 0
    wait(balloon.reached())
    assert balloon.actual == 0
    driver.memory.fill(address, MIB, 0xBB)
    assert driver.memory.read(address, MIB) == b"\xbb" * MIB


def test_the_driver_hears_of_a_target_and_whoever_waits_of_the_balloon(drive: Drive) -> None:
    balloon = Balloon(MIB)
    driver = drive(balloon)
    assert driver.follow() == 256
    driver.config_changed.clear()

    async def change() -> None:
        await balloon.reached()
        balloon.target = 2 * MIB
        waiting = asyncio.create_task(balloon.reached())
        assert await asyncio.to_thread(driver.config_changed.wait, 10)
        await asyncio.sleep(0)
        assert not waiting.done()
        await asyncio.to_thread(driver.follow)
        await waiting

    wait(change())
    assert balloon.actual == balloon.target == 2 * MIB


def test_pages_in_any_order_and_twice(drive: Drive) -> None:
    driver = drive(Balloon())
    address = filled(driver, 4 * MIB)
    wanted = [*pages_of(address, MIB)][::-2]
    driver.tell(INFLATE_QUEUE, [*wanted, *wanted[:10]])
    assert 4 * MIB - resident(driver, address, 4 * MIB) == len(wanted) * PAGE_SIZE
    for page in pages_of(address, MIB):
        assert driver.memory.read(page, 1) == (b"\0" if page in wanted else b"\xaa")


def test_page_numbers_become_ranges() -> None:
    assert list(runs([])) == []
    assert list(runs([3, 1, 2, 2, 7, 0xFFFFFFFF])) == [
        (0x1000, 0x3000),
        (0x7000, 0x1000),
        (0xFFFFFFFF000, 0x1000),
    ]


def test_H36_pages_that_the_guest_does_not_have_are_refused_in_words(
    drive: Drive, caplog: pytest.LogCaptureFixture
) -> None:
    driver = drive(Balloon())
    address = filled(driver, 4 * MIB)
    driver.queues[INFLATE_QUEUE].request(
        pack_page_numbers([address // PAGE_SIZE, 0xFFFF_FFFF, 5, address // PAGE_SIZE + 9])
    )
    assert 4 * MIB - resident(driver, address, 4 * MIB) == 2 * PAGE_SIZE
    assert "gives away memory that it does not have" in caplog.text
    assert "0xffffffff000" in caplog.text


def test_a_request_that_names_too_many_pages_is_served_in_part(
    drive: Drive, caplog: pytest.LogCaptureFixture
) -> None:
    driver = drive(Balloon(), memory_size=128 * MIB)
    address = filled(driver, MIB)
    number = address // PAGE_SIZE
    driver.queues[INFLATE_QUEUE].request(pack_page_numbers([number] * (1 << 16) + [number + 1]))
    assert driver.memory.read(address, 1) == b"\0"
    assert driver.memory.read(address + PAGE_SIZE, 1) == b"\xaa"
    assert "the others are left alone" in caplog.text


def test_what_has_no_holes_is_said_once_and_the_balloon_goes_on(
    drive: Drive, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> int:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(balloon_pages, "give_back", fail)
    balloon = Balloon(2 * MIB)
    driver = drive(balloon)
    assert driver.follow() == 512
    wait(balloon.reached())
    assert balloon.given_back == 0
    assert caplog.text.count("cannot be given back to the host: Operation not supported") == 1


def test_pages_smaller_than_those_of_the_host_are_said_once(
    drive: Drive, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(balloon_pages, "give_back", lambda *_arguments: 0)
    driver = drive(Balloon(2 * MIB))
    driver.follow()
    assert caplog.text.count("only a part of a page of the host") == 1


# Memory that changes under it


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
    drive: Drive, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr("vhost_user.backend.state.RESET_DRAIN", 0.02)
    slow = Slow(monkeypatch)
    extra = DriverRegion(MIB, guest_address=1 << 32)
    memory = DriverMemory([DriverRegion(8 * MIB, guest_address=1 << 20), extra])
    driver = drive(Balloon(), memory=memory, memory_slots=True)
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
    drive: Drive, caplog: pytest.LogCaptureFixture
) -> None:
    extra = DriverRegion(MIB, guest_address=1 << 32)
    memory = DriverMemory([DriverRegion(8 * MIB, guest_address=1 << 20), extra])
    try:
        driver = drive(Balloon(), memory=memory, memory_slots=True)
        memory.fill(1 << 32, MIB, 0xAA)
        driver.frontend.rem_mem_reg(extra)
        driver.tell(INFLATE_QUEUE, pages_of(1 << 32, MIB))
        assert os.fstat(extra.fd).st_blocks * 512 == MIB
        assert "does not have" in caplog.text
        driver.close()
    finally:
        memory.close()


def test_C078_pages_that_were_given_back_are_logged(drive: Drive) -> None:
    log = DriverRegion(PAGE_SIZE, guest_address=0)  # of 128 MiB
    memory = DriverMemory([DriverRegion(16 * MIB, guest_address=1 << 20)])
    driver = drive(Balloon(), memory=memory)
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


# Statistics


def test_statistics_have_names_and_are_a_table(drive: Drive) -> None:
    balloon = Balloon()
    driver = drive(balloon)
    assert str(balloon.stats) == "no statistics"
    driver.give_statistics(
        {BalloonStat.MEMTOT: 256 * MIB, BalloonStat.MEMFREE: 1536 << 10, BalloonStat.MAJFLT: 7, 999: 1}
    )
    until(lambda: len(balloon.stats) == 3, "statistics come")
    assert dict(balloon.stats) == {"memtot": 256 * MIB, "memfree": 1536 << 10, "majflt": 7}
    assert balloon.stats.when is not None
    assert str(balloon.stats).splitlines() == [
        "memtot         256.0 MiB",
        "memfree          1.5 MiB",
        "majflt                 7",
    ]
    with pytest.raises(PeerTimeout):
        driver.wait_asked(timeout=0.05)


def test_new_statistics_are_made_when_somebody_asks(drive: Drive) -> None:
    balloon = Balloon()
    driver = drive(balloon)

    async def ask() -> Statistics:
        waiting = asyncio.create_task(balloon.measure())
        await asyncio.sleep(0)
        # The first were made before the question.
        driver.give_statistics({BalloonStat.MEMFREE: 1})
        await asyncio.to_thread(driver.wait_asked)
        assert not waiting.done()
        driver.give_statistics({BalloonStat.MEMFREE: 2})
        assert (await waiting)["memfree"] == 2
        again = asyncio.create_task(balloon.measure())
        await asyncio.to_thread(driver.wait_asked)
        assert not again.done()
        driver.give_statistics({BalloonStat.MEMFREE: 3})
        return await again

    assert wait(ask())["memfree"] == 3


def test_statistics_are_asked_for_again_and_again(drive: Drive) -> None:
    came: list[int] = []

    class Watching(Balloon):
        def measured(self, stats: Statistics) -> None:
            came.append(stats["memfree"])

    driver = drive(Watching(stats_interval=0.01))
    for number in range(5):
        driver.give_statistics({BalloonStat.MEMFREE: number})
        driver.wait_asked()
    assert came == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("data", "names"),
    [(b"", []), (b"\4\0" + bytes(7), []), (b"\4\0" + bytes(8) + b"\5", ["memfree"]), (b"\xff" * 4000, [])],
)
def test_what_are_no_statistics_are_none(data: bytes, names: list[str]) -> None:
    assert list(Statistics.unpack(data)) == names


# Free pages


def test_reported_pages_go_back_to_the_host(drive: Drive) -> None:
    balloon = Balloon()
    driver = drive(balloon)
    address = filled(driver, 16 * MIB)
    driver.report([(address + 4 * MIB * number, 2 * MIB) for number in range(4)])
    assert balloon.given_back == resident(driver, address, 16 * MIB) == 8 * MIB
    assert balloon.actual == 0
    assert driver.memory.read(address + 2 * MIB, 2 * MIB) == b"\xaa" * (2 * MIB)
    driver.memory.fill(address, MIB, 0xBB)
    assert driver.memory.read(address, MIB) == b"\xbb" * MIB


@pytest.mark.parametrize(("poison", "given"), [(0, 4 * MIB), (0xAAAAAAAA, 0)])
def test_free_pages_keep_the_value_that_the_driver_fills_them_with(
    drive: Drive, poison: int, given: int
) -> None:
    balloon = Balloon()
    driver = drive(balloon, features=ALL, poison=poison)
    address = filled(driver, 8 * MIB)
    driver.report([(address, 4 * MIB)])
    assert balloon.given_back == given
    assert driver.memory.read(address, 1) == (b"\0" if given else b"\xaa")
    # What is in the balloon is filled anew when it comes out of it.
    driver.inflate(pages_of(address + 4 * MIB, 4 * MIB))
    assert balloon.given_back == given + 4 * MIB


def test_hints_are_told_and_nothing_is_given_back(drive: Drive) -> None:
    balloon = Balloon()
    driver = drive(balloon)
    address = filled(driver, 16 * MIB)
    assert not driver.hint([])
    wanted = [(address, 4 * MIB), (address + 8 * MIB, 4 * MIB)]
    numbers = []
    for _ in range(2):

        async def ask() -> list[tuple[int, int]]:
            waiting = asyncio.create_task(balloon.free_pages())
            again = asyncio.create_task(balloon.free_pages())
            await asyncio.sleep(0)
            numbers.append(driver.configuration().free_page_hint_cmd_id)
            assert await asyncio.to_thread(driver.hint, wanted)
            assert await again == await waiting
            return await waiting

        assert wait(ask()) == wanted
        assert driver.configuration().free_page_hint_cmd_id == HintCommand.DONE
    assert numbers == [2, 3]
    assert resident(driver, address, 16 * MIB) == 16 * MIB


def test_hints_of_another_round_are_ignored(drive: Drive) -> None:
    balloon = Balloon()
    driver = drive(balloon)
    address = filled(driver, 16 * MIB)

    async def ask() -> list[tuple[int, int]]:
        waiting = asyncio.create_task(balloon.free_pages())
        await asyncio.sleep(0)

        def answer() -> None:
            driver.show_hint(address, MIB)
            driver.say_hint(77)
            driver.show_hint(address + MIB, MIB)
            driver.say_hint(driver.configuration().free_page_hint_cmd_id)
            driver.show_hint(address + 2 * MIB, MIB)
            driver.say_hint(HintCommand.STOP)
            driver.show_hint(address + 3 * MIB, MIB)

        await asyncio.to_thread(answer)
        return await waiting

    assert wait(ask()) == [(address + 2 * MIB, MIB)]


def test_whoever_waits_for_hints_hears_that_the_guest_is_gone(virtio: Virtio) -> None:
    balloon = Balloon()
    attached = virtio.attach(balloon)
    with pytest.raises(ConnectionError, match="no guest"):
        wait(balloon.free_pages())
    driver = attached.drive(BalloonDriver)

    async def ask() -> None:
        waiting = asyncio.create_task(balloon.free_pages())
        await asyncio.sleep(0)
        await asyncio.to_thread(attached.disconnect)
        with pytest.raises(ConnectionError, match="the guest went"):
            await waiting

    wait(ask())
    driver = attached.drive(BalloonDriver)

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(balloon.free_pages(), 0.05)

    wait(give_up())
    assert driver.configuration().free_page_hint_cmd_id == HintCommand.DONE


# Queues that exist with a feature only


@pytest.mark.parametrize("without_gaps", [False, True], ids=["specification", "as Linux"])
@pytest.mark.parametrize("taken", range(8))
def test_optional_queues_have_the_numbers_that_the_driver_gives_them(
    drive: Drive, taken: int, without_gaps: bool
) -> None:
    stats, hints, reports = (bool(taken >> bit & 1) for bit in range(3))
    features = (
        BalloonFeature.STATS_VQ * stats
        | BalloonFeature.FREE_PAGE_HINT * hints
        | BalloonFeature.PAGE_REPORTING * reports
    )
    count = 2 + stats + hints + reports if without_gaps else 5
    balloon = Balloon()
    driver = drive(balloon, features=features, without_gaps=without_gaps, num_queues=count)
    if not without_gaps:
        for number, exists in ((2, stats), (3, hints), (4, reports)):
            if not exists:
                driver.stop_queue(number)  # there is none; the driver here has made it all the same
    address = filled(driver, 8 * MIB)
    if reports:
        driver.report([(address, 4 * MIB)])
    assert balloon.given_back == 4 * MIB * reports
    if stats:
        driver.give_statistics({BalloonStat.MEMFREE: 5})
        until(lambda: dict(balloon.stats) == {"memfree": 5}, "statistics come")
    if hints:

        async def ask() -> list[tuple[int, int]]:
            waiting = asyncio.create_task(balloon.free_pages())
            await asyncio.sleep(0)
            await asyncio.to_thread(driver.hint, [(address, MIB)])
            return await waiting

        assert wait(ask()) == [(address, MIB)]
    driver.tell(INFLATE_QUEUE, pages_of(address + 4 * MIB, MIB))
    driver.tell(DEFLATE_QUEUE, pages_of(address + 4 * MIB, MIB))
    assert balloon.given_back == 4 * MIB * reports + MIB


@pytest.mark.parametrize(
    ("options", "features", "queues"),
    [
        ({}, STATS | POISON | HINT | REPORTING, 5),
        ({"deflate_on_oom": True, "must_tell": True}, ALL, 5),
        ({"hints": False}, STATS | POISON | REPORTING, 5),
        ({"reporting": False}, STATS | POISON | HINT, 4),
        ({"reporting": False, "hints": False}, STATS | POISON, 3),
    ],
)  # fmt: skip
def test_what_is_offered(options: dict[str, bool], features: int, queues: int) -> None:
    device = find("balloon").make(options)
    assert (device.device_features, device.num_queues()) == (features, queues)
    resembles = find("balloon").resembles
    assert resembles is not None
    assert resembles(device.features(), queues)
    device.close()


# The configuration space


def test_C129_the_driver_writes_the_whole_space_with_an_old_target(drive: Drive) -> None:
    balloon = Balloon(MIB)
    driver = drive(balloon, features=ALL)
    old = driver.configuration()
    balloon.target = 2 * MIB
    written = BalloonConfig(old.num_pages, 77, 5, 0x55).pack()
    for data in (written, written.ljust(256, b"\0")):
        driver.write_config(0, data)
        assert (balloon.actual, balloon.target) == (77 * PAGE_SIZE, 2 * MIB)
        assert driver.configuration() == BalloonConfig(512, 77, old.free_page_hint_cmd_id, 0x55)
        driver.set_actual(0)


@pytest.mark.parametrize("size", [1, PAGE_SIZE + 1, -PAGE_SIZE, PAGE_SIZE << 32])
def test_a_target_of_no_whole_pages_is_refused(size: int) -> None:
    balloon = Balloon()
    with pytest.raises(ValueError, match=r"target is .*: a balloon has whole pages"):
        balloon.target = size
    with pytest.raises(ValueError, match="target is"):
        Balloon(size)
    balloon.close()


@pytest.mark.parametrize("interval", [0, -1.0, float("nan")])
def test_an_interval_that_is_not_positive_is_refused(interval: float) -> None:
    with pytest.raises(ValueError, match="must be a positive number of seconds"):
        Balloon(stats_interval=interval)


# Drivers that come and go


def test_C075_C134_the_next_driver_begins_with_an_empty_balloon(virtio: Virtio, packed: bool) -> None:
    balloon = Balloon(MIB)
    attached = virtio.attach(balloon, packed=packed)
    for reset in (True, False, True):
        driver = attached.drive(BalloonDriver)
        assert (balloon.target, balloon.actual, len(balloon.stats)) == (MIB, 0, 0)
        driver.follow()
        assert balloon.actual == MIB
        driver.give_statistics({BalloonStat.MEMFREE: 5})
        until(lambda: balloon.stats, "statistics come")
        if reset:
            driver.frontend.reset_device(need_reply=True)
            assert balloon.actual == 0
        attached.disconnect()


def test_C054_C050_a_pause_changes_nothing(drive: Drive) -> None:
    balloon = Balloon(MIB)
    driver = drive(balloon)
    driver.follow()
    driver.give_statistics({BalloonStat.MEMFREE: 5})
    until(lambda: balloon.stats, "statistics come")
    for _ in range(3):
        for queue in range(5):
            driver.stop_queue(queue)
        for queue in range(5):
            driver.start_queue(queue)
            driver.enable_queue(queue)
        assert balloon.actual == balloon.target
        balloon.target += MIB
        driver.follow()
        wait(balloon.reached())
    assert balloon.actual == 4 * MIB

    async def ask() -> Statistics:
        waiting = asyncio.create_task(balloon.measure())
        await asyncio.to_thread(driver.wait_asked)
        driver.give_statistics({BalloonStat.MEMFREE: 6})
        return await waiting

    assert wait(ask())["memfree"] == 6


def test_C134_a_driver_that_was_at_work_has_what_it_was_asked_for(virtio: Virtio, packed: bool) -> None:
    first = virtio.attach(Balloon(MIB), packed=packed)
    driver = first.drive(BalloonDriver, inflight=True)
    driver.follow()
    balloon = Balloon(MIB)
    second = virtio.attach(balloon, packed=packed)
    assert balloon.actual == 0
    driver.reconnect(second.socket)
    wait(balloon.reached())
    assert balloon.actual == MIB
    balloon.target = 2 * MIB
    driver.follow()
    wait(balloon.reached())
    assert balloon.actual == 2 * MIB
    driver.close()


def test_C124_the_balloon_goes_along(virtio: Virtio) -> None:
    balloons = [Balloon(2 * MIB), Balloon()]
    source, target = map(virtio.attach, balloons)
    driver = source.drive(BalloonDriver)
    driver.inflate(pages_of(filled(driver, MIB), MIB))
    for queue in range(5):
        driver.stop_queue(queue)
    target.load_state(source.save_state())
    target.drive(BalloonDriver, start=[4, 0, 0, 0, 0])
    assert (balloons[1].target, balloons[1].actual) == (2 * MIB, MIB)


@pytest.mark.parametrize("state", [None, [], 1, ["2"], [1, 2], [True]])
def test_C125_a_state_that_is_none_is_refused(state: object) -> None:
    balloon = Balloon()
    with pytest.raises(ValueError, match="the state of a balloon"):
        balloon.load_state(state, 1)
    balloon.close()


def test_its_report_is_plain_data(drive: Drive) -> None:
    balloon = Balloon(MIB)
    driver = drive(balloon)
    driver.follow()
    commands = {name: function for name, function, _ in balloon.control_commands()}
    assert commands["balloon"]() == {"target": MIB, "actual": MIB, "given_back": MIB, "stats": {}}
    assert commands["set-target"](size=0) == {"target": 0}
    with pytest.raises(ValueError, match="whole pages"):
        commands["set-target"](size=1)
    assert driver.follow() == 0


def test_nothing_is_logged_of_an_ordinary_life(drive: Drive, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "vhost_user.devices")
    driver = drive(Balloon(MIB))
    driver.follow()
    driver.report([(filled(driver, 4 * MIB), 4 * MIB)])
    assert driver.number(REPORTING_QUEUE) == REPORTING_QUEUE
    assert [record for record in caplog.records if record.name.startswith("vhost_user.devices")] == []
