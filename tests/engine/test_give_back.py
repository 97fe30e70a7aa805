"""Buffers that a device holds when its queue stops go back to the driver: C053, C056 to C060, V023, V041."""

from __future__ import annotations

import random

import pytest

from tests.engine.pair import MakePair
from vhost_user.engine.device.request import Request
from vhost_user.engine.errors import RequestError


def restart(pair_vring: object) -> None:
    """As the front-end does it: the base that the ring told."""
    vring = pair_vring
    base = vring.base()  # type: ignore[attr-defined]
    vring.set_base(base)  # type: ignore[attr-defined]
    vring.start()  # type: ignore[attr-defined]


def test_C056_what_is_held_counts_as_never_taken(make_pair: MakePair) -> None:
    pair = make_pair()
    before = pair.vring.base()
    tokens = [pair.add([b"abc"], [4]) for _ in range(3)]
    held = [pair.take() for _ in tokens]
    pair.vring.stop()
    assert pair.vring.give_back() == (3, 0)
    assert pair.vring.in_flight == 0
    assert pair.vring.drain(0)
    assert pair.vring.base() == before
    assert pair.queue.poll() is None
    for request in held:
        with pytest.raises(RequestError):
            request.read()
        request.complete(4)
    assert pair.queue.poll() is None
    restart(pair.vring)
    for token in tokens:
        request = pair.take()
        assert request.read() == b"abc"
        request.complete(2)
        assert pair.queue.poll() == (token, 2)


def test_C056_one_older_than_a_completed_request_goes_back_empty(make_pair: MakePair) -> None:
    pair = make_pair()
    tokens = [pair.add([b"x"], [4]) for _ in range(3)]
    held = [pair.take() for _ in tokens]
    held[1].complete(3)
    pair.vring.stop()
    assert pair.vring.give_back() == (1, 1)
    assert sorted(pair.queue.poll_many()) == sorted([(tokens[1], 3), (tokens[0], 0)])
    restart(pair.vring)
    pair.take().complete(1)
    assert pair.queue.poll() == (tokens[2], 1)
    assert pair.vring.pop() is None


def test_a_running_ring_gives_nothing_back(make_pair: MakePair) -> None:
    pair = make_pair()
    pair.add([b"x"])
    request = pair.take()
    with pytest.raises(RuntimeError, match="stopped ring"):
        pair.vring.give_back()
    request.complete()


def test_C044_without_its_memory_a_ring_gives_everything_back_empty_when_it_returns(
    make_pair: MakePair,
) -> None:
    pair = make_pair()
    tokens = [pair.add([b"x"], [4]) for _ in range(2)]
    held = [pair.take() for _ in tokens]
    pair.vring.set_memory(None)
    pair.vring.stop()
    assert pair.vring.give_back() == (0, 2)
    pair.vring.set_memory(pair.guest)
    assert sorted(pair.queue.poll_many()) == sorted((token, 0) for token in tokens)
    del held


@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_C060_no_buffer_is_lost_or_doubled_whatever_was_completed_before_the_stop(
    make_pair: MakePair, packed: bool, seed: int, in_order: bool
) -> None:
    chance = random.Random(seed)
    size = chance.choice([4, 8, 16])
    pair = make_pair(size, in_order=in_order, first=chance.choice([0, 0x8003_8003 if packed else 3]))
    out: set[int] = set()  # what the driver waits for
    held: list[Request] = []
    for _ in range(300):
        action = chance.random()
        if action < 0.4 and len(out) < size // 2:
            # Two descriptors at most, so that half of the ring always has room for one more.
            out.add(pair.add([b"ab"], [4] if chance.random() < 0.5 else []))
        elif action < 0.65:
            request = pair.vring.pop()
            if request is not None:
                held.append(request)
        elif action < 0.9 and held:
            held.pop(chance.randrange(len(held))).complete(0)
        elif action >= 0.95:
            pair.vring.stop()
            turned, empty = pair.vring.give_back()
            assert turned + empty == len(held)
            held.clear()
            restart(pair.vring)
        while (used := pair.queue.poll()) is not None:
            out.remove(used[0])  # a KeyError is a buffer that came twice
    pair.vring.stop()
    pair.vring.give_back()
    held.clear()
    restart(pair.vring)
    while (request := pair.vring.pop()) is not None:
        request.complete(0)
    request = None
    while (used := pair.queue.poll()) is not None:
        out.remove(used[0])
    assert out == set()
    assert pair.vring.broken is None


def test_H58_a_driver_that_rewrites_its_ring_meanwhile_harms_only_itself(make_pair: MakePair) -> None:
    pair = make_pair()
    for _ in range(3):
        pair.add([b"x"], [4])
    held = [pair.take() for _ in range(3)]
    for place in range(pair.size):
        if pair.packed:
            pair.ring.write_descriptor(place, 0, 0, 0xFFFF, 0xFFFF)
        else:
            pair.split.write_avail(place, 0xFFFF)
    pair.vring.stop()
    assert pair.vring.give_back() == (0, 3)
    assert pair.vring.in_flight == 0
    del held
