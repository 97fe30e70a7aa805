"""Guests that try to harm the program of an SPI controller: H47, V005, V012, C054, C134."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from vhost_user.spec.spi import SpiHeader, SpiResult

Arena = Callable[..., Any]
OPEN = SpiHeader(cs_change=0).pack()
LAST = SpiHeader(cs_change=1).pack()
RESULTS = set(SpiResult)


def test_H47_headers_at_random(arena: Arena) -> None:
    with arena("spi") as attack:
        front = attack.front_end()
        front.bring_up(size=64)
        chance = random.Random(521)
        for number in range(2000):
            header = bytearray(LAST)
            for _ in range(chance.choice((0, 1, 3, 32))):
                header[chance.randrange(32)] = chance.choice((0, 1, 2, 8, 0x80, 0xFF))
            size = chance.choice((0, 1, 4, 300))
            data = bytes(header)[: chance.choice((32, 32, 32, 31, 1))] + chance.randbytes(size)
            room = chance.choice((0, 1, size + 1, 301))
            answer = front.request(0, data, room)
            assert not room or answer[-1] in RESULTS, number
        assert front.request(0, LAST + b"\x9f", 1) == b"\0"


def test_every_command_of_a_memory_with_data_at_random(arena: Arena) -> None:
    with arena("spi") as attack:
        front = attack.front_end()
        front.bring_up(size=64)
        chance = random.Random(7)
        for command in range(256):
            for _ in range(4):
                assert front.request(0, LAST + b"\x06", 1) == b"\0"
                more = chance.randbytes(chance.choice((0, 1, 3, 4, 300)))
                assert front.request(0, OPEN + bytes((command,)) + more, 1) == b"\0"
                for _ in range(chance.randrange(3)):
                    assert front.request(0, OPEN, 300)[-1] == 0
                assert front.request(0, LAST, 65)[-1] == 0


def test_C054_C134_frames_that_never_end(arena: Arena) -> None:
    with arena("spi") as attack:
        for _ in range(5):
            front = attack.front_end()
            front.bring_up(size=256)
            for _ in range(50):
                front.request(0, OPEN + b"\x02" + bytes(10_000), 1)
                front.start_ring(0, size=256, base=front.stop_ring(0))
            front.close()


def test_V005_V012_C134_gigabytes_and_nowhere(arena: Arena) -> None:
    with arena("spi") as attack:
        attack.gigabytes()
        front = attack.front_end()
        front.bring_up(size=64)
        front.post_nowhere(0, LAST + b"\x9f", 1)
        attack.wait_in_log("is not mapped")
        front.close()
