"""Live migration there and back, now and then cancelled.

In every third round both begin with one that is cancelled half-way, every fifth begins with one that is
cancelled at the switchover.
"""

from __future__ import annotations

import time
from functools import partial

from tests.soak.course import Course, Run
from tests.support.travelling_guest import TravellingGuest, traces


def migrate(course: Course, *, packed: bool = False, options: tuple[str, ...] = ()) -> str:
    """A guest, and two back-ends on one image."""
    with TravellingGuest(course.folder, packed=packed, options=options) as travel:
        first = None
        for number in course.rounds():
            time.sleep(course.chance.random() / 5)
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
        f"{travel.migrations} migrations, the longest {travel.longest:.1f} s; {counts.writes} writes, "
        f"{counts.reads} reads, {counts.comparisons} blocks compared"
    )


RUNS: dict[str, Run] = {
    "split": migrate,
    "packed": partial(migrate, packed=True),
    "split from Python": partial(migrate, options=("--no-fast-path",)),
    "packed from Python": partial(migrate, packed=True, options=("--no-fast-path",)),
    "split, direct": partial(migrate, options=("--direct", "--block-size=4096")),
}
