"""SIGKILL at random moments, and a new process each time."""

from __future__ import annotations

from functools import partial

from tests.soak.course import WITHOUT_GUEST, Course, Run
from tests.support.killed_disk import KINDS, KilledDisk
from tests.support.killed_store import kill_and_reconnect


def disk(course: Course, *, kind: str, packed: bool) -> str:
    """A disk of a guest."""
    with KilledDisk(course.folder, kind, packed=packed) as killed:
        for _ in course.rounds():
            killed.kill(course.chance)
        written = killed.finish()
    return f"{course.done} kills, {killed.recovered} times with requests in flight; {written} blocks written"


def store(course: Course, *, packed: bool) -> str:
    """A store that answers out of order, and a driver in this process."""
    answered = kill_and_reconnect(course.folder, course.rounds(), course.chance, packed=packed)
    return f"{course.done} kills, {answered} requests, each answered once"


LAYOUTS = {"split": False, "packed": True}
RUNS: dict[str, Run] = {
    f"{kind}, {layout}": partial(disk, kind=kind, packed=packed)
    for kind in KINDS
    for layout, packed in LAYOUTS.items()
}
RUNS |= {f"{WITHOUT_GUEST}, {layout}": partial(store, packed=packed) for layout, packed in LAYOUTS.items()}
