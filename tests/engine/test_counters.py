"""Rings that have seen 2**32 requests: V041 and C110 with counters that start shortly before."""

from __future__ import annotations

import os
import struct

import pytest

from tests.engine.pair import MakePair, Pair
from tests.support.counters import move_counters, part, ring_of
from tests.support.tracked_ring import TrackedRing
from vhost_user.engine.device.request import Request
from vhost_user.engine.errors import RequestError
from vhost_user.spec import inflight as layout

BEFORE = 1009
"""Requests until then; a number that nothing else in a ring has."""
START = (1 << 32) - 8
"""Not a multiple of five before it: of the five that are in flight at a time some lie on each side."""


def old_pair(make_pair: MakePair) -> Pair:
    """A ring with IN_ORDER, packed ones of no power of two, whose counters all stand shortly before 2**32."""
    packed = make_pair(1).packed
    pair = make_pair(7 if packed else 8, in_order=True)
    place = pair.buffer(b"data")
    for _ in range(BEFORE):
        pair.queue.add([place])
        pair.queue.publish()
        pair.take().complete()
        assert pair.queue.poll() is not None
    assert pair.queue.statistics()["added"] == pair.vring.statistics()["requests"] == BEFORE
    assert move_counters(ring_of(pair.vring), BEFORE, START) == 1
    assert move_counters(part(pair.vring, "VringState"), BEFORE, START) >= 1
    assert move_counters(pair.queue, BEFORE, START) >= 1
    assert pair.queue.statistics()["added"] == pair.vring.statistics()["requests"] == START
    return pair


def test_V041_a_ring_in_order_goes_on_after_2_to_the_32_requests(make_pair: MakePair) -> None:
    pair = old_pair(make_pair)
    held: list[Request] = []
    tokens: list[int] = []
    for turn in range(40):
        tokens.append(pair.add([b"%d" % turn]))
        held.append(pair.take())
        assert held[-1].read_at(0, len(b"%d" % turn)) == b"%d" % turn
        if len(held) == 5:
            # The last one first: all of them wait for the oldest.
            for request in reversed(held):
                assert pair.queue.poll() is None
                request.complete()
            held.clear()
            assert [token for token, _ in pair.queue.poll_many()] == tokens
            tokens.clear()
    assert pair.queue.statistics()["added"] == pair.vring.statistics()["requests"] == START + 40
    assert pair.vring.broken is None


def test_V036_only_the_request_taken_last_can_be_put_back_at_2_to_the_32(
    make_pair: MakePair,
) -> None:
    """The last request of a batch is number 2**32: were that 0, any other would pass for the last one."""
    pair = old_pair(make_pair)
    for turn in range((1 << 32) - START - 2):
        pair.serve([b"%d" % turn]).complete()
        assert pair.queue.poll() is not None
    pair.add([b"first"])
    pair.add([b"last"])
    held: list[Request] = []

    def hold(request: Request) -> None:
        request.hold()
        held.append(request)

    pair.vring.process(hold)
    first, last = held
    with pytest.raises(RequestError, match="only the request taken last"):
        pair.vring.put_back(first)
    pair.vring.put_back(last)
    again = pair.take()
    assert again.read() == b"last"
    again.complete()
    first.complete()
    assert len(pair.queue.poll_many()) == 2


def test_C110_C113_requests_in_flight_keep_their_order_after_2_to_the_32(packed: bool) -> None:
    ring = TrackedRing(packed, 7 if packed else 8)
    state, start = (
        (layout.PACKED_DESCRIPTOR, layout.PACKED_HEADER_SIZE)
        if packed
        else (layout.SPLIT_DESCRIPTOR, layout.SPLIT_HEADER_SIZE)
    )
    try:
        ring.add(3)
        kept = ring.take()
        ring.kill()
        # As if they were number 2**32 - 2 and the two after it: eight bytes into each state.
        for entry in range(ring.queue.size):
            at = start + entry * state.size
            if os.pread(ring.area_fd, 1, at) == b"\1":
                (number,) = struct.unpack("<Q", os.pread(ring.area_fd, 8, at + 8))
                os.pwrite(ring.area_fd, struct.pack("<Q", (1 << 32) - 2 + number), at + 8)
        ring.serve()
        kept = ring.take()
        assert [ring.number_of(request) for request in kept] == [0, 1, 2]
        ring.complete(kept[:2])
        assert ring.poll() == [0, 1]
        ring.add(1)
        kept = [kept[2], *ring.take()]
        ring.kill()
        ring.serve()
        kept = ring.take()
        assert [ring.number_of(request) for request in kept] == [2, 3]
        ring.complete(kept)
        assert ring.poll() == [2, 3]
    finally:
        del kept
        ring.close()
