"""A balloon in a real guest, by the generic device of a newer QEMU: Linux's driver, the host's blocks."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.front_end import until
from vhost_user.devices import Balloon
from vhost_user.spec.balloon import BalloonFeature
from vhost_user.testing.booting import BootGuest
from vhost_user.testing.guest import Guest, GuestCommandError

pytestmark = pytest.mark.guest

MIB = 1 << 20
PATIENCE = 60
Make = Callable[..., Balloon]


@pytest.fixture(params=[False, True], ids=["split", "packed"])
def made(request: pytest.FixtureRequest) -> Make:
    def make(*arguments: Any, **options: Any) -> Balloon:
        balloon = Balloon(*arguments, **options)
        balloon.packed = bool(request.param)  # QEMU's generic device hands on what the back-end offers
        return balloon

    return make


def resident(guest: Guest) -> int:
    """Bytes of the host that the guest's memory takes: the blocks of QEMU's memfd."""
    files = Path(f"/proc/{guest.pid}/fd").iterdir()
    sizes = [file.stat().st_blocks * 512 for file in files if "memfd:" in str(file.readlink())]
    return max(sizes)


def wait(coroutine: Awaitable[Any]) -> Any:
    async def bounded() -> Any:
        return await asyncio.wait_for(coroutine, PATIENCE)

    return asyncio.run(bounded())


def meminfo(guest: Guest, name: str) -> int:
    found = re.search(rf"{name}: *(\d+) kB", guest.run("cat /proc/meminfo"))
    assert found is not None
    return int(found[1]) << 10


def fill(guest: Guest, size: int) -> None:
    """Use so much of the guest's memory."""
    count = size // MIB
    guest.run(f"mount -t tmpfs -o size=90% none /mnt; dd if=/dev/zero of=/mnt/x bs=1M count={count}")


def use(guest: Guest, size: int) -> None:
    """Use so much of the guest's memory, and let go of it."""
    fill(guest, size)
    guest.run("umount /mnt")


def test_memory_comes_back_and_goes_again(virtio_guest: BootGuest, made: Make) -> None:
    balloon = made(reporting=False)
    guest = virtio_guest(balloon)
    use(guest, 160 * MIB)
    total, before = meminfo(guest, "MemTotal"), resident(guest)
    balloon.target = 128 * MIB
    wait(balloon.reached())
    assert balloon.actual == 128 * MIB
    assert balloon.given_back >= 128 * MIB  # more, where Linux moved a page of it
    assert meminfo(guest, "MemTotal") == total - 128 * MIB
    # Some of these pages had not been used before, but no more than there were.
    assert before - resident(guest) > 64 * MIB
    # A paused VM keeps its balloon, and does what it was told meanwhile.
    guest.qmp("stop")
    balloon.target = 64 * MIB
    assert balloon.actual == 128 * MIB
    guest.qmp("cont")
    wait(balloon.reached())
    assert balloon.actual == 64 * MIB
    use(guest, 120 * MIB)
    # A guest that boots again has none at first, and is told again.
    guest.reboot()
    wait(balloon.reached())
    until(
        lambda: meminfo(guest, "MemTotal") == total - 64 * MIB, "the balloon is as large as before", PATIENCE
    )
    balloon.target = 0
    wait(balloon.reached())
    assert meminfo(guest, "MemTotal") == total


def test_free_pages_come_back_by_themselves(virtio_guest: BootGuest, made: Make) -> None:
    balloon = made()
    guest = virtio_guest(balloon)
    use(guest, 160 * MIB)
    until(lambda: balloon.given_back > 100 * MIB, "the guest reports its free pages", PATIENCE)
    until(lambda: resident(guest) < 160 * MIB, "they are the host's", PATIENCE)
    use(guest, 160 * MIB)
    # Pages are named, and stay.
    pages = wait(balloon.free_pages())
    assert sum(size for _, size in pages) > 64 * MIB
    until(lambda: meminfo(guest, "MemFree") > 64 * MIB, "the guest has its free pages again", PATIENCE)


def test_statistics_are_the_guests_own(virtio_guest: BootGuest, made: Make) -> None:
    balloon = made(stats_interval=0.2)
    guest = virtio_guest(balloon)
    until(lambda: balloon.stats, "statistics come", PATIENCE)
    assert balloon.stats["memtot"] == meminfo(guest, "MemTotal")
    before = balloon.stats["minflt"]
    guest.run("true; true; true")
    until(lambda: balloon.stats["minflt"] > before, "they are new", PATIENCE)
    free = wait(balloon.measure())["memfree"]
    fill(guest, 64 * MIB)
    assert wait(balloon.measure())["memfree"] < free - 48 * MIB
    for name in ("swap_in", "majflt", "avail", "caches", "htlb_pgalloc"):
        assert name in balloon.stats


def test_a_guest_in_need_takes_pages_out_of_the_balloon(virtio_guest: BootGuest, made: Make) -> None:
    need = f"dd if=/dev/zero of=/dev/null bs={140 * MIB} count=1"
    for helps in (True, False):
        balloon = made(deflate_on_oom=helps, reporting=False)
        guest = virtio_guest(balloon)
        balloon.target = 128 * MIB
        wait(balloon.reached())
        if helps:
            guest.run(need)
            assert balloon.actual < 128 * MIB
        else:
            with pytest.raises(GuestCommandError):
                guest.run(need)
            assert balloon.actual == 128 * MIB
        guest.close()


def test_a_guest_that_fills_its_free_pages_with_zeroes_reports_them(virtio_guest: BootGuest) -> None:
    """Other values take a kernel with CONFIG_PAGE_POISONING, which Debian's is not."""
    balloon = Balloon()
    guest = virtio_guest(balloon, kernel_arguments="init_on_free=1")
    assert balloon.driver_features & BalloonFeature.PAGE_POISON
    use(guest, 160 * MIB)
    until(lambda: balloon.given_back > 100 * MIB, "the guest reports its free pages", PATIENCE)
