"""What several threads use of a driver at once: its queue and its memory."""

from __future__ import annotations

import time

from tests.engine.at_once import TURNS, meanwhile, together
from tests.engine.pair import MakePair
from vhost_user.engine.errors import QueueFull


def test_the_queue_of_a_driver_is_used_by_several_threads(make_pair: MakePair) -> None:
    pair = make_pair(64)
    place, answer = pair.buffer(4), pair.buffer(4)
    each = TURNS // 10
    tokens: list[list[int]] = [[], []]
    done: list[int] = []

    def add(mine: list[int]) -> None:
        while len(mine) < each:
            try:
                mine.append(pair.queue.add([place], [answer]))
            except QueueFull:
                time.sleep(0.0005)  # the other threads may need this CPU
            pair.queue.publish()

    def reap() -> None:
        while len(done) < 2 * each:
            done.extend(token for token, _ in pair.queue.poll_many(8))

    def serve() -> None:
        if not pair.vring.process(lambda request: request.write(b"done") and None):
            time.sleep(0.0005)

    with meanwhile(serve):
        together(*(lambda mine=mine: add(mine) for mine in tokens), reap)
    assert sorted(done) == sorted(tokens[0] + tokens[1])
    assert len(set(done)) == 2 * each
    assert pair.queue.free_slots == 64


def test_the_memory_of_a_driver_is_allocated_by_several_threads(make_pair: MakePair) -> None:
    pair = make_pair(8)

    def use(tag: bytes) -> None:
        for _ in range(TURNS // 20):
            blocks = [pair.memory.allocate(64) for _ in range(20)]
            for block in blocks:
                pair.memory.write(block, tag * 64)
            assert all(pair.memory.read(block, 64) == tag * 64 for block in blocks)
            for block in blocks:
                pair.memory.free(block)

    together(*(lambda tag=tag: use(tag) for tag in (b"a", b"b", b"c")))
