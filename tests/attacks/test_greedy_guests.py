"""Guests that ask for more than there is, and devices that make it easy for them.

V005, V011, V012, C039, C054, C134, H57, H82, H85.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.front_end import FrontEnd
from vhost_user.engine.driver.memory import DriverRegion
from vhost_user.engine.driver.split import SplitDriverQueue

Arena = Callable[..., Any]
VICTIMS = Path(__file__).with_name("victims.py")
PAGE = 4096


def post(front: FrontEnd, inputs: list[tuple[int, int]], outputs: list[tuple[int, int]]) -> None:
    ring: SplitDriverQueue = front.rings[0]
    ring.add(inputs, outputs)
    ring.publish()


@pytest.mark.parametrize("victim", [f"{VICTIMS}:Filler", f"{VICTIMS}:Reader"], ids=["writes", "reads"])
def test_V012_C134_gigabytes_in_a_chain_end_with_their_session(arena: Arena, victim: str) -> None:
    writes = "Filler" in victim
    with arena(victim) as attack:
        attack.gigabytes({0: "write" if writes else "read"}, size=8192, await_one=writes)
        # The fixture: the next front-end is served within ten seconds, and the memory is back.


def test_V011_a_chain_across_hundreds_of_regions_is_cut_off(arena: Arena) -> None:
    count = 400
    with arena("blk-python") as attack:
        rings = DriverRegion(1 << 20, guest_address=1 << 40, user_address=1 << 44)
        front = attack.front_end(regions=[rings])
        front.negotiate()
        front.share_memory()
        regions = [
            DriverRegion(
                PAGE, guest_address=(1 << 30) + PAGE * number, user_address=(1 << 32) + PAGE * number
            )
            for number in range(count)
        ]
        try:
            for region in regions:
                front.add_region(region)
            front.start_ring(size=1024)
            for _ in range(4):
                post(front, [(1 << 30, PAGE * count)] * 120, [(1 << 30, PAGE * count)] * 120)
            front.rings[0].kick()
            attack.wait_in_log("the driver broke a rule")
            assert attack.megabytes() < 200
        finally:
            front.close()
            for region in regions:
                region.close()


def test_C054_requests_that_a_device_loses_in_a_cycle_come_back(arena: Arena) -> None:
    with arena(f"{VICTIMS}:Forgetful") as attack:
        front = attack.front_end()
        front.bring_up()
        for _ in range(8):
            front.post(writable=8)
        for _ in range(8):
            assert front.collect()[1] == 0
        assert front.stop_ring() == 8


def test_C134_coroutines_that_do_not_end_keep_neither_the_session_nor_the_program(arena: Arena) -> None:
    with arena(f"{VICTIMS}:Stubborn") as attack:
        front = attack.front_end()
        front.bring_up()
        for _ in range(4):
            front.post(writable=8)
        attack.wait_in_log("begun with head 3")
        front.close()
        attack.wait_in_log("did not end when it was cancelled")


def test_a_handler_that_exits_fails_its_request_and_nothing_else(arena: Arena) -> None:
    with arena(f"{VICTIMS}:Exiting") as attack:
        front = attack.front_end()
        front.bring_up()
        for _ in range(3):
            front.post(writable=8)
            assert front.collect()[1] == 0


def test_C039_H85_memory_that_vanishes_while_all_signals_are_blocked(arena: Arena) -> None:
    with arena(f"{VICTIMS}:Masked") as attack:
        region = DriverRegion(8 << 20, guest_address=1 << 30, seal=False)
        rings = DriverRegion(1 << 20, guest_address=1 << 40, user_address=1 << 44)
        front = attack.front_end(regions=[rings, region])
        front.negotiate()
        front.share_memory()
        front.start_ring()
        os.ftruncate(region.fd, 0)
        post(front, [], [(1 << 30, 8 << 20)])
        front.rings[0].kick()
        attack.wait_in_log("took its memory away")
