"""Guests that try to harm a clock's program: H47, V005, V012, C134."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any

from vhost_user.spec.rtc import RtcHead, RtcRequestType, RtcSetAlarm

Arena = Callable[..., Any]
CFG = RtcHead(RtcRequestType.CFG).pack()


def test_requests_of_every_kind_and_size(arena: Arena) -> None:
    with arena("rtc") as attack:
        front = attack.front_end()
        front.bring_up(queues=2, size=64)
        numbers = random.Random(5)
        for kind in (*RtcRequestType, 0, 3, 0x1006, 0x2000, 0xFFFF):
            for _ in range(20):
                data = struct.pack("<H6x", kind) + numbers.randbytes(numbers.randrange(24))
                answer = front.request(0, data[: numbers.randrange(1, 33)], numbers.randrange(1, 40))
                assert answer[0] in {0, 2, 3, 4}
        assert front.request(0, CFG, 16)[0] == 0


def test_H47_alarms_without_end_into_buffers_that_are_too_small(arena: Arena) -> None:
    with arena("rtc") as attack:
        front = attack.front_end()
        front.bring_up(queues=2, size=64)
        set_alarm = RtcHead(RtcRequestType.SET_ALARM).pack() + RtcSetAlarm(0, 0, 1).pack()
        for _ in range(500):
            assert front.request(0, set_alarm, 8)[0] == 0
        front.post(1, writable=3)
        front.post(1, readable=b"not writable at all")
        attack.wait_in_log("too small for an alarm")
        for alarm_time in (1, (1 << 63), (1 << 64) - 1):
            more = RtcHead(RtcRequestType.SET_ALARM).pack() + RtcSetAlarm(alarm_time, 0, 1).pack()
            assert front.request(0, more, 8)[0] == 0
        assert front.request(0, CFG, 16)[0] == 0


def test_V012_C134_gigabytes_in_a_chain_end_with_their_session(arena: Arena) -> None:
    with arena("rtc") as attack:
        attack.gigabytes({0: "read"})


def test_V005_answers_that_lie_in_no_memory(arena: Arena) -> None:
    with arena("rtc") as attack:
        front = attack.front_end()
        front.bring_up(queues=2, size=64)
        front.post_nowhere(0, CFG, 16)
        attack.wait_in_log("is not mapped")
        front.close()
