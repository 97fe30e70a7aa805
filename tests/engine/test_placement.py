"""Where a worker runs: it looks for a driver that sleeps elsewhere, and stays near one that does not."""

from __future__ import annotations

import os
import threading

import pytest

from tests.engine.pair import MakePair
from tests.engine.serving import echo, round_trip, running
from tests.engine.soak import soak
from vhost_user.engine.device.worker import Worker

pytestmark = pytest.mark.alone
CPUS = len(os.sched_getaffinity(0))
POLL = 60_000_000
"""Microseconds: longer than a test, so that the worker polls whenever it has nothing to do."""
TURNS = 400


def until_it_polls(worker: Worker) -> None:
    """The worker is done with its turn and waits: what comes now is found by polling."""
    before = worker.statistics()["polls"]
    while worker.statistics()["polls"] == before:
        os.sched_yield()


def far_turns(make_pair: MakePair, *, poll: int = POLL, crowded: bool = True) -> tuple[int, set[int]]:
    """Turns with one call each, answered later; the moves, and the worker's CPUs at the end."""
    pair = make_pair(64, event_idx=True)
    threads: set[int] = set()

    def dispatch(_event: int, _events: int) -> None:
        threads.add(threading.get_native_id())
        pair.vring.process(echo)

    with running(pair, dispatch=dispatch, poll_microseconds=poll, crowded=crowded) as worker:
        for _ in range(TURNS):
            if poll:
                until_it_polls(worker)
            round_trip(pair)
        (thread,) = threads
        return worker.statistics()["moves"], os.sched_getaffinity(thread)


def test_a_worker_whose_driver_sleeps_elsewhere_moves(make_pair: MakePair) -> None:
    moves, cpus = far_turns(make_pair)
    assert (moves > 0) == (CPUS > 1)
    # It may still go wherever it might before.
    assert cpus == os.sched_getaffinity(0)


def test_it_moves_seldom_when_that_does_not_help(make_pair: MakePair) -> None:
    """After 64 turns at the earliest, and after a rest that is longer each time."""
    pair = make_pair(64, event_idx=True)
    with running(pair, poll_microseconds=POLL, crowded=True) as worker:
        for _ in range(TURNS):
            until_it_polls(worker)
            round_trip(pair)
        assert worker.statistics()["moves"] <= TURNS // 64


@pytest.mark.parametrize(("poll", "crowded"), [(POLL, False), (0, True)], ids=["own CPUs", "no polling"])
def test_otherwise_the_choice_of_the_scheduler_stands(make_pair: MakePair, poll: int, crowded: bool) -> None:
    moves, cpus = far_turns(make_pair, poll=poll, crowded=crowded)
    assert moves == 0
    assert cpus == os.sched_getaffinity(0)


def test_a_worker_bound_to_one_cpu_stays_there(make_pair: MakePair) -> None:
    pair = make_pair(64, event_idx=True)
    mine = min(os.sched_getaffinity(0))
    bound: list[int] = []

    def dispatch(_event: int, _events: int) -> None:
        if not bound:
            os.sched_setaffinity(0, {mine})
            bound.append(threading.get_native_id())
        pair.vring.process(echo)

    with running(pair, dispatch=dispatch, poll_microseconds=POLL, crowded=True) as worker:
        for _ in range(TURNS):
            until_it_polls(worker)
            round_trip(pair)
        assert worker.statistics()["moves"] == 0
        assert os.sched_getaffinity(bound[0]) == {mine}


@pytest.mark.parametrize("calls", [1, 5])
def test_a_driver_that_answers_within_the_turn_is_near(make_pair: MakePair, calls: int) -> None:
    """Served by hand, with so many calls a turn, as when the driver answers each of them at once."""
    pair = make_pair(64)

    def dispatch(_event: int, _events: int) -> None:
        pair.vring.process(echo, None, 0)  # from here on the worker polls this ring
        request = pair.vring.pop()
        left = calls if request else 0
        while left:
            # Without a GIL the worker may begin before the last of them is there. The turn has all of them.
            if request is not None:
                request.write(request.read())
                pair.vring.add_used(request, 4)
                pair.vring.signal_used_queue()
                left -= 1
            request = pair.vring.pop() if left else None

    with running(pair, dispatch=dispatch, poll_microseconds=POLL, crowded=True) as worker:
        for _ in range(TURNS):
            until_it_polls(worker)
            tokens = [pair.add([b"ping"], [4]) for _ in range(calls)]
            pair.queue.kick()
            for token in tokens:
                assert pair.queue.wait(20)
                assert pair.queue.poll() == (token, 4)
        moves = worker.statistics()["moves"]
    assert pair.vring.statistics()["calls"] >= 64 * calls
    assert (moves > 0) == (calls == 1 and CPUS > 1)


def test_one_placement_a_worker(make_pair: MakePair) -> None:
    pair = make_pair()
    worker = Worker([pair.vring], first_listener_id=1, poll_microseconds=20, crowded=True)
    assert worker.placement is not None
    assert worker.placement.moves == 0
    worker.close()


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_a_driver_on_the_same_cpu_is_called_once_a_batch(packed: bool) -> None:
    """It gets all 32 answers at a time, not eight and a switch of threads for each eight."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        counts = soak(packed, 100_000, event_idx=True, depth=32, poll_microseconds=20)
    finally:
        os.sched_setaffinity(0, before)
    assert counts["calls"] * 20 < counts["requests"]


def test_one_that_stopped_sleeping_is_no_longer_taken_for_near() -> None:
    """It would be shown a whole batch at a time, and wait for it."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        asleep = soak(False, 20_000, event_idx=True, depth=32, poll_microseconds=20)
        awake = soak(False, 20_000, event_idx=True, depth=32, poll_microseconds=20, then_polling=20_000)
    finally:
        os.sched_setaffinity(0, before)
    assert asleep["near"] >= 192
    assert awake["near"] < 192
