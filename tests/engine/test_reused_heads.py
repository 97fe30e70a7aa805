"""A driver that uses a head or buffer id again before it has it back: V021, V041, H71; C114 after a kill.

Behind each of them is a record of the chain that was taken under it. What such a driver loses is its own.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from tests.support.store_recorder import WORKS
from tests.support.tracked_ring import MakeTracked, TrackedRing, in_flight, states
from vhost_user.engine.device.request import Request
from vhost_user.engine.driver.packed import PackedDriverQueue
from vhost_user.engine.errors import RingError

NEXT, AVAILABLE, USED = 1, 0x80, 0x8000


class Careless:
    """Writes into the ring what it likes; of a packed one it knows no more than its own position."""

    def __init__(self, ring: TrackedRing) -> None:
        self.ring = ring
        self.buffer = ring.memory.allocate(8)
        self.position, self.wrap = 0, True

    def offer(self, head: int, count: int = 1) -> None:
        """A chain of ``count`` descriptors at ``head``, or with that buffer id."""
        queue = self.ring.queue
        flags = [NEXT] * (count - 1) + [0]
        if not isinstance(queue, PackedDriverQueue):
            for place, flag in enumerate(flags):
                queue.write_descriptor(head + place, self.buffer, 8, flag, head + place + 1)
            index = queue.avail_index
            queue.write_avail(index % queue.size, head)
            queue.set_avail_index(index + 1 & 0xFFFF)
            return
        places = []
        for flag in flags:
            places.append((self.position, flag | (AVAILABLE if self.wrap else USED)))
            self.position += 1
            if self.position == queue.size:
                self.position, self.wrap = 0, not self.wrap
        for place, flag in reversed(places):
            queue.write_descriptor(place, self.buffer, 8, head, flag)


def refused(ring: TrackedRing) -> str:
    with pytest.raises(RingError) as caught:
        ring.take()
    return caught.value.rule


@pytest.mark.parametrize("area", [True, False], ids=["recorded", "not recorded"])
@pytest.mark.parametrize("before", [0, 1, 6])
def test_V021_V041_H71_what_waits_for_its_turn_is_not_the_drivers_yet(
    make_tracked: MakeTracked, area: bool, before: int
) -> None:
    """It is complete, and a request before it is not. ``before``: requests that have come and gone."""
    ring = make_tracked(8, in_order=True)
    if not area:
        ring.vring.stop()
        ring.vring.recovery.set_inflight(None)
        ring.vring.start()
    driver = Careless(ring)
    for _ in range(before):
        driver.offer(7)
        ring.take()[0].complete(0)
    driver.offer(0)
    driver.offer(2, 3)
    first, second = ring.take()
    second.complete(0)
    driver.offer(2)
    assert refused(ring) == "V021"
    first.complete(0)
    assert ring.vring.in_flight == 0
    assert not area or in_flight(ring) == []


def test_V041_what_had_its_turn_is_the_drivers_again(make_tracked: MakeTracked) -> None:
    """The heads of a ring that is full, each time round in another order."""
    ring = make_tracked(4, in_order=True)
    driver = Careless(ring)
    for turn in range(7):
        heads = [(turn + 3 * place) % 4 for place in range(4)]
        for head in heads:
            driver.offer(head)
        taken = ring.take()
        assert [request.head for request in taken] == heads
        for place in (2, 1, 3, 0):
            taken[place].complete(0)
        assert in_flight(ring) == []
    assert ring.vring.broken is None


def test_C113_V041_nothing_is_written_behind_the_entries_of_the_area() -> None:
    """The free list of a packed ring's area has as many entries as are counted, whatever the driver does."""
    ring = TrackedRing(True, 8, in_order=True)
    try:
        driver = Careless(ring)
        driver.offer(0)
        driver.offer(5, 3)
        first, second = ring.take()
        second.complete(0)
        driver.offer(5)
        with pytest.raises(RingError):
            ring.take()
        first.complete(0)
        ring.vring.stop()
        ring.vring.set_base(ring.vring.base())
        ring.vring.start()
        ring.vring.set_enabled(True)
        driver.offer(9, 7)
        for request in ring.take():
            request.complete(0)
        free, entry = [], states(ring)[0][3]
        while entry < 8:
            assert entry not in free
            free.append(entry)
            entry = states(ring)[1][entry][1]
        assert sorted(free) == list(range(8))
    finally:
        ring.close()


def in_one_batch(ring: TrackedRing, driver: Careless, head: int, times: int) -> Callable[[Request], None]:
    """A handler: what it completes is published later, and meanwhile the driver offers the head again."""

    def handle(request: Request) -> None:
        request.complete(0)
        for _ in range(times):
            driver.offer(head)
            again = ring.vring.pop()
            assert again is not None
            again.complete(0)

    return handle


def test_V021_C110_more_completions_at_a_time_than_the_ring_has(make_tracked: MakeTracked) -> None:
    ring = make_tracked(4)
    driver = Careless(ring)
    driver.offer(1)
    calls = ring.queue.call_count()
    ring.vring.process(in_one_batch(ring, driver, 1, 3 if ring.packed else 200))
    assert ring.queue.call_count() > calls
    assert in_flight(ring) == []
    header, _ = states(ring)
    if ring.packed:
        assert header[5:] == (0, 0, 0, 0)
    else:
        assert header[4] == 201
    ring.base = ring.vring.base()
    ring.kill()
    ring.serve()
    assert ring.vring.recovery.problem is None
    assert ring.vring.recovery.recovering == 0
    assert ring.take() == []
    driver.offer(1)
    assert [request.head for request in ring.take()] == [1]


@pytest.mark.skipif(not WORKS, reason="the store recorder is for x86-64")
@pytest.mark.parametrize("times", [1, 6])
def test_C114_V021_killed_at_any_store_the_next_one_takes_what_the_driver_waits_for(
    packed: bool, times: int
) -> None:
    """No more than that, and nothing stays in the area."""

    def scene(ring: TrackedRing) -> Careless:
        driver = Careless(ring)
        driver.offer(1)
        return driver

    size = 8 if packed else 4
    ring = TrackedRing(packed, size)
    driver = scene(ring)
    with ring.recorder() as recorder:
        ring.vring.process(in_one_batch(ring, driver, 1, times))
    ring.close()
    assert len(recorder.pictures) > 2 * times
    for picture in recorder.pictures:
        ring = TrackedRing(packed, size)
        scene(ring)
        ring.kill()
        ring.put_back(picture)
        ring.serve()
        assert ring.vring.recovery.problem is None
        count = 0
        while (request := ring.vring.pop()) is not None:
            assert request.head == 1
            request.complete(0)
            count += 1
        if packed:
            assert count <= times + 1
        else:
            (available,) = struct.unpack_from("<H", picture, ring.queue.driver_address - base_of(ring) + 2)
            (used,) = struct.unpack_from("<H", picture, ring.queue.device_address - base_of(ring) + 2)
            assert count == available - used
        assert in_flight(ring) == []
        ring.close()


def base_of(ring: TrackedRing) -> int:
    return ring.region.guest_address
