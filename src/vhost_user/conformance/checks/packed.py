"""Packed rings (V024 to V038)."""

from __future__ import annotations

import select
from typing import Any

from vhost_user.conformance.check import Level, check
from vhost_user.conformance.context import CheckContext
from vhost_user.conformance.findings import Deviation
from vhost_user.conformance.raw_requests import await_used, bytewise, complete, layout
from vhost_user.engine.driver.packed import PackedDriverQueue
from vhost_user.frontend.driver import VirtioDriver
from vhost_user.frontend.queue import Queue
from vhost_user.protocol.errors import VhostUserError
from vhost_user.spec.features import VirtioFeature
from vhost_user.spec.ring import DescriptorFlag, EventFlag, pack_base, unpack_base

MUST, SHOULD, ROBUSTNESS = Level
RING = "virtio 1.4, 2.8"
NEXT, WRITE, INDIRECT = DescriptorFlag.NEXT, DescriptorFlag.WRITE, DescriptorFlag.INDIRECT
AVAILABLE = DescriptorFlag.AVAILABLE


def _packed(context: CheckContext, **options: Any) -> tuple[VirtioDriver, Queue, PackedDriverQueue]:
    context.need_feature(VirtioFeature.RING_PACKED)
    driver, queue = context.serving(packed=True, **options)
    ring = queue.ring
    assert isinstance(ring, PackedDriverQueue)
    return driver, queue, ring


@check("V024-wrap", MUST, RING, "Wrap counters begin at 1 and change whenever the end of the ring is passed.")
def wrap(context: CheckContext) -> None:
    """A packed ring works several times around."""
    _, queue, _ = _packed(context, queue_size=8)
    context.exchange(queue, 30)


@check("V024-any-size", MUST, RING, "A packed ring has any size, not just powers of two.")
def any_size(context: CheckContext) -> None:
    """A packed ring of seven descriptors works."""
    _, queue, _ = _packed(context, queue_size=7)
    context.exchange(queue, 20)


@check(
    "V029-chain-offsets",
    MUST,
    "virtio 1.4, 2.8.6",
    "A chain may begin anywhere and go on over the end of the ring.",
)
def chain_offsets(context: CheckContext) -> None:
    """Chains of three descriptors work at every offset of the ring."""
    _, queue, _ = _packed(context, queue_size=8)
    context.need_answer()
    size = context.profile.writable()
    readable = context.profile.readable()
    for _ in range(20):
        context.exchange(queue, readable=[readable] if readable else b"", writable=[1, 1, size - 2])


@check("V023-packed-many", MUST, RING, "Every buffer comes back exactly once.")
def many(context: CheckContext) -> None:
    """Many requests at once in a packed ring all come back, each once."""
    _, queue, _ = _packed(context, queue_size=128)
    for _ in range(4):
        several = [context.submit(queue, publish=False) for _ in range(32)]
        queue.publish()
        for pending in several:
            context.finish(pending)


@check(
    "V030-indirect",
    MUST,
    "virtio 1.4, 2.8.7",
    "A chain may be in an indirect table, which takes one descriptor.",
)
def indirect(context: CheckContext) -> None:
    """Indirect tables work in a packed ring."""
    context.need_feature(VirtioFeature.RING_INDIRECT_DESC)
    _, queue, ring = _packed(context, indirect=True)
    readable, writable, answer, size = layout(context, queue)
    for _ in range(3):
        ring.add(readable, bytewise(writable, 5), indirect=True)
        complete(context, queue, answer, size)


@check(
    "V033-no-call",
    SHOULD,
    "virtio 1.4, 2.8.10",
    "With the driver's event flags at DISABLE the device does not signal.",
)
def no_call(context: CheckContext) -> None:
    """A packed ring is not signalled when the driver does not want it."""
    driver, queue, ring = _packed(context)
    context.exchange(queue)
    ring.set_driver_event(0, EventFlag.DISABLE)
    ring.call_count()
    pending = context.submit(queue)
    await_used(context, queue, pending)
    driver.frontend.barrier()
    if ring.call_count():
        raise Deviation("the call is signalled although the driver has switched it off")
    ring.set_driver_event(0, EventFlag.ENABLE)
    pending = context.submit(queue)
    if not select.select([ring.call_fd], [], [], context.timeout)[0]:
        raise Deviation("a used buffer is not signalled although the driver wants it")
    context.finish(pending)


@check(
    "V033-event-index",
    MUST,
    "virtio 1.4, 2.8.10",
    "With EVENT_IDX the driver names the descriptor at which it wants a signal.",
)
def event_index(context: CheckContext) -> None:
    """With EVENT_IDX no signal is lost on a packed ring."""
    context.need_feature(VirtioFeature.RING_EVENT_IDX)
    _, queue, _ = _packed(context, event_idx=True, queue_size=16)
    for burst in (1, 3, 2, 5, 1, 4) * 5:
        several = [context.submit(queue) for _ in range(burst)]
        for pending in several:
            context.finish(pending)


@check(
    "C057-packed-base",
    MUST,
    "Front-end message types: GET_VRING_BASE",
    "The base of a packed ring has both positions and both wrap counters.",
)
def packed_base(context: CheckContext) -> None:
    """The base of a packed ring is told as it was set, and counts on from there."""
    context.need_feature(VirtioFeature.RING_PACKED)
    wanted = VirtioFeature.VERSION_1 | VirtioFeature.PROTOCOL_FEATURES | VirtioFeature.RING_PACKED
    frontend = context.session(features=int(wanted))
    frontend.set_vring_num(0, 16)
    for value in (0x80008000, 0x00050005, 0x800F800F):
        frontend.set_vring_base(0, value)
        told = frontend.get_vring_base(0)
        if told != value:
            raise Deviation(
                f"SET_VRING_BASE {value:#x} on a ring that never ran, GET_VRING_BASE tells {told:#x}"
            )
    frontend.close()
    if not context.profile.works:
        return
    start = pack_base(6, available_wrap=False, used=6, used_wrap=False)
    driver, queue, _ = _packed(context, queue_size=8, start=start)
    context.exchange(queue, 5, indirect=False)
    told = driver.stop_queue(queue.index)
    per_request = bool(context.profile.readable()) + bool(context.profile.writable())
    position = 6 + 5 * per_request
    expected = (position % 8, bool(position // 8 % 2), position % 8, bool(position // 8 % 2))
    if unpack_base(told) != expected:
        raise Deviation(f"from index 6, after {5 * per_request} descriptors, the base is {unpack_base(told)}")


@check(
    "C060-packed-restart",
    MUST,
    "Ring states",
    "A stopped ring may be started again and goes on from its base.",
)
def restart(context: CheckContext) -> None:
    """A packed ring that was stopped goes on where it stopped."""
    driver, queue, _ = _packed(context, queue_size=8)
    for _ in range(4):
        context.exchange(queue, 3)
        base = driver.stop_queue(queue.index)
        driver.start_queue(queue.index, base=base)
        driver.enable_queue(queue.index)
    context.exchange(queue, 3)


@check(
    "V031-hostile",
    ROBUSTNESS,
    RING,
    "Buffer ids, lengths and chains are the driver's word, and may be wrong.",
)
def hostile(context: CheckContext) -> None:
    """Malformed packed rings do no harm."""
    context.need_feature(VirtioFeature.RING_PACKED)
    context.need_io()
    features = context.facts.features & VirtioFeature.RING_INDIRECT_DESC
    for address, length, identifier, flags in (
        (0x1000, 64, 0, AVAILABLE | WRITE),
        (0x10100000, 64, 0xFFFF, AVAILABLE | WRITE),
        (0x10100000, 0, 0, AVAILABLE | WRITE),
        (0x10100000, 16, 0, AVAILABLE | NEXT),
        (0x10100000, 0, 0, AVAILABLE | INDIRECT),
        (0x10100000, 15, 0, AVAILABLE | INDIRECT),
        ((1 << 64) - 16, 64, 0, AVAILABLE | INDIRECT),
        ((1 << 64) - 16, 0xFFFFFFFF, 0, AVAILABLE | WRITE),
    ):
        driver, queue, ring = _packed(context, queue_size=8, indirect=bool(features))
        for slot in reversed(range(8)):
            ring.write_descriptor(slot, address, length, identifier, flags)
        ring.kick(force=True)
        try:
            context.await_reaction(driver, queue)
            driver.frontend.barrier()
        except VhostUserError as error:
            raise Deviation(f"a malformed packed ring ends the session: {error}") from error
        context.drop(driver)
    context.alive("malformed packed rings")
