"""What a guest tells a balloon: statistics, free pages, and the queues for it."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.ballooning import MIB, Drive, filled, pages_of, resident, wait
from tests.support.front_end import until
from vhost_user.device_types import find
from vhost_user.devices import Balloon, Statistics
from vhost_user.frontend import BalloonDriver, PeerTimeout
from vhost_user.spec.balloon import (
    DEFLATE_QUEUE,
    INFLATE_QUEUE,
    BalloonFeature,
    BalloonStat,
    HintCommand,
)
from vhost_user.testing.virtio import Virtio

ALL = sum(BalloonFeature)
STATS, POISON = BalloonFeature.STATS_VQ, BalloonFeature.PAGE_POISON
HINT, REPORTING = BalloonFeature.FREE_PAGE_HINT, BalloonFeature.PAGE_REPORTING


# Statistics


def test_statistics_have_names_and_are_a_table(drive_balloon: Drive) -> None:
    balloon = Balloon()
    driver = drive_balloon(balloon)
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


def test_new_statistics_are_made_when_somebody_asks(drive_balloon: Drive) -> None:
    balloon = Balloon()
    driver = drive_balloon(balloon)

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


def test_statistics_are_asked_for_again_and_again(drive_balloon: Drive) -> None:
    came: list[int] = []

    class Watching(Balloon):
        def measured(self, stats: Statistics) -> None:
            came.append(stats["memfree"])

    driver = drive_balloon(Watching(stats_interval=0.01))
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


def test_reported_pages_go_back_to_the_host(drive_balloon: Drive) -> None:
    balloon = Balloon()
    driver = drive_balloon(balloon)
    address = filled(driver, 16 * MIB)
    driver.report([(address + 4 * MIB * number, 2 * MIB) for number in range(4)])
    assert balloon.given_back == resident(driver, address, 16 * MIB) == 8 * MIB
    assert balloon.actual == 0
    assert driver.memory.read(address + 2 * MIB, 2 * MIB) == b"\xaa" * (2 * MIB)
    driver.memory.fill(address, MIB, 0xBB)
    assert driver.memory.read(address, MIB) == b"\xbb" * MIB


@pytest.mark.parametrize(("poison", "given"), [(0, 4 * MIB), (0xAAAAAAAA, 0)])
def test_free_pages_keep_the_value_that_the_driver_fills_them_with(
    drive_balloon: Drive, poison: int, given: int
) -> None:
    balloon = Balloon()
    driver = drive_balloon(balloon, features=ALL, poison=poison)
    address = filled(driver, 8 * MIB)
    driver.report([(address, 4 * MIB)])
    assert balloon.given_back == given
    assert driver.memory.read(address, 1) == (b"\0" if given else b"\xaa")
    # What is in the balloon is filled anew when it comes out of it.
    driver.inflate(pages_of(address + 4 * MIB, 4 * MIB))
    assert balloon.given_back == given + 4 * MIB


def test_hints_are_told_and_nothing_is_given_back(drive_balloon: Drive) -> None:
    balloon = Balloon()
    driver = drive_balloon(balloon)
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


def test_hints_of_another_round_are_ignored(drive_balloon: Drive) -> None:
    balloon = Balloon()
    driver = drive_balloon(balloon)
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
    drive_balloon: Drive, taken: int, without_gaps: bool
) -> None:
    stats, hints, reports = (bool(taken >> bit & 1) for bit in range(3))
    features = (
        BalloonFeature.STATS_VQ * stats
        | BalloonFeature.FREE_PAGE_HINT * hints
        | BalloonFeature.PAGE_REPORTING * reports
    )
    count = 2 + stats + hints + reports if without_gaps else 5
    balloon = Balloon()
    driver = drive_balloon(balloon, features=features, without_gaps=without_gaps, num_queues=count)
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
