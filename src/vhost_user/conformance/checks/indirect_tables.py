"""Indirect tables that are longer than their ring, and those that nobody agreed on (V007, V008, V030).

The specification bounds a chain by the ring, and drivers do not keep to it: Linux fills a table with as many
segments as the device allows (126 and more), on a ring of 16 as well, Windows drivers up to 515. Every known
device takes them.
"""

from __future__ import annotations

import struct

from vhost_user.conformance.check import Level, check
from vhost_user.conformance.context import CheckContext
from vhost_user.conformance.findings import Deviation
from vhost_user.conformance.raw_requests import bytewise, complete, layout
from vhost_user.engine.driver.split import SplitDriverQueue
from vhost_user.protocol.errors import VhostUserError
from vhost_user.spec.features import VirtioFeature
from vhost_user.spec.ring import DESCRIPTOR, DescriptorFlag

MUST, SHOULD, ROBUSTNESS = Level
NEXT, WRITE, INDIRECT = DescriptorFlag.NEXT, DescriptorFlag.WRITE, DescriptorFlag.INDIRECT
RING = 16
"""Descriptors in the ring of these checks."""
LENGTHS = (RING + 1, 126, 1024)
"""Descriptors in a table: one too many, those of Linux's block driver, the most that is usual."""
STATEMENT = (
    "A chain is no longer than the ring, says the specification. Drivers put as many descriptors into an "
    "indirect table as the device takes segments, however small the ring is; 1,024 are taken everywhere."
)


def _long_tables(context: CheckContext, *, packed: bool) -> None:
    context.need_feature(VirtioFeature.RING_INDIRECT_DESC)
    context.need_answer()
    driver = context.driver(indirect=True, queue_size=RING, packed=packed)
    queue = context.queue(driver)
    for entries in LENGTHS:
        size = context.profile.larger(entries)
        readable, writable, answer, size = layout(context, queue, size=size)
        pieces = bytewise(writable, entries - len(readable) - 1)
        queue.ring.add(readable, pieces, indirect=True)
        try:
            complete(context, queue, answer, size)
        except Deviation as deviation:
            raise Deviation(
                f"a table of {entries} descriptors on a ring of {RING}: {deviation}"
            ) from deviation


@check("V008-long-table", SHOULD, "virtio 1.4, 2.7.5.3.1", STATEMENT)
def long_table(context: CheckContext) -> None:
    """Indirect tables of 17, 126 and 1,024 descriptors work on a ring of 16."""
    _long_tables(context, packed=False)


@check("V030-long-table", SHOULD, "virtio 1.4, 2.8.7", STATEMENT)
def packed_long_table(context: CheckContext) -> None:
    """Indirect tables of 17, 126 and 1,024 descriptors work on a packed ring of 16."""
    context.need_feature(VirtioFeature.RING_PACKED)
    _long_tables(context, packed=True)


@check(
    "V007-not-negotiated",
    ROBUSTNESS,
    "virtio 1.4, 2.7.5.3.1",
    "Indirect descriptors are used only when INDIRECT_DESC was negotiated. Older Windows drivers do it all "
    "the same: a device serves them, as its peers do, or stops the ring.",
)
def not_negotiated(context: CheckContext) -> None:
    """An indirect table that was not negotiated is served, or refused, and does no harm."""
    what = "an indirect table that was not negotiated"
    driver = context.driver(indirect=False)
    queue = context.queue(driver)
    ring = queue.ring
    assert isinstance(ring, SplitDriverQueue)
    readable, writable, answer, size = layout(context, queue)
    segments = [(*each, 0) for each in readable] + [(*each, int(WRITE)) for each in writable]
    segments = segments or [(queue.memory.allocate(4096, 4096), 64, int(WRITE))]
    table = b"".join(
        DESCRIPTOR.pack(address, length, flags | (NEXT if number < len(segments) else 0), number)
        for number, (address, length, flags) in enumerate(segments, 1)
    )
    place = queue.memory.allocate(len(table), 16)
    queue.memory.write(place, table)
    ring.write_descriptor(0, place, len(table), INDIRECT)
    ring.write_avail(0, 0)
    ring.set_avail_index(1)
    ring.kick(force=True)
    try:
        context.await_reaction(driver, queue)
        driver.frontend.barrier()
    except VhostUserError as error:
        raise Deviation(f"{what} ends the session: {error}") from error
    (used,) = struct.unpack("<H", queue.memory.read(ring.device_address + 2, 2))
    if used and context.profile.works:
        _, length = ring.read_used(0)
        context.profile.verify(queue.memory.read(answer, size), length)
    context.drop(driver)
    context.alive(what)
