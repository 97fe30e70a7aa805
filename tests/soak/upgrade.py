"""Upgrades of a back-end under a guest that writes, again and again, with other code each time.

    .venv/bin/python -m tests.soak.upgrade --rounds 100

Every tenth time a successor that cannot start comes before it, every tenth time one that is killed while it
loads. Split and packed rings and both data paths of the disk have a run of their own. Ends with status 0 if
no byte was lost, and says what it did and how long the rings rested.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path

from tests.support.upgraded_disk import UpgradedDisk

ROOT = Path(__file__).parents[2]
RUNS: dict[str, tuple[bool, bool]] = {
    "split": (False, True),
    "packed": (True, True),
    "split from Python": (False, False),
    "packed from Python": (True, False),
}


def upgrade(folder: Path, rounds: int, *, packed: bool = False, fast_path: bool = True) -> str:
    """So many upgrades; what was seen, in a line. AssertionError for whatever was lost."""
    failures = 0
    with UpgradedDisk(folder, packed=packed, fast_path=fast_path) as disk:
        for number in range(1, rounds + 1):
            if number % 10 == 5:
                disk.write(0, "this is not Python")
                disk.ask()
                failures += 1
                disk.wait_for("no upgrade, everything goes on as it was", failures)
            if number % 10 == 0:
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


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="tests.soak.upgrade", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=100, help="upgrades in each run")
    parser.add_argument("--only", choices=RUNS, action="append", help="only these runs")
    arguments = parser.parse_args()
    os.environ.setdefault("VHOST_USER_CACHE", str(ROOT / ".cache"))
    for name, (packed, fast_path) in RUNS.items():
        if arguments.only is None or name in arguments.only:
            with tempfile.TemporaryDirectory(prefix="upgrade-") as folder:
                said = upgrade(Path(folder), arguments.rounds, packed=packed, fast_path=fast_path)
            print(f"{name}: {said}", flush=True)


if __name__ == "__main__":
    main()
