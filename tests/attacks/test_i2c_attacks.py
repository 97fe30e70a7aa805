"""Guests that try to harm the program of an I2C bus: H47, V012, C054, C134."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from vhost_user.spec.i2c import I2cFlag, I2cHeader

Arena = Callable[..., Any]


def test_H47_requests_at_random(arena: Arena) -> None:
    with arena("i2c") as attack:
        front = attack.front_end()
        front.bring_up(size=64)
        chance = random.Random(516)
        for _ in range(2000):
            header = I2cHeader(
                chance.choice((0xA0, 0xA1, 0, 0xFFFF, 0x90)), chance.choice((0, 2, 0xFFFF_FFFC))
            )
            data = header.pack()[: chance.choice((8, 8, 8, 7, 1))] + b"x" * chance.choice((0, 1, 300))
            front.request(0, data, chance.choice((0, 1, 2, 300)))


def test_transfers_that_never_end(arena: Arena) -> None:
    with arena("i2c") as attack:
        front = attack.front_end()
        front.bring_up(size=256)
        for _ in range(10):
            for _ in range(43):
                front.post(0, readable=I2cHeader(0xA0, I2cFlag.FAIL_NEXT).pack(), writable=1)
            for _ in range(43):
                front.collect(0)  # too many for one: all fail
        for _ in range(20):
            front.post(0, readable=I2cHeader(0xA0, I2cFlag.FAIL_NEXT).pack(), writable=1)
        for _ in range(20):
            front.start_ring(0, size=256, base=front.stop_ring(0))
        front.close()


def test_V012_C134_gigabytes_in_a_chain_end_with_their_session(arena: Arena) -> None:
    with arena("i2c") as attack:
        attack.gigabytes()
