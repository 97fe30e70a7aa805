"""Post-copy by a front-end that serves no page fault, or says things in the wrong order (C118 to C121)."""

from __future__ import annotations

import itertools

from vhost_user.fuzzing.case import case
from vhost_user.fuzzing.layout import chain, kick
from vhost_user.fuzzing.sessions import CLOSE, CONNECT, SETTLE, Script
from vhost_user.fuzzing.steps import GUEST, MEMORY_SIZE, USER, Step, repeat, send
from vhost_user.protocol.framing import encode
from vhost_user.spec.features import ProtocolFeature
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.structs import U64, Memory, MemoryRegion, MemorySlot, VringState

REQUEST = FrontendRequest
ADVISE = send(encode(REQUEST.POSTCOPY_ADVISE, 1))
LISTEN = send(encode(REQUEST.POSTCOPY_LISTEN, 9))
END = send(encode(REQUEST.POSTCOPY_END, 9))
AWAY = MemoryRegion(0x40000000, 0x100000, 0x7F5000000000, 0)
"""Memory of which no page is there, and none ever comes."""


def _ready(request: int = REQUEST.SET_MEM_TABLE, payload: bytes = bytes(8)) -> Step:
    """What says that page faults are served."""
    return send(encode(request, 1, payload))


@case("C118")
def postcopy_orders(script: Script) -> list[Step]:
    """ADVISE, LISTEN and END in every order, again and again, with things that they do not take."""
    if not script.offers(ProtocolFeature.PAGEFAULT):
        return []
    steps = []
    for orders in itertools.product((ADVISE, LISTEN, END), repeat=3):
        steps += [*script.negotiation(), *orders, send(encode(REQUEST.GET_FEATURES, 1)), CLOSE]
    for request in (REQUEST.POSTCOPY_ADVISE, REQUEST.POSTCOPY_LISTEN, REQUEST.POSTCOPY_END):
        steps += [*script.negotiation(), script.message(request, bytes(8), ["memfd:4096"]), CLOSE]
    return [*steps, *script.negotiation(), repeat(10, ADVISE), CONNECT, *script.up(), ADVISE, LISTEN, END]


@case("C119")
def postcopy_tables(script: Script) -> list[Step]:
    """Tables in post-copy that are never made ready, are taken back, make no sense; readiness of nothing."""
    if not script.offers(ProtocolFeature.PAGEFAULT):
        return []
    listening = [*script.negotiation(), ADVISE, LISTEN]
    whole = MemoryRegion(GUEST, MEMORY_SIZE, USER, 0)
    table = send(encode(REQUEST.SET_MEM_TABLE, 1, Memory((whole,)).pack()), ["memory"])
    steps = []
    for kind in ("memory", "memfd:4096", "directory", "null", "eventfd", "pipe-read"):
        bad = send(encode(REQUEST.SET_MEM_TABLE, 1, Memory((whole, AWAY)).pack()), [kind, "memfd:1048576"])
        steps += [*listening, bad, _ready(), CLOSE]
    for number, payload in (
        (REQUEST.SET_MEM_TABLE, bytes(8)), (REQUEST.SET_MEM_TABLE, b"\xff" * 8), (0, bytes(8)),
        (REQUEST.ADD_MEM_REG, bytes(8)), (REQUEST.REM_MEM_REG, bytes(8)), (0, bytes(9)), (99, bytes(8)),
    ):  # fmt: skip
        steps += [*listening, _ready(number, payload), table, _ready(number, payload), *script.ring(0), CLOSE]
    slot = encode(REQUEST.ADD_MEM_REG, 1, MemorySlot(AWAY).pack())
    gone = encode(REQUEST.REM_MEM_REG, 1, MemorySlot(AWAY).pack())
    swap = [send(slot, ["memfd:1048576"]), send(gone)]
    return [
        *steps,
        *listening, repeat(50, *swap), _ready(), CLOSE,
        *listening, repeat(50, table, _ready()), *script.ring(0), SETTLE, repeat(20, table, _ready()), END,
    ]  # fmt: skip


@case("C121")
def postcopy_unserved(script: Script) -> list[Step]:
    """Rings and buffers in pages that never come; then stops, ends, other tables, or a disconnect."""
    if not script.offers(ProtocolFeature.PAGEFAULT):
        return []
    regions = Memory((MemoryRegion(GUEST, MEMORY_SIZE, USER, 0), AWAY))
    table = send(encode(REQUEST.SET_MEM_TABLE, 1, regions.pack()), ["memory", "memfd:1048576"])
    begun = [*script.blank(), *script.negotiation(), ADVISE, LISTEN, table, _ready()]
    away = AWAY.guest_phys_addr
    queue = min(script.profile.queue, script.queues - 1)
    # In a page that nobody brings: what the device reads, and what it writes.
    absent = chain([(away, 4096, False), (away + 8192, 65536, True)], packed=script.packed, queue=queue)
    running = [*begun, *script.ring(queue), *script.enable(), *absent, kick(queue), SETTLE]
    nowhere = [
        *script.negotiation(), ADVISE, LISTEN,
        send(
            encode(REQUEST.SET_MEM_TABLE, 1, Memory((MemoryRegion(GUEST, MEMORY_SIZE, USER, 0),)).pack()),
            ["memfd:1048576"],
        ),
        _ready(), *script.ring(0), *script.enable(), SETTLE,
    ]  # fmt: skip
    stop = send(encode(REQUEST.GET_VRING_BASE, 1, VringState(0, 0).pack()))
    return [
        *running, CLOSE, *running, END, SETTLE, CLOSE, *running, table, _ready(), kick(queue), CLOSE,
        *nowhere, stop, CLOSE, *nowhere, END, SETTLE, CLOSE, *nowhere, repeat(50, *script.ring(0)), CLOSE,
        *nowhere, script.message(REQUEST.SET_FEATURES, U64(0)), ADVISE, CLOSE,
        *running, {"op": "truncate", "size": 0}, kick(queue), SETTLE, CLOSE,
    ]  # fmt: skip
