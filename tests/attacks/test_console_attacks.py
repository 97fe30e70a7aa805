"""Guests that try to harm a console's program: H47, V005, V011, V012, C054, C134."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from tests.support.front_end import FrontEnd, until
from vhost_user.spec.console import ConsoleControl, ConsoleEvent
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.structs import Config

Arena = Callable[..., Any]
CONTROL = 3


def talk(front: FrontEnd, queue: int, data: bytes) -> None:
    token, _ = front.post(queue, readable=data)
    assert front.collect(queue) == (token, 0)


def test_control_messages_that_make_no_sense(arena: Arena) -> None:
    with arena("console") as attack:
        front = attack.front_end()
        front.bring_up(queues=8)
        for length in range(1, 12):
            talk(front, CONTROL, bytes(range(length)))
        for number in (0, 1, 7, 0x7FFF_FFFF, 0xFFFF_FFFF):
            for event in (*ConsoleEvent, 8, 0xFFFF):
                talk(front, CONTROL, ConsoleControl(number, event, 0xFFFF).pack())
        attack.wait_in_log("which does not exist")


def test_a_driver_that_is_ready_again_and_again_and_takes_no_answer(arena: Arena) -> None:
    with arena("console") as attack:
        front = attack.front_end()
        front.bring_up(queues=8)
        for _ in range(3000):
            talk(front, CONTROL, ConsoleControl(0, ConsoleEvent.DEVICE_READY, 1).pack())
        attack.wait_in_log("takes no control messages")


def test_V012_C134_gigabytes_in_a_chain_end_with_their_session(arena: Arena) -> None:
    # Each chain names one region of 64 MiB again and again, 4 GiB in all; there are many of them.
    with arena("console") as attack:
        attack.gigabytes({1: "read"})


def test_H47_buffers_that_nothing_can_be_written_to(arena: Arena) -> None:
    with arena("console") as attack:
        front = attack.front_end()
        front.bring_up(queues=8)
        for _ in range(4):
            front.post(2, readable=b"nothing to write to")  # the control queue to the guest
            front.post(2, writable=3)
        talk(front, CONTROL, ConsoleControl(0, ConsoleEvent.DEVICE_READY, 1).pack())
        front.post(0, readable=b"nor to this")
        talk(front, 1, b"still served")


def test_memory_that_is_not_there_and_lines_that_are_split_in_bytes(arena: Arena) -> None:
    with arena("console") as attack:
        front = attack.front_end()
        front.negotiate()
        front.share_memory()
        ring = front.start_ring(1, size=128)
        address = front.memory.allocate(64)
        front.memory.write(address, b"abcdefgh")
        for _ in range(10):
            ring.add([(address + place, 1) for place in range(8)], [])
            ring.publish()
        ring.kick()
        until(lambda: ring.poll() is not None, "the first")
        ring.add([(0xDEAD_0000_0000, 4096)], [])
        ring.publish()
        ring.kick()
        attack.wait_in_log("is not mapped")
        front.close()


def test_emergency_writes_without_end(arena: Arena) -> None:
    with arena("console") as attack:
        front = attack.front_end()
        front.negotiate()
        for _ in range(2000):
            front.call(FrontendRequest.SET_CONFIG, Config(8, struct.pack("<I", ord("!"))), need_reply=True)
