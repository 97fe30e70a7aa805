"""Guests that try to harm a balloon, or others by it: H36, H47, V005, V012, C042, C054, C134."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

from tests.support.front_end import FrontEnd
from vhost_user.engine.driver.memory import DriverRegion
from vhost_user.spec.balloon import (
    DEFLATE_QUEUE,
    FREE_PAGE_QUEUE,
    INFLATE_QUEUE,
    PAGE_SIZE,
    REPORTING_QUEUE,
    STATS_QUEUE,
    pack_page_numbers,
)
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.structs import Config, MemorySlot

Arena = Callable[..., Any]
MIB = 1 << 20
HIGH = 1 << 32


def taken(front: FrontEnd, queue: int, readable: bytes = b"", writable: int = 0) -> None:
    token, _ = front.post(queue, readable=readable, writable=writable)
    assert front.collect(queue)[0] == token


def test_H36_pages_at_random_in_all_the_world(arena: Arena) -> None:
    with arena("balloon") as attack:
        extra = DriverRegion(4 * MIB, guest_address=HIGH, name="bystander")
        front = attack.front_end(regions=[DriverRegion(4 * MIB, guest_address=16 * MIB), extra])
        front.bring_up(queues=5)
        numbers = random.Random(5)
        for _ in range(300):
            pages = [numbers.choice((numbers.getrandbits(32), 0, 0xFFFF_FFFF)) for _ in range(256)]
            taken(front, INFLATE_QUEUE, pack_page_numbers(pages))
            taken(front, DEFLATE_QUEUE, pack_page_numbers(pages))
        attack.wait_in_log("memory that it does not have")


def test_H47_requests_of_every_size_in_every_queue(arena: Arena) -> None:
    with arena("balloon") as attack:
        front = attack.front_end(regions=[DriverRegion(16 * MIB, guest_address=16 * MIB)])
        front.bring_up(queues=5)
        for size in (*range(1, 24), 600, 1023):
            for queue in (INFLATE_QUEUE, DEFLATE_QUEUE, FREE_PAGE_QUEUE, REPORTING_QUEUE):
                for room in (0, 1, 5000):
                    taken(front, queue, b"\xff" * size, room)
                    taken(front, queue, b"", room + 1)
        before = None
        for size in (*range(1, 24), 600, 1023):
            token, _ = front.post(STATS_QUEUE, readable=b"\xff" * size)
            if before is not None:  # one is kept, and a driver has one
                assert front.collect(STATS_QUEUE)[0] == before
            before = token


def test_the_rings_themselves_in_the_balloon(arena: Arena) -> None:
    with arena("balloon") as attack:
        front = attack.front_end(regions=[DriverRegion(4 * MIB, guest_address=16 * MIB)])
        front.bring_up(queues=5)
        front.post(INFLATE_QUEUE, readable=pack_page_numbers([*range(4096, 4096 + 1024)]))
        front.close()


def test_C042_memory_that_was_taken_away_stays_as_it_is(arena: Arena) -> None:
    with arena("balloon") as attack:
        extra = DriverRegion(4 * MIB, guest_address=HIGH)
        front = attack.front_end(regions=[DriverRegion(4 * MIB, guest_address=16 * MIB)])
        front.bring_up(queues=5)
        pages = pack_page_numbers([*range(HIGH // PAGE_SIZE, (HIGH + 4 * MIB) // PAGE_SIZE)][:256])
        for _ in range(50):
            front.add_region(extra)
            memoryview(extra)[:] = b"\xaa" * (4 * MIB)
            front.post(INFLATE_QUEUE, readable=pages)
            front.call(FrontendRequest.REM_MEM_REG, MemorySlot(front.region(extra)))
            # From here on the file is somebody else's.
            memoryview(extra)[:] = b"\xbb" * (4 * MIB)
            front.collect(INFLATE_QUEUE)
            assert os.pread(extra.fd, 4 * MIB, 0) == b"\xbb" * (4 * MIB)
        extra.close()


def test_C054_C134_it_goes_on_while_queues_stop_and_sessions_end(arena: Arena) -> None:
    with arena("balloon") as attack:
        for _ in range(10):
            front = attack.front_end(regions=[DriverRegion(32 * MIB, guest_address=16 * MIB)])
            front.bring_up(queues=5)
            everything = pack_page_numbers([*range(8192, 8192 + 2048)])
            for _ in range(5):
                front.post(INFLATE_QUEUE, readable=everything)
                front.post(STATS_QUEUE, readable=bytes(10))
                base = front.stop_ring(STATS_QUEUE)
                front.start_ring(STATS_QUEUE, base=base)
                front.collect(INFLATE_QUEUE)
            for _ in range(5):
                front.post(INFLATE_QUEUE, readable=everything)
            front.close()


def test_V012_gigabytes_of_page_numbers_and_of_free_pages(arena: Arena) -> None:
    with arena("balloon") as attack:
        attack.gigabytes({INFLATE_QUEUE: "read", REPORTING_QUEUE: "write"}, size=256)


def test_V005_free_pages_that_lie_in_no_memory(arena: Arena) -> None:
    with arena("balloon") as attack:
        front = attack.front_end()
        front.bring_up(queues=5)
        for queue in (FREE_PAGE_QUEUE, REPORTING_QUEUE):
            ring = front.rings[queue]
            for address in (0xDEAD_0000_0000, (1 << 64) - PAGE_SIZE):
                ring.add([], [(address, PAGE_SIZE)])
                ring.publish()
                ring.kick()
                front.collect(queue)
        attack.wait_in_log("memory that it does not have")


def test_configurations_that_make_no_sense(arena: Arena) -> None:
    with arena("balloon") as attack:
        front = attack.front_end()
        front.bring_up(queues=5)
        for data in (b"\xff" * 16, b"\xff" * 256, bytes(16)):
            front.call(FrontendRequest.SET_CONFIG, Config(0, data), need_reply=True)
        front.call(FrontendRequest.SET_CONFIG, Config(4, b"\xff" * 4), need_reply=True)
        taken(front, INFLATE_QUEUE, pack_page_numbers([0]))
