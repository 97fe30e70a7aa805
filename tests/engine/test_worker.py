"""The worker: kicks, polling, fairness between rings (C051, C052, C066 to C068, V018, V019, H69, H82)."""

from __future__ import annotations

import os
import select
import threading
from pathlib import Path

import pytest

from tests.engine.pair import MakePair
from tests.engine.serving import PATIENCE, echo, round_trip, running
from vhost_user.engine.device.request import Request
from vhost_user.engine.device.worker import Worker


@pytest.mark.parametrize("event_idx", [False, True])
@pytest.mark.parametrize("poll_microseconds", [0, 50])
def test_V018_V049_kicks_and_calls_wake_both_sides(
    make_pair: MakePair, event_idx: bool, poll_microseconds: int
) -> None:
    pair = make_pair(event_idx=event_idx)
    with running(pair, poll_microseconds=poll_microseconds) as worker:
        for _ in range(300):
            round_trip(pair)
        assert worker.statistics()["wakeups"] > 0
    assert pair.vring.statistics()["requests"] == 300


def test_C051_a_ring_is_looked_at_when_it_becomes_runnable(make_pair: MakePair) -> None:
    for change in ("start", "enable", "resume"):
        pair = make_pair(start=False)
        token = pair.add([b"early"], [5])
        with running(pair) as worker:
            if change == "start":
                pair.vring.set_enabled(True)
                worker.update(pair.vring)
                pair.vring.start()
            else:
                pair.vring.start()
                pair.vring.set_suspended(change == "resume")
                worker.update(pair.vring)
                pair.vring.set_enabled(True)
                pair.vring.set_suspended(False)
            worker.update(pair.vring)
            assert pair.queue.wait(PATIENCE)
            assert pair.queue.poll() == (token, 5)


def test_C051_C044_a_ring_is_looked_at_when_its_memory_is_back(make_pair: MakePair) -> None:
    pair = make_pair()
    with running(pair) as worker:
        round_trip(pair)
        pair.vring.set_memory(None)
        worker.update(pair.vring)
        token = pair.add([b"x"], [1])
        pair.vring.set_memory(pair.guest)
        worker.update(pair.vring)
        assert pair.queue.wait(PATIENCE)
        assert pair.queue.poll() == (token, 1)


def test_C052_a_ring_without_kick_fd_is_polled(make_pair: MakePair) -> None:
    pair = make_pair()
    pair.vring.set_kick(None)
    with running(pair):
        for _ in range(5):
            round_trip(pair, kick=False)


def test_C066_H69_a_kick_fd_is_replaced_while_running(make_pair: MakePair) -> None:
    pair = make_pair()
    with running(pair) as worker:
        for _ in range(50):
            token = pair.add([b"x"], [1])
            pair.queue.kick(force=True)  # goes to the old one, and may be pending there
            worker.remove(pair.vring)
            pair.vring.set_kick(os.dup(pair.queue.kick_fd))
            worker.update(pair.vring)
            assert pair.queue.wait(PATIENCE)
            assert pair.queue.poll() == (token, 1)


def test_C065_a_call_fd_is_replaced_while_running(make_pair: MakePair) -> None:
    pair = make_pair()
    with running(pair):
        for _ in range(100):
            token = pair.add([b"x"], [1])
            pair.queue.kick()
            pair.vring.set_call(os.dup(pair.queue.call_fd))
            assert pair.queue.wait(PATIENCE)
            assert pair.queue.poll() == (token, 1)


@pytest.mark.parametrize("blocking", [False, True])
def test_C067_C068_pipes_as_doorbells(make_pair: MakePair, blocking: bool) -> None:
    pair = make_pair()
    kick_out, kick_in = os.pipe()
    call_out, call_in = os.pipe()
    for fd in (kick_out, call_in):
        os.set_blocking(fd, blocking)
    pair.vring.set_kick(os.dup(kick_out))
    pair.vring.set_call(os.dup(call_in))
    with running(pair):
        for _ in range(20):
            token = pair.add([b"pipe"], [4])
            os.write(kick_in, b"12345678" * 3)
            while (used := pair.queue.poll()) is None:
                assert select.select([call_out], [], [], PATIENCE)[0]
                os.read(call_out, 512)
            assert used == (token, 4)
    assert os.get_blocking(kick_out) == os.get_blocking(call_in) == blocking
    for fd in (kick_out, kick_in, call_out, call_in):
        os.close(fd)


def test_C068_H88_a_kick_fd_that_is_always_readable_is_one_event(make_pair: MakePair) -> None:
    """A semaphore eventfd with a count that cannot be read away: the front-end may hand us one."""
    pair, other = make_pair(), make_pair()
    evil = os.eventfd(0, os.EFD_SEMAPHORE)
    os.eventfd_write(evil, 0x7FFF_FFFF_FFFF_FFF0)
    pair.vring.set_kick(os.dup(evil))
    with running(pair, other) as worker:
        before = worker.statistics()["wakeups"]
        for _ in range(20):
            round_trip(other)
            token = pair.add([b"ping"], [4])
            os.eventfd_write(evil, 1)  # each kick is heard, although it was readable before
            assert pair.queue.wait(PATIENCE), pair.queue.describe()
            assert pair.queue.poll() == (token, 4)
        # Two kicks a round, and no more events than that; it was ready all the time.
        assert worker.statistics()["wakeups"] - before < 60
    os.close(evil)


def test_H82_a_ring_that_is_never_empty_starves_no_other(make_pair: MakePair) -> None:
    """The second ring is served without a kick too: kicks for it are suppressed while the worker is awake."""
    busy, other, third = make_pair(64), make_pair(), make_pair()
    seen: list[int] = []
    place = busy.buffer(4)  # one for all: the ring must never run out of anything

    def refill(request: Request) -> None:
        request.complete()
        busy.queue.poll_many()
        busy.queue.add([place])
        busy.queue.publish()

    def dispatch(event: int, _events: int) -> None:
        seen.append(event)
        if event == 0:
            busy.vring.process(refill, None, 16)
        else:
            (other, third)[event - 1].vring.process(echo, None, 1)

    with running(busy, other, third, dispatch=dispatch) as worker:
        round_trip(other)
        round_trip(third)
        busy.add([b"first"])
        busy.queue.kick()
        for _ in range(30):
            for pair in (other, third):
                token = pair.add([b"x"], [1])
                pair.queue.kick()
                assert pair.queue.wait(PATIENCE), (pair.queue.describe(), seen[-20:])
                assert pair.queue.poll() == (token, 1)
        assert worker.statistics()["wakeups"] > 0
    assert 0 in seen


def test_V019_spurious_kicks_are_harmless(make_pair: MakePair) -> None:
    pair = make_pair()
    with running(pair) as worker:
        for _ in range(20):
            pair.queue.kick(force=True)
        round_trip(pair)
        pair.vring.set_enabled(False)
        worker.update(pair.vring)
        for _ in range(20):
            pair.queue.kick(force=True)
        token = pair.add([b"x"], [1])
        pair.queue.kick(force=True)
        pair.vring.set_enabled(True)
        worker.update(pair.vring)
        assert pair.queue.wait(PATIENCE)
        assert pair.queue.poll() == (token, 1)


def test_polling_finds_requests_without_kicks(make_pair: MakePair) -> None:
    pair = make_pair(64)
    with running(pair, poll_microseconds=100_000):
        round_trip(pair)
        before = pair.queue.statistics()["kicks"]
        for _ in range(50):
            round_trip(pair)
        assert pair.queue.statistics()["kicks"] - before < 25


def test_polling_in_vain_is_given_up_and_tried_again(make_pair: MakePair) -> None:
    pair = make_pair(64)
    with running(pair, poll_microseconds=100) as worker:
        polling, resting = 0, 0
        # Each request comes only when the worker has gone to sleep, so that no poll ever finds one.
        while not (resting and polling > resting):
            asleep = pair.vring.statistics()["arms"]
            before = worker.statistics()["polls"]
            round_trip(pair)
            while pair.vring.statistics()["arms"] == asleep:
                os.sched_yield()
            if worker.statistics()["polls"] == before:
                resting += 1
            elif resting:
                polling = resting + 1
            assert resting < 1000
        assert worker.statistics()["polls"] > 0


def test_a_worker_has_its_own_rings(make_pair: MakePair) -> None:
    one, other = make_pair(), make_pair()
    worker = Worker([one.vring], first_listener_id=1)
    assert worker.vrings == (one.vring,)
    assert worker.fileno() >= 0
    with pytest.raises(ValueError, match="does not belong"):
        worker.update(other.vring)
    with pytest.raises(ValueError, match="has a worker already"):
        Worker([one.vring], first_listener_id=1)
    with pytest.raises(ValueError, match="collide"):
        Worker([other.vring], first_listener_id=0)
    with pytest.raises(ValueError, match="poll_microseconds"):
        Worker([other.vring], first_listener_id=1, poll_microseconds=-1)
    worker.close()
    Worker([one.vring], first_listener_id=1).close()


def test_workers_leave_no_file_descriptors(make_pair: MakePair) -> None:
    pair = make_pair()
    files = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(50):
        with running(pair):
            pass
    assert len(list(Path("/proc/self/fd").iterdir())) == files


@pytest.mark.parametrize("event_idx", [False, True])
def test_completions_from_other_threads_reach_the_driver(make_pair: MakePair, event_idx: bool) -> None:
    pair = make_pair(64, event_idx=event_idx)
    held: list[Request] = []
    ready = threading.Semaphore(0)

    def hold(request: Request) -> None:
        request.hold()
        held.append(request)
        ready.release()

    def complete() -> None:
        for _ in range(200):
            ready.acquire()
            request = held.pop(0)
            request.write(b"late")
            request.complete()

    thread = threading.Thread(target=complete)
    thread.start()

    def dispatch(_event: int, _events: int) -> None:
        pair.vring.process(hold)

    with running(pair, dispatch=dispatch):
        for _ in range(200):
            round_trip(pair)
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_V018_V049_a_kick_during_the_first_look_at_a_ring_served_by_hand_is_not_lost(
    make_pair: MakePair,
) -> None:
    """The ring is looked at because it began to run, and its first kick is there already: both at once."""
    pair = make_pair(start=False)
    seen: list[int] = []
    done = threading.Event()

    def dispatch(_event: int, _events: int) -> None:
        while (request := pair.vring.pop()) is not None:
            seen.append(request.readable)
            request.complete()
        if len(seen) == 1:
            # The driver goes on at once, when the ring has been found empty and before the worker is back.
            pair.add([b"no"])
            pair.queue.kick()
        elif len(seen) == 2:
            done.set()

    pair.add([b"x"])
    pair.queue.kick()
    pair.vring.start()
    pair.vring.set_enabled(True)
    worker = Worker([pair.vring], first_listener_id=1)
    worker.update(pair.vring)
    thread = threading.Thread(target=worker.run, args=(dispatch,))
    thread.start()
    came = done.wait(PATIENCE / 4)
    worker.stop()
    thread.join(PATIENCE)
    worker.remove(pair.vring)
    worker.close()
    assert came
    assert seen == [1, 2]


def test_V018_a_ring_whose_handler_failed_is_looked_at_again(make_pair: MakePair) -> None:
    """With EVENT_IDX nobody else would: the driver does not kick again for what was there."""
    pair = make_pair(64, event_idx=True)
    calls: list[int] = []
    workers: list[Worker] = []

    def dispatch(event: int, _events: int) -> None:
        if not workers:
            return  # the look at a ring that begins to run
        calls.append(event)
        if len(calls) % 3 == 0:
            workers[0].look_again(event)  # as the framework does after an exception
            return
        pair.vring.process(echo)

    with running(pair, dispatch=dispatch) as worker:
        workers.append(worker)
        for _ in range(21):
            round_trip(pair)
    assert pair.vring.statistics()["requests"] == 21
    assert len(calls) > 21


def test_V018_a_handler_that_always_fails_does_not_spin(make_pair: MakePair) -> None:
    pair, other = make_pair(64, event_idx=True), make_pair(event_idx=True)
    calls: list[int] = []
    workers: list[Worker] = []

    def dispatch(event: int, _events: int) -> None:
        if event == 1:
            other.vring.process(echo)
            return
        if not workers:
            return
        calls.append(event)
        if len(calls) == 1:
            pair.vring.process(echo, None, 1)  # from now on the worker polls this ring, too
        workers[0].look_again(event)

    with running(pair, other, dispatch=dispatch, poll_microseconds=20) as worker:
        workers.append(worker)
        for _ in range(8):
            pair.add([b"ping"], [4])
        pair.queue.kick()
        for _ in range(200):
            round_trip(other)
        worker.look_again(16)  # not a ring: ignored
    # 1, 2, 4 ms … apart: in a minute some sixty, each of them after a pause.
    assert 1 <= len(calls) < 80
