"""What real front-ends and guests do, driven too far: odd bases, sockets, long tables, plugging again."""

from __future__ import annotations

from vhost_user.fuzzing.case import case
from vhost_user.fuzzing.layout import BUFFERS, TABLE, Area, chain, guest, indirect, kick, write
from vhost_user.fuzzing.sessions import CLOSE, REGION, SETTLE, Script
from vhost_user.fuzzing.steps import GUEST, MEMORY_SIZE, USER, Step, repeat, send
from vhost_user.protocol.framing import encode
from vhost_user.spec.features import ProtocolFeature
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.ring import DESCRIPTOR, DescriptorFlag
from vhost_user.spec.structs import U64, Memory, MemoryRegion, MemorySlot, VringState

REQUEST = FrontendRequest
NEXT, WRITE = DescriptorFlag.NEXT, DescriptorFlag.WRITE
FULL = 0xFFFFFFFF


def _queue(script: Script) -> int:
    return min(script.profile.queue, script.queues - 1)


@case("C057")
def bases(script: Script) -> list[Step]:
    """Bases of every kind: no used half, beyond the ring, halves that differ, 0 on a used ring."""
    steps = []
    for base in (
        0, 0x8000, 0x0001, 0x8001, 0x800F, 0x0010, 0x8010, 0x7FFF, 0xFFFF, 0x80000000, 0x80008001, 0x80018000,
        0x00008000, 0x7FFF7FFF, 0xFFFF8000, FULL,
    ):  # fmt: skip
        steps += [*script.up(base=base), *script.request(), SETTLE, *script.stop(), CLOSE]
    used = [*script.up(), *script.request(), SETTLE, *script.stop()]
    return [
        *steps,
        *used,
        *script.ring(_queue(script), base=0),
        *script.enable(),
        kick(_queue(script)),
        SETTLE,
    ]


@case("C067")
def socket_doorbells(script: Script) -> list[Step]:
    """Socket pairs as doorbells: kicked without end, full, closed while requests run, and shut down."""
    queue = _queue(script)
    up = script.up(sockets=True)
    request = script.request()[:-1]
    full = [
        script.message(REQUEST.SET_VRING_CALL, U64(queue), [kind])
        for kind in ("full-socket", "full-pipe", "full-eventfd", "terminal", "path")
    ]
    steps = [*up, *request, kick(queue, 500, by="socket"), SETTLE, *script.extras(), CLOSE]
    for each in full:
        steps += [*up, each, *request, kick(queue, by="socket"), SETTLE, *script.extras(), SETTLE, CLOSE]
    for kind in ("full-socket", "full-pipe", "terminal", "path"):
        odd = [
            script.message(each, U64(queue), [kind])
            for each in (REQUEST.SET_VRING_KICK, REQUEST.SET_VRING_ERR)
        ]
        steps += [*up, *odd, *request, SETTLE, *script.extras(), SETTLE, CLOSE]
    return steps


@case("C024")
def enabled_first(script: Script) -> list[Step]:
    """Rings enabled, disabled and enabled before any features, before memory, and before they exist."""
    beyond = [
        script.message(REQUEST.SET_VRING_ENABLE, VringState(index, value))
        for index, value in ((0, 2), (script.facts.num_queues, 1), (0x10000, 1), (FULL, FULL))
    ]
    early = script.negotiation()
    storms = [
        step
        for at in range(1, len(early))
        for step in (*early[:at], *script.enable(), *beyond, *early[at:], CLOSE)
    ]
    rings = [*script.up(enable_first=True), *script.request(), SETTLE, *script.down()]
    return [*storms, *rings]


@case("C094")
def acks_from_the_start(script: Script) -> list[Step]:
    """Acks asked for from the first message on, and protocol features changed back and forth."""
    if not script.offers(ProtocolFeature.REPLY_ACK):
        return []
    on = script.message(REQUEST.SET_PROTOCOL_FEATURES, U64(script.protocol))
    off = script.message(
        REQUEST.SET_PROTOCOL_FEATURES, U64(script.protocol & ~int(ProtocolFeature.REPLY_ACK))
    )
    asking = send(encode(REQUEST.GET_FEATURES, 9))
    steps = [*script.negotiation()[:1], script.message(REQUEST.SET_OWNER), asking, on, asking]
    return [*steps, repeat(50, off, on, asking), *script.up()[1:], repeat(20, off, on), *script.request()]


@case("C133")
def messages_for_doorbells(script: Script) -> list[Step]:
    """Kicks as messages: of every ring in every state, a back channel that nobody reads, doorbells later."""
    in_band = ProtocolFeature.INBAND_NOTIFICATIONS
    needed = int(in_band | ProtocolFeature.BACKEND_REQ | ProtocolFeature.REPLY_ACK)
    if script.facts.protocol_features & needed != needed:
        return []
    queue = _queue(script)
    on = script.message(REQUEST.SET_PROTOCOL_FEATURES, U64(script.protocol | in_band))
    off = script.message(REQUEST.SET_PROTOCOL_FEATURES, U64(script.protocol))
    channel = script.message(REQUEST.SET_BACKEND_REQ_FD, b"", ["socket"])
    odd = [
        script.message(REQUEST.VRING_KICK, VringState(index, number))
        for index, number in ((0, 1), (script.facts.num_queues, 0), (0xFFFF, 0), (FULL, FULL))
    ]
    by_message = script.message(REQUEST.VRING_KICK, VringState(queue, 0))
    request = script.request()[:-1]
    bare = [*script.up(doorbells=False), on]
    late = [
        script.message(REQUEST.SET_VRING_CALL, U64(queue), [f"call:{queue}"]),
        script.message(REQUEST.SET_VRING_KICK, U64(queue), [f"kick:{queue}"]),
        script.message(REQUEST.SET_VRING_CALL, U64(queue | 1 << 8)),
    ]
    return [
        *script.negotiation(), on, by_message, *odd, CLOSE,
        *bare, channel, by_message, *odd, repeat(50, *request, by_message), SETTLE, *script.extras(), CLOSE,
        *bare, *request, by_message, SETTLE, channel, channel, by_message, *script.down(),
        *bare, channel, by_message, *request, by_message, *late, *request, kick(queue), by_message, SETTLE,
        *script.stop(), by_message, *script.again(),
        *bare, channel, repeat(20, by_message, off, on, *request, by_message), *script.stop(), SETTLE, CLOSE,
    ]  # fmt: skip


@case("C037")
def plugged_again(script: Script) -> list[Step]:
    """SET_OWNER again and again: with rings stopped, with rings that run, with the same memory and other."""
    owner = script.message(REQUEST.SET_OWNER)
    slot = MemorySlot(REGION)
    add = script.message(REQUEST.ADD_MEM_REG, slot, ["memory"])
    half = MemorySlot(MemoryRegion(GUEST, MEMORY_SIZE // 2, USER, 0))
    other = script.message(REQUEST.SET_MEM_TABLE, Memory((half.region,)), ["memory"])
    overlap = script.message(REQUEST.ADD_MEM_REG, half, ["memfd:524288"])
    remove = script.message(REQUEST.REM_MEM_REG, slot)
    running = [*script.up(), *script.request(), owner, add, overlap, kick(_queue(script)), SETTLE]
    return [
        *script.again(),
        *running, *script.stop(), owner, add, add, overlap, other, remove, remove, *script.request(), CLOSE,
        *script.up(), repeat(30, *script.request(), *script.stop(), owner, add, *script.memory()), CLOSE,
    ]  # fmt: skip


@case("V005")
def long_tables(script: Script) -> list[Step]:
    """Indirect tables of 17 to 16,384 descriptors on a ring of 16, endless, and the ring itself."""
    queue = _queue(script)
    steps = []
    for entries in (17, 126, 515, 1024, 1025, 4096, 16384):
        steps += [*script.up(), *script.long_table(entries), kick(queue), SETTLE, CLOSE]
    round_trip = b"".join(
        DESCRIPTOR.pack(guest(BUFFERS), 1, NEXT | WRITE, (number + 1) % 1024) for number in range(1024)
    )
    table = [
        write(TABLE, round_trip, "a table that never ends"),
        *indirect(guest(TABLE), len(round_trip), packed=script.packed, queue=queue),
    ]
    rewrites = [
        *script.long_table(1024)[:1],
        *indirect(guest(Area(queue).descriptors), 0x2000, packed=script.packed, queue=queue),
    ]
    for ring in (table, rewrites):
        steps += [*script.up(), *ring, kick(queue), SETTLE, CLOSE]
    return steps


@case("V010")
def enormous_lengths(script: Script) -> list[Step]:
    """Requests of 64 GiB, 4 TiB and more in buffers that lie upon each other, in tables and directly."""
    queue = _queue(script)
    steps = []
    for entries, length in ((16, MEMORY_SIZE // 2), (1024, MEMORY_SIZE // 4), (1024, FULL), (16384, 0x1000)):
        steps += [*script.up(), *script.long_table(entries, length=length), kick(queue), SETTLE, CLOSE]
    parts = [(guest(BUFFERS), MEMORY_SIZE - BUFFERS, number > 0) for number in range(15)]
    huge = chain(parts, packed=script.packed, queue=queue)
    return [*steps, *script.up(), *huge, repeat(20, kick(queue)), SETTLE, *script.extras(), SETTLE, CLOSE]
