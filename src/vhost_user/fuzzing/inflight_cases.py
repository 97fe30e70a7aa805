"""Hostile in-flight areas: what a front-end hands over when a back-end comes back."""

from __future__ import annotations

import struct

from vhost_user.fuzzing.case import case
from vhost_user.fuzzing.layout import INFLIGHT, SIZE, kick, write
from vhost_user.fuzzing.sessions import CLOSE, SETTLE, Script
from vhost_user.fuzzing.steps import MEMORY_SIZE, Step
from vhost_user.spec.inflight import PACKED_DESCRIPTOR, PACKED_HEADER, SPLIT_DESCRIPTOR, SPLIT_HEADER, VERSION


def _area(script: Script, *, count: int = SIZE, last: int = 0, used: int = 0, mark: int = 1) -> bytes:
    """An area in which everything is in flight and each list leads back into itself."""
    if script.packed:
        header = PACKED_HEADER.pack(0, VERSION, count, last, last, used, used, 1, 1)
        header = header.ljust(32, b"\0")
        return header + PACKED_DESCRIPTOR.pack(mark, 0, last, count, 0, 0, 0, 0, 0) * SIZE
    return SPLIT_HEADER.pack(0, VERSION, count, last, used) + SPLIT_DESCRIPTOR.pack(mark, last, 0) * SIZE


def _each(script: Script, *areas: bytes) -> list[Step]:
    steps: list[Step] = []
    for area in areas:
        steps += [*script.up(inflight=area), *script.request(), SETTLE, CLOSE]
    return steps


@case("H20")
def last_batch(script: Script) -> list[Step]:
    """In-flight areas whose last batch or free list begins outside of them."""
    return _each(script, *(_area(script, last=last, used=1) for last in (SIZE, 0x8000, 0xFFFF)))


@case("H26")
def odd_marks(script: Script) -> list[Step]:
    """In-flight marks that are neither 0 nor 1 (CVE-2026-63110)."""
    return _each(script, *(_area(script, mark=mark) for mark in (1, 2, 0x80, 0xFF)))


@case("C107")
def sizes_that_change(script: Script) -> list[Step]:
    """In-flight areas that say another size than the message, at first or while rings run."""
    steps = _each(script, *(_area(script, count=count) for count in (0, 1, SIZE + 1, 0xFFFF)))
    steps += script.up(inflight=b"")
    for count in (0xFFFF, 0, 1):
        steps += [write(INFLIGHT + 10, struct.pack("=H", count), "size of the area"), *script.request()]
    return [*steps, kick(0), SETTLE, CLOSE]


@case("C115")
def area_that_goes(script: Script) -> list[Step]:
    """An in-flight area whose file is truncated while rings run."""
    steps = [*script.up(inflight=b""), *script.request(), {"op": "truncate", "size": INFLIGHT}]
    return [*steps, *script.request(), SETTLE, CLOSE, {"op": "truncate", "size": MEMORY_SIZE}]
