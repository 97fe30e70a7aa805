"""Guests that try to harm the program of a socket device: H47, V012, C054, C134."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

from tests.support.front_end import FrontEnd
from vhost_user.engine.driver.memory import DriverRegion
from vhost_user.spec.vsock import VsockHeader, VsockOperation, VsockType

Arena = Callable[..., Any]
CID = 3


def packet(operation: int, *, source: int = 1, port: int = 7, **fields: int) -> bytes:
    values = {"cid": CID, "dst": 2, "length": 0, "type": 1, "flags": 0, "room": 0, "forwarded": 0, **fields}
    return VsockHeader(
        values["cid"], values["dst"], source, port, values["length"], values["type"], operation,
        values["flags"], values["room"], values["forwarded"],
    ).pack()  # fmt: skip


def send(front: FrontEnd, data: bytes) -> None:
    token, _ = front.post(1, readable=data)
    assert front.collect(1) == (token, 0)


def test_headers_of_every_kind(arena: Arena) -> None:
    with arena("vsock") as attack:
        front = attack.front_end()
        front.bring_up(queues=2, size=256)
        for length in range(1, VsockHeader.SIZE):
            send(front, bytes(length))
        limits = (0, 1, 2, 0xFFFF_FFFF)
        for operation, kind, length, flags in itertools.product(
            (*range(9), 0xFFFF), (0, 1, 2), limits, limits
        ):
            send(
                front, packet(operation, type=kind, length=length, flags=flags, room=length, forwarded=flags)
            )
        for cid, other in itertools.product((0, 1, 2, 3, 1 << 63), (0, 1, 3, 4, 1 << 63)):
            send(front, packet(VsockOperation.REQUEST, cid=cid, dst=other))
        numbers = random.Random(5)
        for _ in range(500):
            send(front, numbers.randbytes(VsockHeader.SIZE + numbers.randrange(100)))


def test_requests_without_end_from_a_guest_that_takes_no_answer(arena: Arena) -> None:
    with arena("vsock") as attack:
        front = attack.front_end()
        front.bring_up(queues=2, size=256)
        for source in range(6000):
            send(front, packet(VsockOperation.REQUEST, source=source))
        attack.wait_in_log("takes no packets")


def test_buffers_that_are_too_small_for_a_header(arena: Arena) -> None:
    with arena("vsock") as attack:
        front = attack.front_end()
        front.bring_up(queues=2)
        for size in (1, 43):
            front.post(0, writable=size)
        front.post(0, readable=b"not writable at all")
        send(front, packet(VsockOperation.REQUEST))
        front.close()


def test_V012_C134_gigabytes_in_a_chain_end_with_their_session(arena: Arena) -> None:
    with arena("vsock") as attack:
        attack.gigabytes({1: "read"})


def test_a_guest_that_sends_more_than_it_has_credit_for(arena: Arena) -> None:
    with arena("vsock") as attack:
        front = attack.front_end(regions=[DriverRegion(8 << 20)])
        front.bring_up(queues=2)
        for kind in VsockType:
            send(front, packet(VsockOperation.REQUEST, type=kind))
            for _ in range(200):
                send(front, packet(VsockOperation.RW, type=kind, length=4000) + bytes(4000))
