"""Live migration, again and again: there and back, now and then cancelled, under verified load.

    .venv/bin/python -m tests.soak.migrate --rounds 20

Each round is a migration there and one back; in every third both begin with one that is cancelled half-way,
every fifth begins with one that is cancelled at the switchover. Split and packed
rings and each data path of the disk have a run of their own. Ends with status 0 if no byte was lost, and says
what it did.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from tests.support.travelling_guest import TravellingGuest, traces

ROOT = Path(__file__).parents[2]
RUNS: dict[str, tuple[bool, tuple[str, ...]]] = {
    "split": (False, ()),
    "packed": (True, ()),
    "split from Python": (False, ("--no-fast-path",)),
    "packed from Python": (True, ("--no-fast-path",)),
    "split, direct": (False, ("--direct", "--block-size=4096")),
}


def migrate(folder: Path, rounds: int, *, packed: bool = False, options: tuple[str, ...] = ()) -> str:
    """So many rounds; what was seen, in a line. AssertionError for whatever was lost."""
    began = time.monotonic()
    with TravellingGuest(folder, packed=packed, options=options) as travel:
        first = None
        for number in range(rounds):
            if number % 5 == 4:
                travel.cancel_at_switchover()
            for _ in range(2):
                if number % 3 == 2:
                    travel.cancel_and_move()
                else:
                    travel.move()
            seen = traces(travel.source.pid)
            first = first or seen
            assert seen == first, f"open files and shared mappings were {first}, are {seen}: something leaks"
        counts = travel.finish()
        return (
            f"{travel.migrations} migrations in {time.monotonic() - began:.0f} s, "
            f"the longest {travel.longest:.1f} s; {counts.writes} writes, "
            f"{counts.reads} reads, {counts.comparisons} blocks compared"
        )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="tests.soak.migrate", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20, help="migrations there and back in each run")
    parser.add_argument("--only", choices=sorted(RUNS), help="one run instead of all")
    arguments = parser.parse_args()
    os.environ.setdefault("VHOST_USER_CACHE", str(ROOT / ".cache"))
    for name, (packed, options) in RUNS.items():
        if arguments.only in {None, name}:
            with tempfile.TemporaryDirectory(prefix="soak-") as folder:
                print(
                    f"{name}: {migrate(Path(folder), arguments.rounds, packed=packed, options=options)}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
