"""One vring in several threads: what is reported, called and given back once; and what nobody initialised.

As in test_at_once.py: without the GIL most of this was seen to fail, with it only what says so.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.engine.at_once import HAS_GIL, ROUNDS, THREADS, TURNS, meanwhile, together
from tests.engine.pair import INDIRECT, D, MakePair
from vhost_user.engine.device import vring_state
from vhost_user.engine.device.request import Request
from vhost_user.engine.device.request_part import ReadablePart, WritablePart
from vhost_user.engine.device.vring import Vring
from vhost_user.engine.driver.memory import DriverRegion
from vhost_user.engine.errors import RequestError, RingError
from vhost_user.engine.memory.iotlb import Iotlb

BOTH = 3


def test_V037_a_broken_ring_is_reported_once(make_pair: MakePair, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the GIL too: another thread finds it broken while the error is made, which is Python code."""
    pair = make_pair(8)
    pair.offer(D(pair.buffer(16)[0], 15, INDIRECT))
    others: list[object] = []

    class Error(RingError):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            if not others:
                others.append("looks")
                thread = threading.Thread(target=lambda: others.append(pair.vring.pop()))
                thread.start()
                thread.join(30)
            super().__init__(*arguments, **named)

    monkeypatch.setattr(vring_state, "RingError", Error)
    with pytest.raises(Error) as caught:
        pair.vring.pop()
    assert others == ["looks", None]
    assert pair.errors == [caught.value]
    assert pair.vring.broken is caught.value


def test_V037_the_error_of_a_ring_is_not_that_of_the_next(
    make_pair: MakePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the GIL too: the ring is started again while the error is made."""
    pair = make_pair(8)
    pair.offer(D(pair.buffer(16)[0], 15, INDIRECT))

    class Error(RingError):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            pair.vring.stop()
            pair.vring.start()
            super().__init__(*arguments, **named)

    monkeypatch.setattr(vring_state, "RingError", Error)
    with pytest.raises(Error):
        pair.vring.pop()
    assert pair.vring.broken is None
    assert pair.vring.runnable


def test_V036_a_request_is_either_put_back_or_completed(make_pair: MakePair) -> None:
    """Both, and the ring would count one request fewer than it has."""
    pair = make_pair(8)
    answer = pair.buffer(4)
    # A turn is the number of a request in this list; who waits for it keeps its CPU a while, without the GIL.
    turns: list[Request] = []
    completed: list[bool] = []
    failed: list[int] = []
    total = 20 if HAS_GIL else 1000

    def succeeds(act: Callable[[], None]) -> bool:
        try:
            act()
        except RequestError:
            return False
        return True

    def wait_for(turn: int, what: list[Request] | list[bool]) -> None:
        tries = 0
        while len(what) <= turn:
            assert not failed
            tries += 1
            if HAS_GIL or tries > 300:
                time.sleep(0.0001)  # the other thread may need this CPU

    def complete() -> None:
        for turn in range(total):
            wait_for(turn, turns)
            completed.append(succeeds(turns[turn].complete))

    def put_back() -> None:
        there = False
        for turn in range(total):
            if not there:
                pair.queue.add([], [answer])
                pair.queue.publish()
            request = pair.take()
            turns.append(request)
            for _ in range(turn % 64):
                pass
            there = succeeds(partial(pair.vring.put_back, request))
            wait_for(turn, completed)
            if completed[turn] == there or pair.vring.in_flight or (pair.queue.poll() is None) != there:
                failed.append(turn)
                return

    together(put_back, complete)


class Callback:
    """Notes its end, so that whoever calls it too late sees that."""

    def __init__(self) -> None:
        self.alive = True

    def __call__(self, *_arguments: object) -> None:
        assert self.alive

    def __del__(self) -> None:
        self.alive = False


def test_what_is_called_with_outcomes_is_replaced_while_handlers_return(make_pair: MakePair) -> None:
    pair = make_pair(64)
    place = pair.buffer(4)
    failed: list[BaseException] = []

    def replace() -> None:
        pair.vring.set_outcome(Callback())

    with meanwhile(replace):
        for _ in range(TURNS // 32):
            for _ in range(32):
                pair.queue.add([place])
            pair.queue.publish()
            assert pair.vring.process(lambda _: 1, lambda _, error: failed.append(error)) == 32
            assert len(pair.queue.poll_many()) == 32
    assert not failed


def test_C091_one_that_has_waited_for_a_range_does_not_leave_the_others_waiting(make_pair: MakePair) -> None:
    """With the GIL too: three requests are in flight, and two threads wait for the first two of them."""
    for _ in range(ROUNDS):
        pair = make_pair(8, start=False)
        table = Iotlb(pair.guest)
        for region in pair.memory.regions:
            table.update(region.guest_address, region.size, region.user_address, BOTH)
        pair.vring.set_memory(pair.guest, table)
        pair.start()
        # Two pages apart, so that no two share one.
        places = [pair.buffer(3 * 4096) for _ in range(3)]
        requests = []
        for place in places:
            pair.queue.add([place])
            pair.queue.publish()
            requests.append(pair.take())
        drained: list[int] = []

        def wait(
            number: int,
            vring: Vring = pair.vring,
            places: list[tuple[int, int]] = places,
            drained: list[int] = drained,
        ) -> None:
            assert vring.translation.drain_range(*places[number], 3600)
            drained.append(number)

        threads = [threading.Thread(target=wait, args=(number,), daemon=True) for number in range(2)]
        try:
            for thread in threads:
                thread.start()
            # Mostly both wait by then; one that does not yet will find its range free: right as well.
            time.sleep(0.002)
            for number in range(2):
                requests[number].complete()
                threads[number].join(30)
                assert drained == list(range(number + 1))
        finally:
            pair.vring.abandon()
        assert [thread.is_alive() for thread in threads] == [False, False]


def test_views_of_a_region_are_counted_for_all_threads() -> None:
    """One too few and the memory goes under a view; one too many and it never goes."""
    region = DriverRegion(4096, guest_address=0x1000)
    inode = os.fstat(region.fd).st_ino

    def mapped() -> bool:
        return any(int(line.split()[4]) == inode for line in Path("/proc/self/maps").read_text().splitlines())

    def look() -> None:
        for _ in range(TURNS):
            memoryview(region).release()

    together(*[look] * THREADS)
    last = memoryview(region)
    region.close()
    assert mapped()
    assert last[0] == 0
    last.release()
    assert not mapped()


# ---------------------------------------------------------------------- never initialised, or twice


@pytest.mark.parametrize("kind", [ReadablePart, WritablePart])
def test_a_part_that_was_not_initialised_is_empty(make_pair: MakePair, kind: Any) -> None:
    with pytest.raises(TypeError):
        kind.__new__(kind)
    with pytest.raises(TypeError):
        kind.__new__(kind, None, 0, 4)
    request = make_pair(8).serve([b"abcd"], [4])
    part = kind.__new__(kind, request, 0, 4)
    assert (part.position, part.left, len(part)) == (0, 0, 0)
    assert part.views() == []
    with pytest.raises(RequestError):
        part.skip(1)
    with pytest.raises(RequestError):
        part.split_at(1)
    part.__init__(request, 0, 4)
    assert part.left == 4
    with pytest.raises(TypeError):
        part.__init__(request, 0, 4)
    request.complete()


def test_a_vring_that_was_not_initialised_is_a_new_one() -> None:
    kind: Any = Vring
    vring = kind.__new__(Vring, 0, 8)
    assert repr(vring) == repr(Vring(0, 8))
    assert vring.pop() is None
    assert vring.process(lambda _: None) == 0
    assert not vring.translation.look_again()
    assert not vring.translation.scattered
    assert vring.translation.users(0, 0) == 0
    assert vring.recovery.recovering == 0
    vring.__init__(0, 8)
    with pytest.raises(RuntimeError):
        vring.__init__(0, 8)
    with pytest.raises(TypeError):
        kind.__new__(Vring)


@pytest.mark.parametrize("size", [0, -1, 32769, "8", None])
def test_a_vring_that_could_not_be_made_leaves_nothing(size: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        Vring(0, size)
