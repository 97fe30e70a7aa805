"""Requests in flight when a back-end ends, taken up by the next one (C109 to C117)."""

from __future__ import annotations

import os
import struct
from typing import Any

from vhost_user.conformance.check import Level, check
from vhost_user.conformance.context import CheckContext
from vhost_user.conformance.findings import Deviation
from vhost_user.engine.driver.packed import PackedDriverQueue
from vhost_user.engine.driver.split import SplitDriverQueue
from vhost_user.engine.errors import DeviceBroken
from vhost_user.frontend.driver import VirtioDriver
from vhost_user.frontend.inflight import Inflight
from vhost_user.frontend.queue import Pending, Queue
from vhost_user.spec.features import DeviceStatus, ProtocolFeature, VirtioFeature
from vhost_user.spec.inflight import (
    PACKED_DESCRIPTOR,
    PACKED_HEADER,
    PACKED_HEADER_SIZE,
    SPLIT_DESCRIPTOR,
    SPLIT_HEADER,
    SPLIT_HEADER_SIZE,
    VERSION,
    region_size,
)
from vhost_user.spec.ring import DescriptorFlag

MUST = Level.MUST
SECTION = "Inflight I/O tracking"
SIZE = 16


def _prepared(context: CheckContext, *, packed: bool) -> tuple[VirtioDriver, Queue, Inflight]:
    """Everything but running rings; nothing kicks them."""
    context.need(ProtocolFeature.INFLIGHT_SHMFD)
    if packed:
        context.need_feature(VirtioFeature.RING_PACKED)
    context.need_io()
    driver = context.driver(up=False, packed=packed, inflight=True, queue_size=SIZE, inject_kick=False)
    driver.introduce()
    area = driver.inflight
    if area is None:
        raise Deviation("GET_INFLIGHT_FD gives no area")
    return driver, context.queue(driver), area


def _run(driver: VirtioDriver, bases: dict[int, int]) -> None:
    for index in range(len(driver.queues)):
        driver.start_queue(index, base=bases.get(index))
    for index in range(len(driver.queues)):
        driver.enable_queue(index)
    driver.set_status(DeviceStatus.DRIVER_OK)


def _region(area: Inflight, queue: Queue, *, packed: bool) -> int:
    return area.offset + queue.index * region_size(area.queue_size, packed=packed)


def _finish(context: CheckContext, queue: Queue, first: Pending, second: Pending) -> None:
    """The first is answered and no other, and the ring goes on."""
    try:
        context.finish(first)
        if second.length not in {0, 1}:
            raise Deviation("a request that was answered before is answered again")
        context.exchange(queue, 2 * SIZE)
    except DeviceBroken as broken:
        raise Deviation(f"the ring makes no sense after the recovery: {broken}") from broken


@check(
    "C109-marks", MUST, SECTION,
    "What is taken from a ring is marked in the in-flight area, and the mark goes when it is answered.",
)  # fmt: skip
def marks(context: CheckContext) -> None:
    """At rest the in-flight area has no mark, and the used index of the ring."""
    driver, queue, area = _prepared(context, packed=False)
    _run(driver, {})
    context.exchange(queue, 3)
    ring: Any = queue.ring
    driver.stop_queue(queue.index)
    data = os.pread(area.fd, region_size(area.queue_size, packed=False), _region(area, queue, packed=False))
    _, version, count, _, used = SPLIT_HEADER.unpack_from(data)
    end = SPLIT_HEADER_SIZE + SPLIT_DESCRIPTOR.size * area.queue_size
    states = list(SPLIT_DESCRIPTOR.iter_unpack(data[SPLIT_HEADER_SIZE:end]))
    if version != VERSION or count != area.queue_size:
        raise Deviation(f"the area has version {version} for {count} descriptors after three requests")
    if marked := [head for head, state in enumerate(states) if state[0]]:
        raise Deviation(f"heads {marked} are still in flight after everything was answered")
    if used != ring.used_index:
        raise Deviation(f"the used index of the area is {used}, that of the ring {ring.used_index}")


@check(
    "C111-recovery", MUST, SECTION,
    "A split ring goes on behind what was in flight, which is submitted again, whatever SET_VRING_BASE says.",
)  # fmt: skip
def recovery(context: CheckContext) -> None:
    """The second of two requests was answered before: only the first is taken, without a kick."""
    driver, queue, area = _prepared(context, packed=False)
    first, second = context.submit(queue), context.submit(queue)
    ring = queue.ring
    assert isinstance(ring, SplitDriverQueue)
    start = ring.used_index
    heads = [ring.read_avail((start + number) % SIZE) for number in range(2)]
    ring.write_used(start % SIZE, heads[1], 0)
    ring.set_used_index(start + 1 & 0xFFFF)
    queue.reap()
    place = _region(area, queue, packed=False)
    os.pwrite(area.fd, SPLIT_HEADER.pack(0, VERSION, area.queue_size, heads[1], start + 1 & 0xFFFF), place)
    state = place + SPLIT_HEADER_SIZE + SPLIT_DESCRIPTOR.size * heads[0]
    os.pwrite(area.fd, SPLIT_DESCRIPTOR.pack(1, 0, 7), state)
    _run(driver, {queue.index: start + 1 & 0xFFFF})
    _finish(context, queue, first, second)


@check(
    "C113-saved-descriptors", MUST, SECTION,
    "Of a packed ring the saved descriptors are submitted again: those in the ring may be others by now.",
)  # fmt: skip
def saved_descriptors(context: CheckContext) -> None:
    """The same in a packed ring, where the answer stands in the place of the other request."""
    driver, queue, area = _prepared(context, packed=True)
    first, second = context.submit(queue), context.submit(queue)
    ring = queue.ring
    assert isinstance(ring, PackedDriverQueue)
    fetched: list[tuple[int, int, int, int]] = []
    while len(fetched) < SIZE:
        descriptor = ring.read_descriptor(len(fetched))
        if not descriptor[3] & DescriptorFlag.AVAILABLE:
            break
        fetched.append(descriptor)
    each = len(fetched) // 2
    used = DescriptorFlag.AVAILABLE | DescriptorFlag.USED
    ring.write_descriptor(0, 0, 0, fetched[-1][2], int(used))
    queue.reap()
    place = _region(area, queue, packed=True)
    size = area.queue_size
    header = (0, VERSION, size, each, each, each, each, 1, 1)
    os.pwrite(area.fd, PACKED_HEADER.pack(*header), place)
    for entry in range(size):
        address, length, identity, flags = fetched[entry] if entry < each else (0, 0, 0, 0)
        mine = (1, entry + 1, each - 1, each, 7) if entry == 0 else (0, entry + 1, 0, 0, 0)
        state = PACKED_DESCRIPTOR.pack(*mine, identity, flags, length, address)
        os.pwrite(area.fd, state, place + PACKED_HEADER_SIZE + PACKED_DESCRIPTOR.size * entry)
    _run(driver, {})
    _finish(context, queue, first, second)


@check(
    "C115-hostile-area", Level.ROBUSTNESS, SECTION,
    "Whatever an in-flight area says, the back-end goes on.",
)  # fmt: skip
def hostile_area(context: CheckContext) -> None:
    """Lists that lead nowhere or to themselves, and counts that are too large, harm nobody."""
    for number, fields in enumerate(
        ((VERSION, SIZE, 0xFFFF, 3), (VERSION, 0xFFFF, 0, 1), (VERSION, SIZE, 0, 9000), (0xFFFF, SIZE, 0, 0))
    ):
        driver, queue, area = _prepared(context, packed=False)
        data = struct.pack("=QHHHH", 0, *fields) + bytes([1]) * (area.size - 16)
        os.pwrite(area.fd, data, area.offset)
        _run(driver, {})
        queue.ring.kick(force=True)
        context.await_reaction(driver, queue)
        context.drop(driver)
        context.alive(f"hostile in-flight area {number}")


__all__ = ["hostile_area", "marks", "recovery", "saved_descriptors"]
