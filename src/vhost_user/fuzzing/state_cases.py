"""Hostile states of a device: what a migration stream can have in it (H45, C127)."""

from __future__ import annotations

import random

from vhost_user.fuzzing.case import case
from vhost_user.fuzzing.kept_state import Edit, edit
from vhost_user.fuzzing.sessions import CLOSE, SETTLE, Script
from vhost_user.fuzzing.steps import Step
from vhost_user.spec.features import ProtocolFeature
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.structs import TransferState

REQUEST = FrontendRequest
SAVE, LOAD = TransferState(0), TransferState(1)
TELLING = (*range(0x80, 0xA4), *range(0xC0, 0xE0), 0, 1, 0x7F, 0xFF)
"""Bytes with which values begin in msgpack, and others that formats like."""


def moved(script: Script, *edits: Edit) -> list[Step]:
    """A session in which the device's state is saved, changed, and loaded."""
    return [
        *script.negotiation(),
        script.message(REQUEST.SET_DEVICE_STATE_FD, SAVE, ["state-out"]),
        edit(*edits),
        script.message(REQUEST.CHECK_DEVICE_STATE),
        script.message(REQUEST.SET_DEVICE_STATE_FD, LOAD, ["state-in"]),
        script.message(REQUEST.CHECK_DEVICE_STATE),
        SETTLE,
    ]


def random_edits(chance: random.Random) -> list[Edit]:
    """A few changes of a state, mostly small ones near its beginning or anywhere."""
    edits: list[Edit] = []
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        place = chance.choice((chance.randrange(64), chance.randrange(1 << 16)))
        content = bytes([chance.choice(TELLING)]) + chance.choice((b"", b"\xff" * 4, chance.randbytes(3)))
        kind = chance.choice(("set", "set", "set", "insert", "cut", "whole"))
        edits.append((kind, place, content.hex()))
    return edits


@case("H45")
def hostile_states(script: Script) -> list[Step]:
    """States cut short, lengthened, deep, long, of other versions, and none."""
    if not script.offers(ProtocolFeature.DEVICE_STATE):
        return []
    steps = moved(script)
    lengths = (0, 1, 8, 10, 12, 16, 23, 24, 28, 40, 100)
    changes: list[Edit] = [("cut", at, "") for at in lengths]
    changes += [("set", at, "ffffffff") for at in range(40)]
    changes += [("insert", at, "dd7fffffff") for at in range(24, 64, 3)]
    changes += [("insert", 28, "91" * 4000), ("insert", 28, "81a0" * 4000), ("whole", 0, "90" * 60000)]
    for change in changes:
        steps += [CLOSE, *moved(script, change)]
    return steps
