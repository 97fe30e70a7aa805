"""Guests and front-ends that try to harm the program of an input device: C129, H47, V012, C054, C134."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.front_end import FrontEnd
from vhost_user.protocol.errors import RequestRefused
from vhost_user.spec.input import EVENT_QUEUE, STATUS_QUEUE, InputEvent
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.structs import Config

Arena = Callable[..., Any]
TYPIST = f"{Path(__file__).with_name('typist.py')}:Typist"
"""A device on which somebody types as fast as it goes."""


def test_C129_questions_at_random(arena: Arena) -> None:
    with arena("input") as attack:
        front = attack.front_end()
        front.bring_up(queues=2)
        chance = random.Random(518)
        for _ in range(1000):
            offset, size = (
                chance.choice((0, 0, 0, 1, 2, 8, 135, 136, 255)),
                chance.choice((1, 2, 3, 136, 250)),
            )
            try:
                front.call(FrontendRequest.SET_CONFIG, Config(offset, chance.randbytes(size)))
            except RequestRefused:
                assert offset > 1
            answer = front.call(FrontendRequest.GET_CONFIG, Config(0, bytes(136))).data
            assert len(answer) == 136
            assert answer[2] <= 128


def test_status_events_at_random(arena: Arena) -> None:
    with arena("input") as attack:
        front = attack.front_end()
        front.bring_up(queues=2)
        chance = random.Random(58)
        for _ in range(2000):
            event = InputEvent(
                chance.choice((0, 1, 4, 0x11, 0x12, 0x14, 0xFFFF)),
                chance.choice((0, 1, 2, 3, 0xFFFF)),
                chance.choice((0, 1, -1, (1 << 31) - 1, -(1 << 31))),
            )
            front.request(STATUS_QUEUE, event.pack())


def test_H47_status_events_and_buffers_of_every_size(arena: Arena) -> None:
    with arena(TYPIST) as attack:
        front = attack.front_end()
        front.bring_up(queues=2)
        for size in (1, 7, 8, 9, 4000):
            for room in (0, 1, 4000):
                token, _ = front.post(STATUS_QUEUE, readable=bytes(size), writable=room)
                assert front.collect(STATUS_QUEUE) == (token, 0)
        for size in (0, 1, 4000):
            for room in (0, 1, 7, 8, 9, 4000):
                if size or room:
                    token, _ = front.post(EVENT_QUEUE, readable=bytes(size), writable=room)
                    assert front.collect(EVENT_QUEUE) == (token, 8 if room >= 8 else 0)


def test_nobody_takes_what_is_typed(arena: Arena) -> None:
    """For as long as it likes: the memory of the program does not grow."""
    with arena(TYPIST) as attack:
        front = attack.front_end()
        front.bring_up(queues=2)
        attack.wait_in_log("does not take input events")
        assert front.request(EVENT_QUEUE, b"", 8) == InputEvent(0, 3, 0).pack()


def test_C054_stops_and_starts_while_somebody_types(arena: Arena) -> None:
    with arena(TYPIST) as attack:
        front = attack.front_end()
        front.bring_up(queues=2, size=64)
        for _ in range(50):
            for _ in range(8):
                front.post(EVENT_QUEUE, writable=8)
            for _ in range(4):
                front.collect(EVENT_QUEUE)
            base = front.stop_ring(EVENT_QUEUE)
            ring = front.rings[EVENT_QUEUE]
            while ring.poll() is not None:
                pass
            front.start_ring(EVENT_QUEUE, base=base)
        front.close()


@pytest.mark.parametrize("queue", [EVENT_QUEUE, STATUS_QUEUE])
def test_V012_C134_gigabytes_in_a_chain_end_with_their_session(arena: Arena, queue: int) -> None:
    with arena(TYPIST) as attack:
        attack.gigabytes({queue: "read" if queue == STATUS_QUEUE else "write"}, size=256)


def test_buffers_that_lie_nowhere(arena: Arena) -> None:
    with arena(TYPIST) as attack:
        front: FrontEnd = attack.front_end()
        front.bring_up(queues=2)
        for queue in (EVENT_QUEUE, STATUS_QUEUE):
            ring = front.rings[queue]
            nowhere = [(1 << 45, 8)]
            for _ in range(20):
                ring.add(*((nowhere, []) if queue == STATUS_QUEUE else ([], nowhere)))
                ring.publish()
                ring.kick()
                assert front.collect(queue)[1] == 0
        assert len(front.request(EVENT_QUEUE, b"", 8)) == 8
