"""Guests that try to harm the program of a GPIO device: H47, V012, C054, C134."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from tests.support.front_end import FrontEnd
from vhost_user.spec.gpio import GpioIrqRequest, GpioIrqType, GpioRequest, GpioRequestType

Arena = Callable[..., Any]
LINES = 8


def ask(front: FrontEnd, kind: int, line: int = 0, value: int = 0, size: int = 2) -> bytes:
    return front.request(0, GpioRequest(kind, line, value).pack(), size)


def test_requests_at_random(arena: Arena) -> None:
    with arena("gpio") as attack:
        front = attack.front_end()
        front.bring_up(queues=2)
        chance = random.Random(518)
        for _ in range(2000):
            kind = chance.choice((*range(8), 0xFFFF))
            line = chance.choice((*range(LINES + 1), 0xFFFF))
            answer = ask(front, kind, line, chance.choice((0, 1, 2, 3, 4, 8, 0xFFFF_FFFF)))
            assert answer[0] in {0, 1}


def test_H47_requests_and_events_without_room_for_an_answer(arena: Arena) -> None:
    with arena("gpio") as attack:
        front = attack.front_end()
        front.bring_up(queues=2)
        for size in range(12):
            for room in (0, 1, 2) if size else (1, 2):
                token, _ = front.post(0, readable=bytes(size), writable=room)
                assert front.collect(0)[0] == token
        for size in (0, 1, 2, 3, 300):
            for room in (0, 1, 300):
                if size or room:
                    token, _ = front.post(1, readable=b"\xff" * size, writable=room)
                    assert front.collect(1)[0] == token


def test_a_ring_full_of_buffers_for_one_line_and_a_level_that_interrupts(arena: Arena) -> None:
    with arena("gpio") as attack:
        front = attack.front_end()
        front.bring_up(queues=2, size=256)
        for _ in range(20):
            assert ask(front, GpioRequestType.SET_IRQ_TYPE, 3, GpioIrqType.LEVEL_LOW) == b"\0\0"
            for _ in range(64):
                front.post(1, readable=GpioIrqRequest(3).pack(), writable=1)
            for _ in range(64):
                front.collect(1)
            assert ask(front, GpioRequestType.SET_IRQ_TYPE, 3, GpioIrqType.EDGE_BOTH) == b"\0\0"
            for _ in range(64):
                front.post(1, readable=GpioIrqRequest(3).pack(), writable=1)
            assert ask(front, GpioRequestType.SET_IRQ_TYPE, 3, GpioIrqType.NONE) == b"\0\0"
            for _ in range(64):
                front.collect(1)


def test_C054_buffers_held_while_the_ring_stops_again_and_again(arena: Arena) -> None:
    with arena("gpio") as attack:
        front = attack.front_end()
        front.bring_up(queues=2, size=64)
        for line in range(LINES):
            ask(front, GpioRequestType.SET_IRQ_TYPE, line, GpioIrqType.EDGE_RISING)
            front.post(1, readable=GpioIrqRequest(line).pack(), writable=1)
        for _ in range(50):
            base = front.stop_ring(1)
            front.start_ring(1, size=64, base=base)
        front.close()


def test_V012_C134_gigabytes_in_a_chain_end_with_their_session(arena: Arena) -> None:
    with arena("gpio") as attack:
        attack.gigabytes({0: "read", 1: "read"}, size=256)
