"""Hostile rings: what a malicious driver in the guest writes."""

from __future__ import annotations

import struct

from vhost_user.fuzzing.case import case
from vhost_user.fuzzing.layout import (
    BUFFERS,
    SIZE,
    Area,
    chain,
    descriptor,
    event,
    guest,
    heads,
    kick,
    packed_descriptor,
    user,
    write,
)
from vhost_user.fuzzing.sessions import CLOSE, SETTLE, Script
from vhost_user.fuzzing.steps import MEMORY_SIZE, Step, repeat
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.ring import DESCRIPTOR, DescriptorFlag
from vhost_user.spec.structs import Memory, MemoryRegion, VringAddress

NEXT, WRITE, INDIRECT = DescriptorFlag.NEXT, DescriptorFlag.WRITE, DescriptorFlag.INDIRECT
AVAILABLE = DescriptorFlag.AVAILABLE
TOP = 1 << 64


def _queue(script: Script) -> int:
    return min(script.profile.queue, script.queues - 1)


def _each(script: Script, *rings: list[Step]) -> list[Step]:
    """A session for each: up, the ring as given, a kick."""
    steps = []
    for ring in rings:
        steps += [*script.up(), *ring, kick(_queue(script)), SETTLE, CLOSE]
    return steps


def _parts(script: Script, *parts: tuple[int, int, bool]) -> list[Step]:
    """A request with the device's header in front and these parts."""
    readable = script.profile.readable() or b"\0"
    head = write(BUFFERS, readable, "request")
    return [
        head,
        *chain([(guest(BUFFERS), len(readable), False), *parts], packed=script.packed, queue=_queue(script)),
    ]


@case("H01")
def across_regions(script: Script) -> list[Step]:
    """Buffers across the border of two regions that are neighbours in the guest only (CVE-2018-1059)."""
    half = MEMORY_SIZE // 2
    table = Memory(
        (
            MemoryRegion(guest(0), half, user(0), 0),
            MemoryRegion(guest(half), half, 0x7F7000000000, 0),
        )
    )
    steps = script.up()
    steps.append(script.message(FrontendRequest.SET_MEM_TABLE, table, ["memory", "memfd:1048576"]))
    return [*steps, *_parts(script, (guest(half - 16), 513, True)), kick(_queue(script)), SETTLE]


@case("H07")
def empty_and_nowhere(script: Script) -> list[Step]:
    """Descriptors of length 0 at addresses that do not exist (CVE-2020-10725)."""
    return _each(
        script,
        _parts(script, (0x1000, 0, True)),
        _parts(script, (TOP - 1, 0, True), (guest(BUFFERS + 4096), 64, True)),
        chain([(0, 0, False), (0, 0, True)], packed=script.packed, queue=_queue(script)),
    )


@case("H10")
def changing_descriptors(script: Script) -> list[Step]:
    """Descriptors that change while they are read (CVE-2020-14375)."""
    queue = _queue(script)
    if script.packed:
        flip = [
            packed_descriptor(0, guest(BUFFERS), 64, 0, AVAILABLE | WRITE, queue=queue), kick(queue),
            packed_descriptor(0, TOP - 64, 0xFFFFFFFF, 0xFFFF, AVAILABLE | WRITE | NEXT, queue=queue),
        ]  # fmt: skip
    else:
        flip = [
            descriptor(0, guest(BUFFERS), 64, WRITE, queue=queue), *heads(0, 0, 0, 0, queue=queue),
            kick(queue),
            descriptor(0, TOP - 64, 0xFFFFFFFF, WRITE | NEXT, 0, queue=queue),
            *heads(0xFFFF, index=9, queue=queue),
        ]  # fmt: skip
    return [*script.up(), repeat(100, *flip), SETTLE]


@case("H11")
def long_chains(script: Script) -> list[Step]:
    """Chains as long as the ring, one longer, and of 4 GiB each descriptor (H57)."""
    queue = _queue(script)
    whole = [(guest(BUFFERS + 0x100 * i), 0x100, i > 0) for i in range(SIZE)]
    huge = [(guest(BUFFERS), 0xFFFFFFFF, i > 0) for i in range(SIZE)]
    endless = [
        packed_descriptor(i, guest(BUFFERS), 16, 0, AVAILABLE | NEXT, queue=queue)
        if script.packed
        else descriptor(i, guest(BUFFERS), 16, NEXT, (i + 1) % SIZE, queue=queue)
        for i in reversed(range(SIZE))
    ]
    if not script.packed:
        endless += heads(0, queue=queue)
    return _each(
        script,
        chain(whole, packed=script.packed, queue=queue),
        chain(huge, packed=script.packed, queue=queue),
        endless,
    )


@case("H14")
def cut_requests(script: Script) -> list[Step]:
    """Requests in descriptors of one byte, too short, with nothing to write (CVE-2022-2132)."""
    queue = _queue(script)
    readable = script.profile.readable() or bytes(8)
    single = [(guest(BUFFERS + i), 1, False) for i in range(min(len(readable), SIZE - 1))]
    return _each(
        script,
        chain([*single, (guest(BUFFERS + 4096), 513, True)], packed=script.packed, queue=queue),
        chain([(guest(BUFFERS), 1, False)], packed=script.packed, queue=queue),
        chain([(guest(BUFFERS), 1, True)], packed=script.packed, queue=queue),
        chain([(guest(BUFFERS), 16, False)], packed=script.packed, queue=queue),
    )


@case("H25")
def indirect_tables(script: Script) -> list[Step]:
    """Indirect tables: empty, odd, nested, endless, across the end of memory (CVE-2026-6425, H41)."""
    queue = _queue(script)
    inner = DESCRIPTOR.pack(guest(BUFFERS + 4096), 64, WRITE, 0)
    nested = DESCRIPTOR.pack(guest(BUFFERS), 16, INDIRECT, 0)
    endless = DESCRIPTOR.pack(guest(BUFFERS + 4096), 16, NEXT, 0)
    far = DESCRIPTOR.pack(guest(BUFFERS + 4096), 16, NEXT, 0xFFFF)
    rings = []
    for content, address, length, flags in (
        (inner, guest(BUFFERS), 0, INDIRECT),
        (inner, guest(BUFFERS), 15, INDIRECT),
        (inner, guest(BUFFERS), 16, INDIRECT | NEXT),
        (inner, guest(BUFFERS), 16, INDIRECT | WRITE),
        (nested, guest(BUFFERS), 16, INDIRECT),
        (endless, guest(BUFFERS), 16, INDIRECT),
        (far, guest(BUFFERS), 32, INDIRECT),
        (inner * 64, guest(BUFFERS), 16 * 64, INDIRECT),
        (inner, guest(MEMORY_SIZE - 16), 64, INDIRECT),
        (inner, TOP - 16, 64, INDIRECT),
        (inner, guest(BUFFERS), 0xFFFFFFF0, INDIRECT),
    ):
        table = write(BUFFERS, content, "indirect table")
        if script.packed:
            rings.append([table, packed_descriptor(0, address, length, 0, flags | AVAILABLE, queue=queue)])
        else:
            rings.append(
                [table, descriptor(0, address, length, flags, 1, queue=queue), *heads(0, queue=queue)]
            )
    return _each(script, *rings)


@case("H44")
def same_buffers(script: Script) -> list[Step]:
    """The same request many times at once, more than the ring holds (CVE-2016-5403, H71)."""
    queue = _queue(script)
    request = script.request()[:-1]
    if script.packed:
        more = [
            packed_descriptor(i, guest(BUFFERS), 64, 0, AVAILABLE | WRITE, queue=queue)
            for i in reversed(range(SIZE))
        ]
    else:
        more = heads(*([0] * SIZE), queue=queue)
    return _each(script, [*request, *more])


@case("H58")
def odd_identifiers(script: Script) -> list[Step]:
    """Heads and buffer ids beyond the ring (H79)."""
    queue = _queue(script)
    rings = []
    for number in (SIZE, SIZE + 1, 0x7FFF, 0x8000, 0xFFFF):
        if script.packed:
            rings.append([packed_descriptor(0, guest(BUFFERS), 64, number, AVAILABLE | WRITE, queue=queue)])
        else:
            rings.append(heads(number, queue=queue))
    return _each(script, *rings)


@case("H59")
def index_jumps(script: Script) -> list[Step]:
    """The available index ahead of the ring, and back (H66)."""
    queue = _queue(script)
    if script.packed:
        toggled = [
            packed_descriptor(i, guest(BUFFERS), 64, i, flags, queue=queue)
            for flags in (DescriptorFlag.USED, AVAILABLE | DescriptorFlag.USED, AVAILABLE)
            for i in range(SIZE)
        ]
        return _each(script, toggled)
    jumps = [heads(0, index=index, queue=queue) for index in (SIZE + 1, 0x8000, 0xFFFF)]
    return _each(script, *jumps, [*script.request(), SETTLE, *heads(0, index=0xFFFF, queue=queue)])


@case("H78")
def addresses_that_wrap(script: Script) -> list[Step]:
    """Buffers that wrap around 2^64, leave memory, or lie nowhere (H46, H75)."""
    places = [
        (TOP - 256, 512), (TOP - 1, 1), (guest(MEMORY_SIZE) - 1, 2), (0x1000, 512), (guest(0) - 1, 2), (0, 1),
        (guest(BUFFERS), 0xFFFFFFFF),
    ]  # fmt: skip
    return _each(script, *(_parts(script, (address, length, True)) for address, length in places))


@case("H76")
def block_ranges(script: Script) -> list[Step]:
    """Block requests of every type at sectors that overflow, with odd segments (H73, H47, H72)."""
    queue = _queue(script)
    rings = []
    for kind in (*range(28), 0x100, 0x80000000, 0xFFFFFFFF):
        for sector in (0, (1 << 55), TOP - 1):
            header = write(BUFFERS, struct.pack("<IIQ", kind, 0xFFFFFFFF, sector), "block header")
            segment = write(
                BUFFERS + 16, struct.pack("<QII", TOP - 1, 0xFFFFFFFF, 0xFFFFFFFF) * 3, "segments"
            )
            parts = [(guest(BUFFERS), 16 + 40, False), (guest(BUFFERS + 4096), 33, True)]
            rings += [header, segment, *chain(parts, packed=script.packed, queue=queue), kick(queue), SETTLE]
    return [*script.up(), *rings[:400], CLOSE, *_each(script, rings[400:])]


@case("H93")
def rings_upon_each_other(script: Script) -> list[Step]:
    """The parts of a ring upon each other and upon the buffers, so that it rewrites itself."""
    queue = _queue(script)
    area = Area(queue)
    rings = []
    for used, available in (
        (area.descriptors, area.available),
        (area.available, area.available),
        (area.used, area.used),
    ):
        addresses = VringAddress(queue, 0, user(area.descriptors), user(used), user(available))
        rings.append(
            [script.message(FrontendRequest.SET_VRING_ADDR, addresses), *script.request(), kick(queue, 3)]
        )
    own = [
        _parts(script, (guest(place), 513, True)) for place in (area.descriptors, area.available, area.used)
    ]
    return _each(script, *rings, *own)


@case("H82")
def endless_work(script: Script) -> list[Step]:
    """Requests and kicks as fast as they come, with events asked for at every place."""
    queue = _queue(script)
    steps = script.up()
    for number in range(40):
        steps += script.request(at=0)[:-1]
        if script.packed:
            steps.append(event(number | 0x8000 * (number & 1), number % 4, queue=queue))
        else:
            steps += heads(*([0] * SIZE), index=number, flags=number & 1, queue=queue)
        steps.append(kick(queue, 20))
    return [*steps, SETTLE]


@case("H100")
def valid_session(script: Script) -> list[Step]:
    """A valid session, to see that nothing else is wrong."""
    return script.whole()
