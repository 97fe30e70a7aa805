"""Requests popped, completed and put back one by one, when they or their ring are not what they were.

C055, C072, C078, V014, V018, V022, V036.
"""

from __future__ import annotations

import threading

import pytest

from tests.engine.dirty_logs import Log, pages_of
from tests.engine.pair import NEXT, MakePair, used_length
from tests.support.tracked_ring import TrackedRing, in_flight
from vhost_user.engine.device.request import Request
from vhost_user.engine.driver.packed import PackedDriverQueue
from vhost_user.engine.errors import RequestError, RingError


def test_C055_what_was_abandoned_is_not_given_back_by_anybody(make_pair: MakePair) -> None:
    pair = make_pair()
    first, second = pair.serve([b"abc"], [8]), pair.serve([b"def"], [8])
    pair.vring.abandon()
    pair.vring.add_used(first)
    with pytest.raises(ValueError, match="no request with head"):
        pair.vring.add_used(second.head)
    with pytest.raises(RequestError, match="cannot be put back"):
        pair.vring.put_back(second)
    assert pair.vring.in_flight == 0
    assert pair.queue.poll() is None


def test_V014_by_its_head_no_more_is_used_than_is_writable(make_pair: MakePair) -> None:
    pair = make_pair()
    request = pair.serve([b"abc"], [8])
    pair.vring.add_used(request.head, 100)
    assert used_length(pair) == 8


def test_C078_V014_what_is_said_by_its_head_to_be_written_is_logged(make_pair: MakePair, log: Log) -> None:
    pair = make_pair(bitmap=log.bitmap)
    address, _ = pair.buffer(0x3000)
    token = pair.queue.add([], [(address, 0x3000)])
    pair.queue.publish()
    request = pair.take()
    log.pages()
    pair.vring.add_used(request.head, 0x1800)
    assert log.pages() == pages_of(address, 0x1800)
    assert pair.queue.poll() == (token, 0x1800)


def test_a_request_of_another_queue_is_not_put_back(make_pair: MakePair) -> None:
    ours, theirs = make_pair(), make_pair()
    request = theirs.serve([b"abc"])
    kept = ours.serve([b"abc"])
    with pytest.raises(ValueError, match="belongs to queue"):
        ours.vring.put_back(request)
    with pytest.raises(ValueError, match="belongs to queue"):
        ours.vring.add_used(request)
    assert theirs.vring.in_flight == ours.vring.in_flight == 1
    del kept


def drained(pair_drain: threading.Thread) -> bool:
    pair_drain.join(30)
    return not pair_drain.is_alive()


def test_C054_who_waits_for_the_last_one_goes_on_when_it_is_put_back(make_pair: MakePair) -> None:
    pair = make_pair()
    request = pair.serve([b"abc"])
    waiting = threading.Thread(target=pair.vring.drain, args=(600,), daemon=True)
    waiting.start()
    waiting.join(0.05)
    pair.vring.put_back(request)
    assert drained(waiting)


@pytest.mark.parametrize("how", ["abandon", "give_back"])
def test_C055_who_waits_goes_on_when_all_are_given_up(make_pair: MakePair, how: str) -> None:
    pair = make_pair()
    kept = pair.serve([b"abc"])
    pair.vring.stop()
    waiting = threading.Thread(target=pair.vring.drain, args=(600,), daemon=True)
    waiting.start()
    waiting.join(0.05)
    getattr(pair.vring, how)()
    assert drained(waiting)
    del kept


def test_C054_who_waits_for_the_last_one_goes_on_when_a_handler_is_done(make_pair: MakePair) -> None:
    pair = make_pair()
    pair.add([b"abc"])
    waiting = threading.Thread(target=pair.vring.drain, args=(600,), daemon=True)
    began = threading.Event()

    def handle(_request: Request) -> None:
        waiting.start()
        began.wait(0.05)

    pair.vring.process(handle)
    assert drained(waiting)


def test_V018_a_ring_that_a_worker_serves_is_not_armed_by_who_pops(make_pair: MakePair) -> None:
    pair = make_pair()
    pair.add([b"abc"])
    wanted: list[bool] = []

    def handle(_request: Request) -> None:
        if not wanted:
            pair.add([b"def"])
            wanted.append(pair.queue.needs_kick())

    pair.vring.process(handle)
    assert wanted == [False]
    assert pair.vring.pop() is None
    pair.add([b"ghi"])
    assert not pair.queue.needs_kick()


def test_V017_a_call_is_decided_about_once(make_pair: MakePair) -> None:
    """Whoever asks has the answer; nobody else decides again."""
    pair = make_pair()
    pair.vring.add_used(pair.serve([b"abc"]))
    pair.queue.disable_notifications()
    assert not pair.vring.needs_notification()
    pair.vring.stop()
    counts = pair.vring.statistics()
    assert (counts["calls"], counts["calls_suppressed"]) == (0, 0)
    pair.start()
    pair.vring.add_used(pair.serve([b"abc"]))
    assert not pair.vring.signal_used_queue()
    pair.vring.stop()
    counts = pair.vring.statistics()
    assert counts["calls_suppressed"] == 0


def test_C072_another_format_begins_at_its_own_base(make_pair: MakePair) -> None:
    pair = make_pair()
    pair.serve([b"abc"]).complete()
    pair.vring.stop()
    for packed, base in ((not pair.packed, None), (pair.packed, None), (not pair.packed, 3)):
        pair.vring.set_features(packed=packed, event_idx=False, in_order=False)
        assert pair.vring.base() == (0x8000_8000 if packed else 0)
        if base is not None:
            pair.vring.set_base(base)
            assert pair.vring.base() == base


def test_C044_what_a_handler_completed_is_seen_before_the_memory_goes(make_pair: MakePair) -> None:
    pair = make_pair()
    token = pair.add([b"abc"])
    seen: list[tuple[int, int] | None] = []

    def handle(request: Request) -> None:
        request.complete()
        pair.vring.set_memory(None)
        seen.append(pair.queue.poll())

    pair.vring.process(handle)
    assert seen == [(token, 0)]


def test_C055_what_was_completed_while_the_memory_was_away_is_forgotten_too(make_pair: MakePair) -> None:
    pair = make_pair()
    first, second = pair.serve([b"abc"]), pair.serve([b"def"])
    pair.vring.set_memory(None)
    first.complete()
    pair.vring.abandon()
    pair.vring.set_memory(pair.guest)
    assert pair.queue.poll() is None
    assert not second.alive


def test_C055_V022_what_was_abandoned_keeps_its_room_in_the_area() -> None:
    """Its descriptors have entries there: no more are taken than there are entries for."""
    ring = TrackedRing(True, 8)
    assert isinstance(ring.queue, PackedDriverQueue)
    ring.add(1, descriptors=6)
    kept = ring.take()
    ring.vring.abandon()
    for place, flags in ((7, NEXT | 0x80), (0, 0x8000), (6, NEXT | 0x80)):
        ring.queue.write_descriptor(place, ring.memory.allocate(8), 8, 5, flags)
    with pytest.raises(RingError) as caught:
        ring.take()
    assert caught.value.rule == "V022"
    assert len(in_flight(ring)) == 1
    del kept
    ring.close()
