"""The in-flight area as it is written, and found by the next device: C106 to C117."""

from __future__ import annotations

import random

import pytest

from tests.support.tracked_ring import SIZE, MakeTracked, in_flight, states
from vhost_user.engine.device.batch import Batch
from vhost_user.engine.device.request import Request
from vhost_user.engine.errors import RingStateError


def test_C108_a_zeroed_area_is_made_ready(make_tracked: MakeTracked, packed: bool) -> None:
    ring = make_tracked()
    header, entries = states(ring)
    if packed:
        assert header == (0, 1, SIZE, 0, 0, 0, 0, 1, 1)
        assert [entry[1] for entry in entries] == list(range(1, SIZE + 1))
    else:
        assert header == (0, 1, SIZE, 0, 0)
    assert in_flight(ring) == []
    assert ring.vring.recovery.tracked
    assert ring.vring.recovery.problem is None


def test_C109_C112_what_is_taken_is_recorded_with_its_order(make_tracked: MakeTracked, packed: bool) -> None:
    ring = make_tracked()
    ring.add(3, descriptors=3)
    taken = ring.take()
    _, entries = states(ring)
    marked = [entries[index] for index in in_flight(ring)]
    assert [entry[4 if packed else 2] for entry in marked] == [0, 1, 2]
    if packed:
        assert [entry[3] for entry in marked] == [3, 3, 3]
        assert [entry[5] for entry in marked] == [request.head for request in taken]
        first, last = marked[0], entries[marked[0][2]]
        assert isinstance(ring.queue.size, int)
        assert (first[8], first[7]) == taken[0].segments()[0][:2]
        assert (last[8], last[7]) == taken[0].segments()[-1][:2]
    else:
        assert in_flight(ring) == sorted(request.head for request in taken)
    ring.complete(taken[1:2])
    assert len(in_flight(ring)) == 2
    ring.complete([taken[2], taken[0]])
    assert in_flight(ring) == []
    header, _ = states(ring)
    if packed:
        assert header[5:] == (9, 9, 1, 1)
        assert header[3] == header[4]
    else:
        assert header[4] == 3


def test_C110_C113_C117_they_are_taken_again_first_in_order_and_without_a_kick(
    make_tracked: MakeTracked,
) -> None:
    ring = make_tracked()
    ring.add(4)
    taken = ring.take()
    ring.complete([taken[1]])
    ring.kill()
    later = ring.add(1)
    ring.serve()
    assert ring.vring.recovery.recovering == 3
    again = ring.take()
    assert [ring.number_of(request) for request in again] == [0, 2, 3, *later]
    assert [request.recovered for request in again] == [True, True, True, False]
    assert ring.vring.recovery.recovering == 0
    ring.complete(again)
    assert ring.poll() == [1, 0, 2, 3, *later]


def test_C111_the_base_of_the_front_end_does_not_matter(make_tracked: MakeTracked, packed: bool) -> None:
    ring = make_tracked()
    ring.add(5)
    ring.complete(ring.take(3))
    ring.kill()
    ring.base = 0x8007_8007 if packed else 4711
    ring.serve()
    ring.prove(random.Random(1))


def test_C116_a_reset_leaves_nothing_to_take_again(make_tracked: MakeTracked) -> None:
    ring = make_tracked()
    ring.add(3)
    kept = ring.take()
    ring.vring.abandon()
    ring.vring.recovery.forget()
    assert in_flight(ring) == []
    del kept


def test_C116_what_ends_after_a_reset_gives_no_entries_back(make_tracked: MakeTracked) -> None:
    """The area began anew while they were in flight: theirs may be another request's by then."""
    ring = make_tracked()
    ring.add(3)
    kept = ring.take()
    ring.vring.recovery.forget()
    assert ring.vring.in_flight == 0
    assert ring.vring.drain(0)
    before = states(ring)
    for request in kept:
        assert not request.alive
        request.complete()
    ring.vring.stop()
    assert states(ring) == before
    assert ring.poll() == []


def test_a_recovered_request_that_is_put_back_comes_again(make_tracked: MakeTracked) -> None:
    ring = make_tracked()
    ring.add(3)
    kept = ring.take()
    ring.kill()
    ring.serve()
    first, second = ring.take(2)
    ring.vring.put_back(second)
    ring.vring.put_back(first)
    assert ring.vring.recovery.recovering == 3
    del kept, first, second
    ring.prove(random.Random(2))


def test_C060_recovered_requests_that_are_held_go_back_as_never_taken(make_tracked: MakeTracked) -> None:
    """A stop gives them back: the next start, with an area or without, finds them where the base says."""
    ring = make_tracked()
    ring.add(3)
    kept = ring.take()
    ring.kill()
    ring.serve()
    again = ring.take()
    ring.vring.stop()
    assert ring.vring.give_back() == (3, 0)
    assert in_flight(ring) == []
    ring.base = ring.vring.base()
    ring.vring.recovery.set_inflight(None)
    ring.vring.set_base(ring.base)
    ring.vring.start()
    assert not ring.vring.recovery.tracked
    del kept, again
    ring.prove(random.Random(3))


def test_C055_what_is_abandoned_stays_in_the_area(make_tracked: MakeTracked) -> None:
    ring = make_tracked()
    ring.add(3)
    kept = ring.take()
    ring.vring.stop()
    ring.vring.abandon()
    assert len(in_flight(ring)) == 3
    for request in kept:
        request.complete()
    assert ring.poll() == []
    ring.vring.start()
    assert ring.vring.recovery.recovering == 3
    ring.prove(random.Random(4))


def test_C107_the_area_comes_before_the_start(make_tracked: MakeTracked) -> None:
    ring = make_tracked()
    with pytest.raises(RingStateError, match="while the ring is started") as caught:
        ring.vring.recovery.set_inflight(None)
    assert caught.value.rule == "C107"


# ---------------------------------------------------------------------- requests that must not be repeated


@pytest.mark.parametrize("batches", [False, True])
def test_interrupted_requests_are_asked_about_before_anything_else(
    make_tracked: MakeTracked, batches: bool
) -> None:
    ring = make_tracked()
    ring.add(4)
    kept = ring.take()
    ring.kill()
    ring.serve()
    ring.add(2)
    asked: list[int] = []
    handled: list[int] = []

    def interrupted(request: Request) -> bool:
        asked.append(ring.number_of(request))
        assert handled == [number for number in asked[:-1] if number % 2]
        if asked[-1] % 2:
            return True
        ring.complete([request])
        return False

    def handle(request: Request) -> None:
        handled.append(ring.number_of(request))
        ring.answer(request)

    def handle_batch(batch: Batch) -> None:
        for request in batch:
            handle(request)

    ring.vring.recovery.set_interrupted(interrupted)
    if batches:
        ring.vring.process_batch(handle_batch)
    else:
        ring.vring.process(handle)
    assert asked == [0, 1, 2, 3]
    assert handled == [1, 3, 4, 5]
    assert sorted(ring.poll()) == [0, 1, 2, 3, 4, 5]
    del kept


def test_what_interrupted_raises_fails_that_request_alone(make_tracked: MakeTracked) -> None:
    ring = make_tracked()
    ring.add(2)
    kept = ring.take()
    ring.kill()
    ring.serve()
    failed: list[int] = []

    def interrupted(request: Request) -> bool:
        raise RuntimeError(f"{ring.number_of(request)}")

    def on_error(request: Request, error: BaseException) -> None:
        failed.append(int(str(error)))
        ring.complete([request])

    ring.vring.recovery.set_interrupted(interrupted)
    ring.vring.process(ring.answer, on_error)
    assert failed == [0, 1]
    assert ring.poll() == [0, 1]
    del kept
