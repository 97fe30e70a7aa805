"""The balloon, driven in this process: H36, C054, C075, C124, C125, C129, C130, C134."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tests.support.ballooning import MIB, Drive, blocks, filled, pages_of, resident, wait
from tests.support.front_end import until
from vhost_user.devices import Balloon, Statistics, balloon_pages
from vhost_user.devices.balloon_pages import runs
from vhost_user.frontend import BalloonDriver
from vhost_user.spec.balloon import (
    INFLATE_QUEUE,
    PAGE_SIZE,
    REPORTING_QUEUE,
    BalloonConfig,
    BalloonFeature,
    BalloonStat,
    pack_page_numbers,
)
from vhost_user.testing.virtio import Virtio

ALL = sum(BalloonFeature)


# Inflate and deflate


def test_memory_in_the_balloon_goes_back_to_the_host(drive_balloon: Drive) -> None:
    balloon = Balloon()
    driver = drive_balloon(balloon)
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


def test_the_driver_hears_of_a_target_and_whoever_waits_of_the_balloon(drive_balloon: Drive) -> None:
    balloon = Balloon(MIB)
    driver = drive_balloon(balloon)
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


def test_pages_in_any_order_and_twice(drive_balloon: Drive) -> None:
    driver = drive_balloon(Balloon())
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
    drive_balloon: Drive, caplog: pytest.LogCaptureFixture
) -> None:
    driver = drive_balloon(Balloon())
    address = filled(driver, 4 * MIB)
    driver.queues[INFLATE_QUEUE].request(
        pack_page_numbers([address // PAGE_SIZE, 0xFFFF_FFFF, 5, address // PAGE_SIZE + 9])
    )
    assert 4 * MIB - resident(driver, address, 4 * MIB) == 2 * PAGE_SIZE
    assert "gives away memory that it does not have" in caplog.text
    assert "0xffffffff000" in caplog.text


def test_a_request_that_names_too_many_pages_is_served_in_part(
    drive_balloon: Drive, caplog: pytest.LogCaptureFixture
) -> None:
    driver = drive_balloon(Balloon(), memory_size=128 * MIB)
    address = filled(driver, MIB)
    number = address // PAGE_SIZE
    driver.queues[INFLATE_QUEUE].request(pack_page_numbers([number] * (1 << 16) + [number + 1]))
    assert driver.memory.read(address, 1) == b"\0"
    assert driver.memory.read(address + PAGE_SIZE, 1) == b"\xaa"
    assert "the others are left alone" in caplog.text


def test_what_has_no_holes_is_said_once_and_the_balloon_goes_on(
    drive_balloon: Drive, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> int:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(balloon_pages, "give_back", fail)
    balloon = Balloon(2 * MIB)
    driver = drive_balloon(balloon)
    assert driver.follow() == 512
    wait(balloon.reached())
    assert balloon.given_back == 0
    assert caplog.text.count("cannot be given back to the host: Operation not supported") == 1


def test_pages_smaller_than_those_of_the_host_are_said_once(
    drive_balloon: Drive, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(balloon_pages, "give_back", lambda *_arguments: 0)
    driver = drive_balloon(Balloon(2 * MIB))
    driver.follow()
    assert caplog.text.count("only a part of a page of the host") == 1


# The configuration space


def test_C129_the_driver_writes_the_whole_space_with_an_old_target(drive_balloon: Drive) -> None:
    balloon = Balloon(MIB)
    driver = drive_balloon(balloon, features=ALL)
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


def test_C054_C050_a_pause_changes_nothing(drive_balloon: Drive) -> None:
    balloon = Balloon(MIB)
    driver = drive_balloon(balloon)
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


def test_its_report_is_plain_data(drive_balloon: Drive) -> None:
    balloon = Balloon(MIB)
    driver = drive_balloon(balloon)
    driver.follow()
    commands = {name: function for name, function, _ in balloon.control_commands()}
    assert commands["balloon"]() == {"target": MIB, "actual": MIB, "given_back": MIB, "stats": {}}
    assert commands["set-target"](size=0) == {"target": 0}
    with pytest.raises(ValueError, match="whole pages"):
        commands["set-target"](size=1)
    assert driver.follow() == 0


def test_an_ordinary_life_is_not_logged(drive_balloon: Drive, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "vhost_user.devices")
    driver = drive_balloon(Balloon(MIB))
    driver.follow()
    driver.report([(filled(driver, 4 * MIB), 4 * MIB)])
    assert driver.number(REPORTING_QUEUE) == REPORTING_QUEUE
    assert [record for record in caplog.records if record.name.startswith("vhost_user.devices")] == []
