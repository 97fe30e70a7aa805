"""Killed after any store of the algorithm, nothing is lost or answered twice (C108 to C114, C139).

Each scenario is carried out once under the store recorder. Then, for each picture, the same past is made
again, the picture put in its place, and another device takes over. The driver stands by: it takes what it
sees, before the new one comes or after.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.support.store_recorder import WORKS
from tests.support.tracked_ring import TrackedRing
from vhost_user.engine.device.batch import Batch
from vhost_user.engine.device.request import Request

pytestmark = pytest.mark.skipif(not WORKS, reason="the store recorder is for x86-64")

Step = Callable[[TrackedRing], object]


def nothing(_ring: TrackedRing) -> None:
    """No past."""


def out_of_order(ring: TrackedRing) -> None:
    taken = ring.take()
    for index in (2, 0, 3, 1):
        ring.complete(taken[index : index + 1])


def take_and_keep(ring: TrackedRing) -> None:
    ring.kept += ring.take()


def one_by_one(ring: TrackedRing) -> None:
    while taken := ring.take(1):
        ring.complete(taken)


def in_batches(ring: TrackedRing) -> None:
    ring.vring.process(ring.answer)


def batch_handler(ring: TrackedRing) -> None:
    def handle(batch: Batch) -> None:
        for request in batch:
            ring.answer(request)

    ring.vring.process_batch(handle, size=3)


def held_and_completed_by_later_ones(ring: TrackedRing) -> None:
    """Given back inside of a batch, so that it is published with it, and out of order."""
    held: list[Request] = []

    def handle(request: Request) -> None:
        ring.answer(request)
        request.hold()
        held.append(request)
        if len(held) == 2:
            held.pop().complete()

    ring.vring.process(handle)
    held.pop().complete()


def quietly(ring: TrackedRing) -> None:
    taken = ring.take()
    for request in reversed(taken):
        ring.answer(request)
        ring.vring.add_used(request)
    ring.vring.signal_used_queue()


def put_back_and_take_again(ring: TrackedRing) -> None:
    taken = ring.take(3)
    ring.vring.put_back(taken.pop())
    ring.vring.put_back(taken.pop())
    ring.complete(taken)
    ring.complete(ring.take())


def stopped_with_some_held(ring: TrackedRing) -> None:
    """Two are completed, the rest goes back as never taken; the ring starts again."""
    ring.complete(ring.kept)
    taken = ring.take()
    ring.complete(taken[:2])
    ring.vring.stop()
    ring.vring.give_back()
    ring.vring.set_base(ring.vring.base())
    ring.vring.start()
    ring.complete(ring.take())


def memory_goes_and_comes(ring: TrackedRing) -> None:
    """Completed while the ring's memory is away (C044)."""
    taken = ring.take()
    ring.complete(taken[:1])
    for request in taken[1:]:
        ring.answer(request)
    ring.vring.set_memory(None)
    for request in reversed(taken[1:]):
        request.complete()
    ring.vring.set_memory(ring.guest)


def some_rounds(ring: TrackedRing) -> None:
    """A past that leaves the indices somewhere in the middle, and the free list in disorder."""
    chance = random.Random(5)
    for _ in range(3):
        ring.add(3)
        taken = ring.take()
        chance.shuffle(taken)
        ring.complete(taken)
        ring.poll()


def two_in_flight(ring: TrackedRing) -> None:
    """Older requests stay in flight, and one between them and the newest was completed."""
    ring.add(3)
    ring.kept = ring.take()
    ring.complete([ring.kept.pop(1)])
    ring.poll()


def rounds_then_two_in_flight(ring: TrackedRing) -> None:
    some_rounds(ring)
    two_in_flight(ring)


PASTS = [nothing, rounds_then_two_in_flight]
STEPS = [
    one_by_one,
    take_and_keep,
    out_of_order,
    in_batches,
    batch_handler,
    held_and_completed_by_later_ones,
    quietly,
    put_back_and_take_again,
    stopped_with_some_held,
    memory_goes_and_comes,
]


@contextmanager
def after(packed: bool, past: Step, **how: int) -> Iterator[TrackedRing]:
    """A ring with that past, and four more requests that nobody has taken."""
    ring = TrackedRing(packed, 23 if packed else 32)
    try:
        past(ring)
        ring.add(4, **how)  # type: ignore[arg-type]
        yield ring
    finally:
        ring.close()


def pictures_of(packed: bool, past: Step, step: Step, **how: int) -> list[bytes]:
    with after(packed, past, **how) as ring, ring.recorder() as recorder:
        step(ring)
    assert len(recorder.pictures) > 4
    return recorder.pictures


def killed_then(packed: bool, past: Step, picture: bytes, goes_on: Step, seed: int, **how: int) -> None:
    """What the driver sees when the process ended at that picture."""
    chance = random.Random(seed)
    with after(packed, past, **how) as ring:
        ring.kill()
        ring.put_back(picture)
        if chance.random() < 0.5:
            # The guest runs on while nobody serves it: it takes what came, and uses heads and places again.
            ring.poll()
            ring.add(chance.randrange(3))
        goes_on(ring)
        ring.prove(chance)


@pytest.mark.parametrize("shape", ["long chains", "indirect"])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("past", PASTS)
def test_C114_C139_exactly_once_whatever_store_was_the_last(
    packed: bool, past: Step, step: Step, shape: str
) -> None:
    how = {"descriptors": 3, "indirect": shape == "indirect"}
    pictures = pictures_of(packed, past, step, **how)
    for number, picture in enumerate(pictures):
        for seed in range(2):
            killed_then(packed, past, picture, TrackedRing.serve, 2 * number + seed, **how)


@pytest.mark.parametrize("step", [out_of_order, take_and_keep, in_batches])
def test_C114_C139_exactly_once_when_the_recovery_is_killed_as_well(packed: bool, step: Step) -> None:
    how = {"descriptors": 3}
    past = rounds_then_two_in_flight
    first = pictures_of(packed, past, step, **how)
    for number in range(0, len(first), 4):
        with after(packed, past, **how) as ring:
            ring.kill()
            ring.put_back(first[number])
            ring.serve(start=False)
            with ring.recorder() as recorder:
                ring.start()
                ring.complete(list(reversed(ring.take())))
        for again, picture in enumerate(recorder.pictures[::3]):
            killed_then(packed, past, picture, TrackedRing.serve, again, **how)
