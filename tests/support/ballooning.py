"""Balloons under test: a driver of one, and what its memory takes of the host."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

from vhost_user.frontend import BalloonDriver
from vhost_user.spec.balloon import PAGE_SIZE

MIB = 1 << 20
Drive = Callable[..., BalloonDriver]


def blocks(driver: BalloonDriver) -> int:
    """Bytes of the host that the driver's memory takes, rings and requests included."""
    return sum(os.fstat(region.fd).st_blocks * 512 for region in driver.memory.regions)


def resident(driver: BalloonDriver, address: int, size: int) -> int:
    """Bytes of the host that this part of it takes."""
    (region,) = driver.memory.regions
    begin = address - region.guest_address + region.file_offset
    end, found = begin + size, 0
    while begin < end:
        try:
            data = os.lseek(region.fd, begin, os.SEEK_DATA)
        except OSError:  # there is none after it
            break
        begin = os.lseek(region.fd, data, os.SEEK_HOLE)
        found += max(0, min(begin, end) - data)
    return found


def filled(driver: BalloonDriver, size: int) -> int:
    """Memory that the guest has used, at a border of 4 MiB."""
    address = driver.memory.allocate(size, 4 * MIB)
    driver.memory.fill(address, size, 0xAA)
    return address


def pages_of(address: int, size: int) -> range:
    return range(address, address + size, PAGE_SIZE)


def wait(coroutine: Any) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 10))
