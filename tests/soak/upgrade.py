"""Upgrades of a back-end under a guest that writes, with other code each time.

Every tenth time a successor that cannot start comes before it, every tenth time one that is killed while it
loads.
"""

from __future__ import annotations

import statistics
import time
from functools import partial

from tests.soak.course import Course, Run
from tests.support.upgraded_disk import UpgradedDisk


def upgrade(course: Course, *, packed: bool, fast_path: bool) -> str:
    """A disk of a guest; what was seen, and how long its rings rested."""
    failures = 0
    with UpgradedDisk(course.folder, packed=packed, fast_path=fast_path) as disk:
        for number in course.rounds():
            time.sleep(course.chance.random() / 5)
            if number % 10 == 4:
                disk.write(0, "this is not Python")
                disk.ask()
                failures += 1
                disk.wait_for("no upgrade, everything goes on as it was", failures)
            if number % 10 == 9:
                disk.write(0)
                disk.kill_at("taken")
                failures += 1
                disk.wait_for("no upgrade, everything goes on as it was", failures)
            disk.next_version()
            assert len(disk.pids()) <= 3, "processes are left over"
        counts = disk.finish()
        pauses = sorted(disk.pauses())
    return (
        f"{len(pauses)} upgrades and {failures} that came to nothing; the rings rested for "
        f"{statistics.median(pauses):.1f} ms (median), "
        f"{pauses[int(0.99 * (len(pauses) - 1))]:.1f} ms (p99), "
        f"{pauses[-1]:.1f} ms at most; {counts.writes} writes, {counts.comparisons} blocks compared"
    )


RUNS: dict[str, Run] = {
    "split": partial(upgrade, packed=False, fast_path=True),
    "packed": partial(upgrade, packed=True, fast_path=True),
    "split from Python": partial(upgrade, packed=False, fast_path=False),
    "packed from Python": partial(upgrade, packed=True, fast_path=False),
}
