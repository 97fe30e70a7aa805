"""Short forms of a packed ring's base: no used half, and plain 0 (docs/messages.md, C057, V024, V038)."""

from __future__ import annotations

import pytest

from tests.engine.pair import MakePair, Pair
from tests.engine.test_indices import packed_base, round_trip

NEW = packed_base(0, 1, 0, 1)


def go_on_from(pair: Pair, base: int) -> None:
    """Stop the ring and start it again as a front-end that says this base."""
    pair.vring.stop()
    assert pair.vring.drain(0)
    pair.vring.set_base(base)
    pair.vring.start()


def serve_chain(pair: Pair, slots: int) -> None:
    """One request of so many descriptors, there and back."""
    pair.serve([b"x"] * slots).complete()
    assert pair.queue.poll() is not None, pair.queue.describe()


@pytest.mark.parametrize("size", [1, 5, 8, 256])
def test_V038_C057_without_a_used_half_the_ring_starts_where_it_is_available(
    new_pair: MakePair, size: int
) -> None:
    # DPDK's virtio-user says 0x8000 of a new ring; with a used counter of 0 it sees no completion.
    pair = new_pair(True, size, start=False)
    pair.vring.set_base(0x8000)
    assert pair.vring.base() == 0x8000  # C058: without a start it comes back as it went in
    pair.start()
    assert pair.vring.base() == NEW
    round_trip(pair, 3 * size, size)
    wrap = 0 if 3 * size // size % 2 else 1
    assert pair.vring.base() == packed_base(0, wrap, 0, wrap)


@pytest.mark.parametrize("done", [1, 4, 7, 8, 9, 15, 16, 17])
def test_V038_C057_after_a_drain_the_available_half_says_it_all(new_pair: MakePair, done: int) -> None:
    pair = new_pair(True, 8)
    for _ in range(done):
        serve_chain(pair, 1)
    whole = pair.vring.base()
    go_on_from(pair, whole & 0xFFFF)
    assert pair.vring.base() == whole
    for _ in range(20):
        serve_chain(pair, 1)


def test_V024_a_base_of_0_is_a_new_ring(new_pair: MakePair) -> None:
    # User-mode Linux says it.
    pair = new_pair(True, 4, start=False)
    pair.vring.set_base(0)
    assert pair.vring.base() == 0
    pair.start()
    assert pair.vring.base() == NEW
    round_trip(pair, 40, 4)


@pytest.mark.parametrize("waiting", [1, 4])
def test_V024_a_base_of_0_is_a_new_ring_although_buffers_wait_in_it(new_pair: MakePair, waiting: int) -> None:
    pair = new_pair(True, 4, start=False)
    for _ in range(waiting):
        pair.add([b"early"])
    pair.vring.set_base(0)
    pair.start()
    for _ in range(waiting):
        request = pair.take()
        assert request.read() == b"early"
        request.complete()
    assert len(pair.queue.poll_many()) == waiting


@pytest.mark.parametrize("waiting", [0, 1, 4])
@pytest.mark.parametrize(
    "chains",
    [
        pytest.param([1, 1, 1, 1], id="one lap"),
        pytest.param([4], id="one chain"),
        pytest.param([3, 3, 3, 3], id="the first place is the middle of a chain of the lap before"),
        pytest.param([2, 1, 1] * 3, id="three laps"),
    ],
)
def test_V024_V027_a_base_of_0_is_the_end_of_an_odd_lap_when_the_ring_was_used(
    new_pair: MakePair, chains: list[int], waiting: int
) -> None:
    pair = new_pair(True, 4)
    for slots in chains:
        serve_chain(pair, slots)
    pair.vring.stop()
    assert pair.vring.base() == 0
    for _ in range(waiting):
        pair.add([b"next lap"])
    go_on_from(pair, 0)
    assert pair.vring.base() == 0
    for _ in range(waiting):
        request = pair.take()
        assert request.read() == b"next lap"
        request.complete()
    assert len(pair.queue.poll_many()) == waiting
    assert pair.vring.pop() is None
    for _ in range(9):
        serve_chain(pair, 1)


def test_V038_a_ring_that_is_started_again_without_a_base_keeps_both_positions(new_pair: MakePair) -> None:
    # Its own halves are never taken for short ones: two requests are in flight, used index and counter are 0.
    pair = new_pair(True, 4)
    for _ in range(4):
        serve_chain(pair, 1)
    held = [pair.serve([b"x"]) for _ in range(2)]
    assert pair.vring.base() == packed_base(2, 0, 0, 0)
    pair.vring.stop()
    pair.vring.start()
    assert pair.vring.base() == packed_base(2, 0, 0, 0)
    del held
