"""IOTLB messages driven too far (C088 to C092)."""

from __future__ import annotations

from vhost_user.fuzzing.case import case
from vhost_user.fuzzing.layout import kick
from vhost_user.fuzzing.sessions import CLOSE, SETTLE, Script
from vhost_user.fuzzing.steps import GUEST, MEMORY_SIZE, USER, Step, repeat, send
from vhost_user.protocol.framing import encode
from vhost_user.spec.features import VirtioFeature
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.structs import U64, Iotlb, IotlbType

REQUEST = FrontendRequest
TOP = 1 << 64
EVERYTHING = Iotlb(0, TOP - 1, 0, 0, IotlbType.INVALIDATE)


def _up(script: Script) -> list[Step]:
    """A running ring whose addresses are IOVAs: those that are user addresses otherwise."""
    bits = VirtioFeature.ACCESS_PLATFORM | VirtioFeature.VERSION_1 | VirtioFeature.PROTOCOL_FEATURES
    if script.packed:
        bits |= VirtioFeature.RING_PACKED
    features = script.message(REQUEST.SET_FEATURES, U64(int(script.facts.features & bits)))
    return [*script.negotiation(), features, *script.memory(), *script.ring(0), *script.enable()]


@case("C091")
def translations(script: Script) -> list[Step]:
    """Translations that wrap, overlap, lead nowhere, have no size or no end; thousands of them, and none."""
    whole = Iotlb(GUEST, MEMORY_SIZE, USER, 3, IotlbType.UPDATE)
    rings = Iotlb(USER, MEMORY_SIZE, USER, 3, IotlbType.UPDATE)
    odd = [
        Iotlb(TOP - 4096, 8192, USER, 3, IotlbType.UPDATE), Iotlb(0, TOP - 1, USER, 3, IotlbType.UPDATE),
        Iotlb(0, 0, USER, 3, IotlbType.UPDATE), Iotlb(0, 4096, 0, 3, IotlbType.UPDATE),
        Iotlb(TOP - 4096, 4096, USER, 3, IotlbType.UPDATE),
        Iotlb(1, 1, USER + MEMORY_SIZE - 1, 1, IotlbType.UPDATE),
        Iotlb(0, 4096, TOP - 1, 3, IotlbType.UPDATE), Iotlb(0, 4096, 0, 255, IotlbType.INVALIDATE),
        Iotlb(TOP - 1, 1, 0, 0, IotlbType.INVALIDATE), Iotlb(0, 1, 0, 0, 0), Iotlb(0, 1, 0, 0, 255),
        Iotlb(GUEST, MEMORY_SIZE, USER, 0, IotlbType.UPDATE),
        Iotlb(GUEST, MEMORY_SIZE, USER, 1, IotlbType.UPDATE),
    ]  # fmt: skip
    say = [script.message(REQUEST.IOTLB_MSG, message) for message in odd]
    small = [
        send(encode(REQUEST.IOTLB_MSG, 1, Iotlb(at * 3, 2, USER + at, 3, IotlbType.UPDATE).pack()))
        for at in range(64)
    ]
    flush = [
        script.message(REQUEST.IOTLB_MSG, message) for message in (EVERYTHING, rings, whole)
    ]  # fmt: skip
    return [
        *_up(script), *flush, *script.request(), SETTLE, *say, kick(0), SETTLE, CLOSE,
        *_up(script), repeat(20, *flush, kick(0)), *script.request(), repeat(20, *small), SETTLE,
        *script.stop(), CLOSE,
        *script.up(), *say, CLOSE,
    ]  # fmt: skip
