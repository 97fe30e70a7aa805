"""Guests that try to harm the program of an SCMI platform: H47, V005, V012, C054, C134."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vhost_user.engine.driver.memory import DriverRegion
from vhost_user.spec.scmi import ScmiBase, ScmiHeader, ScmiProtocolId, ScmiSensor

Arena = Callable[..., Any]
VICTIMS = Path(__file__).with_name("victims.py")
BASE, SENSOR = ScmiProtocolId.BASE, ScmiProtocolId.SENSOR
VERSION = ScmiHeader(0, BASE).pack()


def command(protocol: int, message: int, *words: int, token: int = 0) -> bytes:
    return ScmiHeader(message, protocol, token=token).pack() + struct.pack(f"<{len(words)}I", *words)


def test_H47_commands_of_every_kind_and_size(arena: Arena) -> None:
    with arena("scmi") as attack:
        front = attack.front_end(regions=[DriverRegion(16 << 20, guest_address=1 << 30)])
        front.bring_up(queues=2, size=64)
        chance = random.Random(517)
        for number in range(3000):
            protocol = chance.choice((BASE, SENSOR, SENSOR, 0, 0xFF))
            words = [chance.choice((0, 1, 15, 0xFFFF_FFFF, 1 << 31)) for _ in range(chance.randrange(5))]
            header = ScmiHeader(chance.randrange(14), protocol, chance.choice((0, 0, 0, 1, 2, 3)), number)
            data = header.pack() + struct.pack(f"<{len(words)}I", *words) + bytes(chance.choice((0, 0, 1)))
            room = chance.choice((0, 4, 7, 8, 11, 12, 40, 132, 4096))
            answer = front.request(0, data, room)
            assert answer == b"" if room < 8 else answer[:4] == data[:4]
        data = chance.randbytes(100_000)
        assert front.request(0, VERSION + data, 12)[4:8] == struct.pack("<i", -10)
        assert front.request(0, VERSION, 12)[4:8] == bytes(4)


def test_H47_events_without_end_into_buffers_that_are_too_small(arena: Arena) -> None:
    with arena(f"{VICTIMS}:Thermometer") as attack:
        front = attack.front_end()
        front.bring_up(queues=2, size=64)
        assert front.request(0, command(BASE, ScmiBase.NOTIFY_ERRORS, 1), 8)[4:] == bytes(4)
        assert front.request(0, command(SENSOR, ScmiSensor.CONTINUOUS_UPDATE_NOTIFY, 0, 1), 8)[4:] == bytes(4)
        read_later = [command(SENSOR, ScmiSensor.READING_GET, 0, 1, token=token) for token in range(1024)]
        statuses = [front.request(0, each, 8)[4:] for each in read_later]
        assert statuses[:16] == [bytes(4)] * 16
        assert set(statuses[16:]) == {struct.pack("<i", -6)}
        for size in (1, 3, 8):
            front.post(1, writable=size)
        front.post(1, readable=b"not writable at all")
        for _ in range(4):
            front.collect(1)
        attack.wait_in_log("too small for an event")
        for _ in range(16):
            front.post(1, writable=132)
            front.collect(1)
        assert front.request(0, VERSION, 12)[4:8] == bytes(4)


def test_C054_stops_with_events_that_wait(arena: Arena) -> None:
    with arena(f"{VICTIMS}:Thermometer") as attack:
        for _ in range(5):
            front = attack.front_end()
            front.bring_up(queues=2, size=64)
            front.request(0, command(SENSOR, ScmiSensor.CONTINUOUS_UPDATE_NOTIFY, 0, 1), 8)
            for token in range(20):
                front.request(0, command(SENSOR, ScmiSensor.READING_GET, 0, 1, token=token), 8)
                front.start_ring(1, size=64, base=front.stop_ring(1))
                front.start_ring(0, size=64, base=front.stop_ring(0))
            front.close()


def test_V005_V012_C134_gigabytes_and_nowhere(arena: Arena) -> None:
    with arena("scmi") as attack:
        attack.gigabytes()
        front = attack.front_end()
        front.bring_up(queues=2, size=64)
        front.post_nowhere(0, VERSION, 12)
        attack.wait_in_log("is not mapped")
        front.close()
