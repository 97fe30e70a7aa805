"""The table at the top of vring_state.py: what is refused in which state, and when requests are taken."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from tests.engine.pair import MakePair, Pair
from vhost_user.engine.device.vring import Vring
from vhost_user.engine.device.vring_setup import WHILE_STARTED
from vhost_user.engine.device.vring_state import RUNS_WHEN
from vhost_user.engine.errors import RingStateError
from vhost_user.engine.memory.guest_memory import GuestMemory

CALLS: dict[str, Callable[[Pair], object]] = {
    "set_features": lambda pair: pair.vring.set_features(
        packed=not pair.packed, event_idx=False, in_order=False
    ),
    "set_size": lambda pair: pair.vring.set_size(pair.size),
    "set_addresses": Pair.set_addresses,
    "set_base": lambda pair: pair.vring.set_base(0),
    "set_memory": lambda pair: pair.vring.set_memory(pair.guest),
    "set_kick": lambda pair: pair.vring.set_kick(None),
    "set_call": lambda pair: pair.vring.set_call(None),
    "set_err": lambda pair: pair.vring.set_err(None),
    "set_header": lambda pair: pair.vring.set_header(None),
    "set_enabled": lambda pair: pair.vring.set_enabled(True),
    "set_suspended": lambda pair: pair.vring.set_suspended(False),
    "set_inflight": lambda pair: pair.vring.recovery.set_inflight(None),
    "set_interrupted": lambda pair: pair.vring.recovery.set_interrupted(None),
    "set_outcome": lambda pair: pair.vring.set_outcome(None),
    "start": lambda pair: pair.vring.start(),
    "stop": lambda pair: pair.vring.stop(),
    "drain": lambda pair: pair.vring.drain(0),
    "abandon": lambda pair: pair.vring.abandon(),
    "give_back": lambda pair: pair.vring.give_back(),
    "reset": lambda pair: pair.vring.reset(),
}
"""The control plane of a vring."""


def test_the_calls_are_all_there_are() -> None:
    control = {name for name in dir(Vring) if name.startswith("set_")}
    assert control | set(WHILE_STARTED) <= set(CALLS)


@pytest.mark.parametrize("call", CALLS)
def test_C072_a_started_vring_refuses_what_the_table_names(make_pair: MakePair, call: str) -> None:
    pair = make_pair()
    if call not in WHILE_STARTED:
        CALLS[call](pair)
        return
    reason, rule = WHILE_STARTED[call]
    with pytest.raises(RingStateError) as refused:
        CALLS[call](pair)
    assert refused.value.rule == rule
    assert refused.value.reason == f"{reason} while the ring is started"


@pytest.mark.parametrize("call", CALLS)
def test_a_stopped_vring_refuses_nothing(make_pair: MakePair, call: str) -> None:
    pair = make_pair()
    pair.vring.stop()
    CALLS[call](pair)


def breaks(pair: Pair) -> None:
    """Have the driver break a rule, and the vring see it."""
    if pair.packed:
        pair.ring.write_descriptor(0, 0, 24, 0, 4 | 1 << 7)
    else:
        pair.split.write_avail(0, 0xFFFF)
        pair.split.set_avail_index(1)
    pair.vring.process(lambda _: None)
    assert pair.errors


@pytest.mark.parametrize("flags", list(itertools.product([False, True], repeat=len(RUNS_WHEN))))
def test_requests_are_taken_when_all_flags_are_as_the_table_says(
    make_pair: MakePair, flags: tuple[bool, ...]
) -> None:
    wanted = dict(zip(RUNS_WHEN, flags, strict=True))
    pair = make_pair()
    if wanted["broken"]:
        breaks(pair)
    pair.vring.set_enabled(wanted["enabled"])
    pair.vring.set_suspended(wanted["suspended"])
    if not wanted["mapped"]:
        pair.vring.set_memory(GuestMemory())
    if not wanted["started"]:
        pair.vring.stop()
    got = {name: bool(getattr(pair.vring, name)) for name in RUNS_WHEN}
    assert got == wanted
    assert pair.runs() == (got == RUNS_WHEN)


def test_C073_a_new_vring_says_what_is_missing(make_pair: MakePair) -> None:
    pair = make_pair(start=False)
    vring = Vring(0, 256)
    size, memory, addresses = (
        "size (SET_VRING_NUM)",
        "memory (SET_MEM_TABLE or ADD_MEM_REG)",
        "addresses (SET_VRING_ADDR)",
    )
    assert vring.missing() == [size, addresses, memory]
    vring.set_memory(GuestMemory())
    vring.keep_addresses()
    assert vring.missing() == [size, memory]
    vring.set_memory(pair.guest)
    assert vring.missing() == [size, addresses]
    vring.set_size(8)
    with pytest.raises(RingStateError, match=r"cannot start without addresses \(SET_VRING_ADDR\)") as refused:
        vring.start()
    assert refused.value.rule == "C073"
    vring.set_addresses(descriptor=0, driver=0, device=0)
    assert vring.missing() == []
    vring.reset()
    assert vring.missing() == [size, addresses, memory]
