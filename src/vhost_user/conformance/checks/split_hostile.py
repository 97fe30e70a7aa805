"""Split rings that no honest driver makes: the ring may stop, no more may happen (V003 to V011, V021)."""

from __future__ import annotations

import struct
from collections.abc import Callable

from vhost_user.conformance.check import Level, check
from vhost_user.conformance.context import CheckContext
from vhost_user.conformance.findings import Deviation
from vhost_user.engine.driver.split import SplitDriverQueue
from vhost_user.frontend.queue import Queue
from vhost_user.protocol.errors import VhostUserError
from vhost_user.spec.features import VirtioFeature
from vhost_user.spec.ring import DescriptorFlag

ROBUSTNESS = Level.ROBUSTNESS
RING = "virtio 1.4, 2.7"
NEXT, WRITE, INDIRECT = DescriptorFlag.NEXT, DescriptorFlag.WRITE, DescriptorFlag.INDIRECT
INDIRECT_FEATURE = VirtioFeature.RING_INDIRECT_DESC
DESCRIPTOR = struct.Struct("<QIHH")
Prepare = Callable[[SplitDriverQueue, Queue, int], None]


def _hostile(
    context: CheckContext, what: str, *cases: Prepare, indirect: bool = False, answered: bool | None = None
) -> None:
    """Let the device look at what each of ``cases`` makes of a ring, and see that it survives.

    A case gets the ring, its queue, and the address of 64 KiB of buffers. ``answered`` False: the request
    must not come back as one that used bytes.
    """
    if indirect:
        context.need_feature(INDIRECT_FEATURE)
    for prepare in cases:
        driver = context.driver(indirect=indirect)
        queue = context.queue(driver)
        ring = queue.ring
        assert isinstance(ring, SplitDriverQueue)
        prepare(ring, queue, queue.memory.allocate(1 << 16, 4096))
        ring.kick(force=True)
        try:
            context.await_reaction(driver, queue)
            driver.frontend.barrier()
            if answered is False and ring.wait(context.quiet):
                identifier, length = ring.read_used(0)
                raise Deviation(f"{what}: buffer {identifier} is used with length {length}")
        except VhostUserError as error:
            raise Deviation(f"{what} ends the session: {error}") from error
        finally:
            context.drop(driver)
    context.alive(what)


def _offer(ring: SplitDriverQueue, *heads: int) -> None:
    for slot, head in enumerate(heads):
        ring.write_avail(slot, head)
    ring.set_avail_index(len(heads))


@check(
    "V003-index-jump",
    ROBUSTNESS,
    RING,
    "The driver never makes more requests available than there are descriptors.",
)
def index_jump(context: CheckContext) -> None:
    """An available index that jumps ahead of the ring does no harm."""

    def jump(ring: SplitDriverQueue, _queue: Queue, address: int) -> None:
        ring.write_descriptor(0, address, 64, WRITE)
        ring.set_avail_index(ring.size + 1)

    def back(ring: SplitDriverQueue, _queue: Queue, address: int) -> None:
        ring.write_descriptor(0, address, 64, WRITE)
        ring.set_avail_index(0xFFFF)

    _hostile(context, "an available index beyond the ring", jump, back)


@check("V004-head", ROBUSTNESS, RING, "Heads and next fields are below the size of the ring.")
def head(context: CheckContext) -> None:
    """A head beyond the ring does no harm and is not used."""

    def beyond(ring: SplitDriverQueue, _queue: Queue, _address: int) -> None:
        _offer(ring, ring.size)

    def far(ring: SplitDriverQueue, _queue: Queue, _address: int) -> None:
        _offer(ring, 0xFFFF)

    _hostile(context, "a head beyond the ring", beyond, far, answered=False)


@check("V004-next", ROBUSTNESS, RING, "Heads and next fields are below the size of the ring.")
def next_field(context: CheckContext) -> None:
    """A next field beyond the ring does no harm."""

    def beyond(ring: SplitDriverQueue, _queue: Queue, address: int) -> None:
        ring.write_descriptor(0, address, 16, NEXT, ring.size)
        _offer(ring, 0)

    _hostile(context, "a next field beyond the ring", beyond)


@check("V005-loop", ROBUSTNESS, RING, "A chain has an end.")
def loop(context: CheckContext) -> None:
    """A chain that leads back into itself does no harm."""

    def itself(ring: SplitDriverQueue, _queue: Queue, address: int) -> None:
        ring.write_descriptor(0, address, 16, NEXT, 0)
        _offer(ring, 0)

    def two(ring: SplitDriverQueue, _queue: Queue, address: int) -> None:
        ring.write_descriptor(0, address, 16, NEXT | WRITE, 1)
        ring.write_descriptor(1, address, 16, NEXT | WRITE, 0)
        _offer(ring, 0)

    _hostile(context, "a chain without end", itself, two)


@check(
    "V006-order",
    ROBUSTNESS,
    "virtio 1.4, 2.7.4.2",
    "Device-readable descriptors come before device-writable ones.",
)
def order(context: CheckContext) -> None:
    """A device-readable descriptor after a device-writable one does no harm."""

    def wrong(ring: SplitDriverQueue, _queue: Queue, address: int) -> None:
        ring.write_descriptor(0, address, 64, NEXT | WRITE, 1)
        ring.write_descriptor(1, address + 64, 64, NEXT, 2)
        ring.write_descriptor(2, address + 128, 64, WRITE, 0)
        _offer(ring, 0)

    _hostile(context, "descriptors in the wrong order", wrong)


@check(
    "V007-malformed",
    ROBUSTNESS,
    "virtio 1.4, 2.7.5.3.1",
    "An indirect table has whole descriptors, and no indirect ones in it.",
)
def malformed(context: CheckContext) -> None:
    """Malformed indirect tables do no harm."""

    def table(length: int, flags: int, *descriptors: bytes, at: int | None = None) -> Prepare:
        def prepare(ring: SplitDriverQueue, queue: Queue, address: int) -> None:
            queue.memory.write(address, b"".join(descriptors))
            ring.write_descriptor(0, address if at is None else at, length, flags, 1)
            ring.write_descriptor(1, address + 4096, 64, WRITE)
            _offer(ring, 0)

        return prepare

    one = DESCRIPTOR.pack(0x10002000, 64, WRITE, 0)
    _hostile(
        context,
        "a malformed indirect table",
        table(0, INDIRECT, one),
        table(15, INDIRECT, one),
        table(17, INDIRECT, one),
        table(16, INDIRECT | NEXT, one),
        table(16, INDIRECT, DESCRIPTOR.pack(0x10002000, 16, INDIRECT, 0)),
        table(16, INDIRECT, DESCRIPTOR.pack(0x10002000, 16, NEXT | WRITE, 9)),
        table(
            32, INDIRECT, DESCRIPTOR.pack(0x10002000, 16, NEXT, 1), DESCRIPTOR.pack(0x10002000, 16, NEXT, 0)
        ),
        table(0xFFFFFFF0, INDIRECT, one),
        table(16, INDIRECT, one, at=0x1000),
        table(64, INDIRECT, one, at=(1 << 64) - 32),
        indirect=True,
    )


@check("V010-empty-descriptor", ROBUSTNESS, "virtio 1.4, 2.7.5", "Descriptors of length 0 have no use.")
def empty_descriptor(context: CheckContext) -> None:
    """Descriptors of length 0 do no harm."""

    def only(ring: SplitDriverQueue, _queue: Queue, address: int) -> None:
        ring.write_descriptor(0, address, 0, WRITE)
        _offer(ring, 0)

    def nowhere(ring: SplitDriverQueue, _queue: Queue, _address: int) -> None:
        ring.write_descriptor(0, 0x1000, 0, NEXT, 1)
        ring.write_descriptor(1, (1 << 64) - 1, 0, WRITE)
        _offer(ring, 0)

    _hostile(context, "descriptors of length 0", only, nowhere)


@check("V011-unmapped", ROBUSTNESS, RING, "Buffers lie in guest memory.")
def unmapped(context: CheckContext) -> None:
    """Buffers outside of memory, across its end, and around 2^64 do no harm."""

    def at(address: int, length: int, flags: int = WRITE) -> Prepare:
        def prepare(ring: SplitDriverQueue, queue: Queue, buffer: int) -> None:
            readable = context.profile.readable()
            if readable:
                queue.memory.write(buffer, readable)
                ring.write_descriptor(0, buffer, len(readable), NEXT, 1)
            ring.write_descriptor(1 if readable else 0, address, length, flags)
            _offer(ring, 0)

        return prepare

    end = 0x10000000 + (4 << 20)
    _hostile(
        context,
        "a buffer outside of memory",
        at(0x1000, 513),
        at(end - 16, 513),
        at((1 << 64) - 256, 512),
        at(0x10001000, 0xFFFFFFFF),
        at(0xFFFFFFFFFFFFF000, 0xFFFFFFFF),
        at(0x1000, 64, 0),
    )


@check("V021-same-head", ROBUSTNESS, RING, "A buffer is made available again only after it came back.")
def same_head(context: CheckContext) -> None:
    """The same head several times at once does no harm (CVE-2026-45782)."""

    def twice(ring: SplitDriverQueue, queue: Queue, address: int) -> None:
        readable = context.profile.readable()
        if readable:
            queue.memory.write(address, readable)
            ring.write_descriptor(0, address, len(readable), NEXT, 1)
        ring.write_descriptor(1 if readable else 0, address + 4096, max(context.profile.writable(), 1), WRITE)
        _offer(ring, *([0] * 8))

    _hostile(context, "the same head several times", twice)


@check("H93-ring-as-buffer", ROBUSTNESS, RING, "Rings and buffers are different memory.")
def ring_as_buffer(context: CheckContext) -> None:
    """A buffer that is the ring itself does no harm."""

    def overlap(which: str) -> Prepare:
        def prepare(ring: SplitDriverQueue, queue: Queue, address: int) -> None:
            readable = context.profile.readable()
            if readable:
                queue.memory.write(address, readable)
                ring.write_descriptor(0, address, len(readable), NEXT, 1)
            size = max(context.profile.writable(), 1)
            ring.write_descriptor(1 if readable else 0, getattr(ring, which), size, WRITE)
            _offer(ring, 0)

        return prepare

    _hostile(
        context,
        "a buffer that is the ring itself",
        overlap("descriptor_address"),
        overlap("driver_address"),
        overlap("device_address"),
    )
