"""Guests that try to harm a CAN controller's program: H47, V005, V012, C054, C134."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from tests.support.front_end import FrontEnd
from vhost_user.spec.can import CanControl, CanHeader, CanMessage

Arena = Callable[..., Any]
FRAME = CanHeader(CanMessage.TRANSMIT, 0, can_id=1).pack()
START, STOP = (CanControl(message).pack() for message in (CanMessage.START, CanMessage.STOP))


def ask(front: FrontEnd, queue: int, data: bytes) -> bytes:
    return bytes(front.request(queue, data, 1))


def started(attack: Any, size: int = 64) -> FrontEnd:
    front: FrontEnd = attack.front_end()
    front.bring_up(queues=3, size=size)
    assert ask(front, 2, START) == b"\0"
    return front


def test_headers_of_every_kind(arena: Arena) -> None:
    with arena("can") as attack:
        front = started(attack)
        for length in (0, 8, 9, 64, 65, 2048, 0xFFFF):
            for flags in (0, 0x2000, 0x4000, 0x6000, 0x8000, 0xE000, 1, 0xFFFF_FFFF):
                for can_id in (0, 0x7FF, 0x800, 0x1FFF_FFFF, 0x2000_0000, 0xFFFF_FFFF):
                    header = CanHeader(CanMessage.TRANSMIT, length, 0xFF, 0xFFFF, flags, can_id).pack()
                    for data in (b"", bytes(8), bytes(64)):
                        assert ask(front, 0, header + data) in {b"\0", b"\1"}
        numbers = random.Random(5)
        for _ in range(500):
            data = numbers.randbytes(numbers.randrange(1, 100))
            assert ask(front, 0, data) in {b"\0", b"\1"}
            assert ask(front, 2, data[: numbers.randrange(1, 4)]) in {b"\0", b"\1"}
        assert ask(front, 2, START) == b"\0"
        assert ask(front, 0, FRAME) == b"\0"


def test_H47_requests_that_leave_no_room_for_an_answer_are_not_carried_out(arena: Arena) -> None:
    with arena("can") as attack:
        front = started(attack)
        for queue, data in ((0, FRAME), (2, STOP), (2, b"?")):
            token, _ = front.post(queue, readable=data)
            assert front.collect(queue) == (token, 0)
        for size in (1, 15):
            front.post(1, writable=size)
        front.post(1, readable=b"not writable at all")
        assert ask(front, 2, START) == b"\0"
        assert ask(front, 0, FRAME) == b"\0"


def test_starts_and_stops_between_frames_without_end(arena: Arena) -> None:
    with arena("can") as attack:
        front = started(attack)
        for _ in range(300):
            for message in (STOP, START):
                tokens = {front.post(0, readable=FRAME, writable=1)[0] for _ in range(8)}
                assert ask(front, 2, message) == b"\0"
                assert {front.collect(0)[0] for _ in range(8)} == tokens


def test_C054_stops_with_frames_under_way(arena: Arena) -> None:
    with arena("can") as attack:
        front = started(attack)
        for _ in range(100):
            for _ in range(8):
                front.post(0, readable=FRAME, writable=1)
            base = front.stop_ring(0)
            front.start_ring(0, size=64, base=base)
            for _ in range(8):
                front.collect(0)


def test_V012_C134_gigabytes_in_a_chain_end_with_their_session(arena: Arena) -> None:
    with arena("can") as attack:
        attack.gigabytes({0: "read", 2: "read"})


def test_V005_answers_that_lie_in_no_memory(arena: Arena) -> None:
    with arena("can") as attack:
        front = started(attack)
        for queue, data in ((0, FRAME), (2, START)):
            front.post_nowhere(queue, data, 1)
        attack.wait_in_log("is not mapped")
        front.close()
