"""Front-ends that announce post-copy and never bring a page, or do other things with what they are given."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.conftest import PROGRAM
from tests.support.children import children
from tests.support.front_end import until
from vhost_user.frontend import Frontend, VirtioDriver
from vhost_user.frontend.postcopy import PAGE, PostCopy
from vhost_user.testing.guest_backend import BackendProcess

VICTIMS = ["rng", "blk", "blk-python", f"{Path(__file__).with_name('victims.py')}:Filler"]
MEGABYTE = 1 << 20


@contextmanager
def driver_of(socket: Path, **options: Any) -> Iterator[tuple[VirtioDriver, PostCopy]]:
    pages = PostCopy()
    driver = VirtioDriver(str(socket), postcopy=pages, queue_size=16, memory_size=16 * MEGABYTE, **options)
    try:
        yield driver, pages
    finally:
        driver.close()
        pages.close()


def lend(driver: VirtioDriver, pages: PostCopy) -> None:
    """A request, shaped for a disk, of which nothing is there."""
    memory, ring = driver.memory, driver.queues[0].ring
    header, data, status = (memory.allocate(size, PAGE) for size in (PAGE, MEGABYTE, PAGE))
    memory.write(header, bytes(16))
    ring.add([(header, 16)], [(data, MEGABYTE), (status, 1)])
    pages.withhold(header, 16)
    ring.publish()
    ring.kick()


def unserved(driver: VirtioDriver, pages: PostCopy, *, rings: bool) -> None:
    """Have the device wait for pages that do not come: those of its ring, or those of a request."""
    if rings:
        driver.negotiate()
        driver.make_queues()
        driver.acknowledge()
        driver.share_memory()
        pages.silent = True
        lend(driver, pages)
        ring = driver.queues[0].ring
        for page in {ring.descriptor_address // PAGE, ring.driver_address // PAGE}:
            pages.withhold(page * PAGE, PAGE)
        driver.start_queue(0)
        driver.enable_queue(0)
    else:
        driver.bring_up()
        asked = len(pages.asked)
        pages.silent = True
        lend(driver, pages)
        until(lambda: len(pages.asked) > asked, "the question")
    until(lambda: pages.asked, "the question")


@pytest.mark.parametrize("rings", [False, True], ids=["request", "ring"])
@pytest.mark.parametrize("victim", VICTIMS, ids=["rng", "blk", "blk-python", "filler"])
def test_C121_pages_that_never_come_hold_up_nobody(
    arena: Callable[..., Any], victim: str, rings: bool
) -> None:
    with arena(victim) as attack:
        with driver_of(attack.socket) as (driver, pages):
            unserved(driver, pages, rings=rings)
            for _ in range(20):
                driver.frontend.get_features()
            time.sleep(0.5)  # the bystander is watched meanwhile
            driver.frontend.close()
        until(lambda: not children(attack.pid), "the end of the pager")


@pytest.mark.parametrize("rings", [False, True], ids=["request", "ring"])
def test_C142_nor_SIGTERM(tmp_path: Path, rings: bool) -> None:
    victim, other = tmp_path / "victim", tmp_path / "other"
    with BackendProcess(
        [sys.executable, PROGRAM, "blk-python", victim, other],
        victim,
        tmp_path / "log",
        announcement="listening",
    ) as process:
        with driver_of(victim) as (driver, pages):
            unserved(driver, pages, rings=rings)
            pid = process.pid
            assert pid is not None
            (pager,) = children(pid)
            process.stop()  # raises if it does not end, or not with status 0
        until(lambda: not Path(f"/proc/{pager}").exists(), "the end of the pager")


def test_C118_nor_does_closing_the_userfaultfd(arena: Callable[..., Any]) -> None:
    with arena("blk") as attack:
        with driver_of(attack.socket) as (driver, pages):
            unserved(driver, pages, rings=False)
            pages.close()
            for _ in range(20):
                driver.frontend.get_features()
            driver.frontend.close()
        until(lambda: not children(attack.pid), "the end of the pager")


def test_C118_the_pager_dies_with_a_device_that_is_killed(tmp_path: Path) -> None:
    victim, other = tmp_path / "victim", tmp_path / "other"
    with (
        BackendProcess(
            [sys.executable, PROGRAM, "rng", victim, other],
            victim,
            tmp_path / "log",
            announcement="listening",
        ) as process,
        driver_of(victim) as (driver, pages),
    ):
        unserved(driver, pages, rings=False)
        pid = process.pid
        assert pid is not None
        (pager,) = children(pid)
        process.kill()
        until(lambda: not Path(f"/proc/{pager}").exists(), "the end of the pager")


def mapped(pid: int, address: int) -> bool:
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        first, last = (int(end, 16) for end in line.split()[0].split("-"))
        if first <= address < last:
            return "memfd" in line
    return False


def test_C118_what_the_front_end_gets_is_not_the_userfaultfd_of_the_device(
    arena: Callable[..., Any],
) -> None:
    with arena("blk") as attack, driver_of(attack.socket) as (driver, pages):
        driver.bring_up()
        (pager,) = children(attack.pid)
        assert mapped(pager, pages.bases[0])
        assert not mapped(attack.pid, pages.bases[0])


def test_C118_announced_again_and_again(arena: Callable[..., Any]) -> None:
    with arena("rng") as attack:
        front = Frontend.connect(str(attack.socket))
        front.get_features()
        front.set_protocol_features(front.get_protocol_features())
        for _ in range(10):
            os.close(front.postcopy_advise())
            assert len(children(attack.pid)) == 1
        front.close()
        until(lambda: not children(attack.pid), "the end of the pager")


def test_C119_tables_without_end(arena: Callable[..., Any]) -> None:
    """The pager has room for some thousands, and then the session ends; nobody else notices."""
    with arena("rng") as attack:
        with driver_of(attack.socket) as (driver, pages):
            driver.bring_up()
            for _ in range(500):
                pages.share(driver.memory.regions)
            driver.frontend.barrier()
            driver.frontend.close()
        until(lambda: not children(attack.pid), "the end of the pager")
