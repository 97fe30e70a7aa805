"""A back-end is upgraded while a real guest writes: QEMU notices nothing, and no byte is lost."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support.upgraded_disk import UpgradedDisk

pytestmark = [pytest.mark.guest, pytest.mark.timeout(400)]


@pytest.mark.parametrize(
    ("packed", "fast_path"), [(False, True), (True, False)], ids=["split", "packed from Python"]
)
def test_a_guest_writes_on_while_the_back_end_is_upgraded(
    tmp_path: Path, packed: bool, fast_path: bool
) -> None:
    with UpgradedDisk(tmp_path, packed=packed, fast_path=fast_path) as disk:
        for _ in range(4):
            disk.next_version()
        assert disk.guest.run("dmesg | grep -ci 'i/o error' || true").strip() == "0"
        counts = disk.finish()
        assert counts.comparisons
        assert len(disk.pauses()) == 4
        assert "no upgrade" not in disk.said


def test_a_guest_writes_on_after_upgrades_that_came_to_nothing(tmp_path: Path) -> None:
    with UpgradedDisk(tmp_path) as disk:
        disk.write(0, "this is not Python")
        disk.ask()
        disk.wait_for("no upgrade, everything goes on as it was")
        disk.load.progress(5)
        for times, step in enumerate(("arrived", "taken", "loaded"), 2):
            disk.write(9)
            disk.kill_at(step)
            disk.wait_for("no upgrade, everything goes on as it was", times)
            disk.load.progress(5)
        disk.next_version()
        disk.finish()


def test_a_guest_writes_on_when_the_predecessor_dies_with_its_work_done(tmp_path: Path) -> None:
    with UpgradedDisk(tmp_path) as disk:
        disk.write(2)
        killed = disk.kill_at("given")
        assert killed == disk.process.pid
        disk.wait_for("goes on in place of")
        disk.load.progress(5)
        assert disk.guest.run("cat /sys/block/vda/serial").strip() == "version 2"
        disk.finish()
        os.kill(disk.pids()[-1], signal.SIGTERM)
