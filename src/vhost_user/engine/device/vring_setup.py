"""What is set up of a vring: features, size, base, areas, memory, and where requests in flight are recorded.

C functions on its state, for ``Vring``, which documents them.
"""

# Areas of the ring and snapshots of the front-end's memory come and go in any order, while the ring runs too. For the locks see
# vring_state.py.

from typing import Optional

import cython
from cython.cimports.libc.stdint import uint64_t
from cython.cimports.vhost_user.engine.barriers import counter_set, lock, unlock
from cython.cimports.vhost_user.engine.device.inflight import InflightArea
from cython.cimports.vhost_user.engine.device.ring import Ring
from cython.cimports.vhost_user.engine.device.vring_state import NEW_PACKED, VringState
from cython.cimports.vhost_user.engine.memory.guest_memory import GuestMemory
from cython.cimports.vhost_user.engine.memory.iotlb import Iotlb

from vhost_user.engine.errors import RingStateError, RingValueError

WHILE_STARTED = {
    "set_features": ("the ring format cannot change", "C072"),
    "set_size": ("the size cannot change", "C072"),
    "set_base": ("the base cannot change", "C072"),
    "set_inflight": ("the in-flight area cannot change", "C107"),
    "give_back": ("requests are given back by a stopped ring", "C053"),
}


@cython.cfunc
def must_be_stopped(state: VringState, call: str):
    """The way of the calls in WHILE_STARTED to refuse."""
    if state.is_started:
        reason, rule = WHILE_STARTED[call]
        raise RingStateError(f"{reason} while the ring is started", rule=rule, queue=state.index)


@cython.cfunc
def set_features(state: VringState, packed, event_idx, in_order, notify_on_empty):
    if bool(packed) != state.want_packed:
        must_be_stopped(state, "set_features")
        state.base_value = 0
        state.has_base = False
        state.base_from_ring = False
    state.want_packed = packed
    state.want_in_order = in_order
    state.want_event_idx = event_idx
    state.want_notify_on_empty = notify_on_empty


@cython.cfunc
def set_size(state: VringState, size):
    must_be_stopped(state, "set_size")
    if not 1 <= size <= state.max_size:
        raise RingValueError(f"size {size} is outside of 1 … {state.max_size}", rule="C070", queue=state.index)
    if not state.want_packed and size & (size - 1):
        raise RingValueError(f"the size of a split ring is a power of two, not {size}", rule="C070", queue=state.index)
    state.ring_size = size


@cython.cfunc
def set_base(state: VringState, value):
    must_be_stopped(state, "set_base")
    if value >> 16 and not state.want_packed:
        raise RingValueError(f"the base of a split ring has 16 bits, not {value:#x}", rule="C056", queue=state.index)
    if not 0 <= value < 1 << 32:
        raise RingValueError(f"the base of a ring has 32 bits, not {value:#x}", rule="C057", queue=state.index)
    state.base_value = value
    state.has_base = True
    state.base_from_ring = False


@cython.cfunc
def base(state: VringState):
    lock(cython.address(state.mutex))
    value = state.ring.get_base() if state.base_from_ring else state.base_value
    if state.want_packed and not state.has_base:
        value = NEW_PACKED
    unlock(cython.address(state.mutex))
    return value


@cython.cfunc
def set_indirect_limit(state: VringState, value):
    if not 1 <= value <= 65536:
        raise ValueError(f"queue {state.index}: an indirect_limit of {value}; 1 to 65536 descriptors are possible")
    state.table_limit = value
    lock(cython.address(state.mutex))
    if state.ring is not None:
        state.ring.table_limit = state.table_limit
    unlock(cython.address(state.mutex))


@cython.cfunc
def set_addresses(state: VringState, descriptor, driver, device, log_address):
    packed = state.want_packed
    for name, address, alignment in (
        ("descriptor area", descriptor, 16),
        ("driver area", driver, 4 if packed else 2),
        ("device area", device, 4),
    ):
        if address % alignment:
            raise RingValueError(f"{name} at {address:#x} is not aligned to {alignment} bytes", rule="C071", queue=state.index)
    # Converted before the lock is taken: a number that is not an address raises here.
    areas: uint64_t[3]
    areas[0] = descriptor
    areas[1] = driver
    areas[2] = device
    log: uint64_t = 0 if log_address is None else log_address
    logged: cython.bint = log_address is not None
    lock(cython.address(state.mutex))
    state.descriptor_address = areas[0]
    state.driver_address = areas[1]
    state.device_address = areas[2]
    state.logged = logged
    state.log_address = log
    state.has_addresses = True
    unlock(cython.address(state.mutex))
    if state.is_started:
        reattach(state)


@cython.cfunc
def set_memory(state: VringState, memory: Optional[GuestMemory], iotlb: Optional[Iotlb]):
    if iotlb is not None and iotlb.memory is not memory:
        raise ValueError(f"queue {state.index}: the translations belong to another snapshot")
    with cython.critical_section(state):
        lock(cython.address(state.mutex))
        old = state.memory
        before = state.iotlb
        state.memory = memory
        state.iotlb = iotlb
        state.is_waiting = False
        unlock(cython.address(state.mutex))
    # A stopped ring too: requests may still complete into it, and it must not keep regions mapped that are gone.
    if state.ring is not None:
        reattach(state)
    # `old` is let go here, outside of the lock: its regions may be unmapped now.
    del old, before


@cython.cfunc
def reattach(state: VringState):
    """Translate the ring areas again. Unpublished used entries are made visible in the old place first."""
    # See VringState.snapshot. Both at once: translations belong to their snapshot.
    with cython.critical_section(state):
        memory: GuestMemory = state.memory
        iotlb: Iotlb = state.iotlb
    # A pin, so that `attach` can take the snapshot's regions while the session's end may be letting go of them; given
    # back when the lock is free, because its end could run Python code. Closed already: `attach` refuses it.
    pinned: cython.bint = memory is not None and memory.pin() != 0
    lock(cython.address(state.mutex))
    if state.ring is None:
        # Reset meanwhile.
        unlock(cython.address(state.mutex))
        if pinned:
            memory.unpin()
        return
    # What a process before us left in flight is looked up before anybody takes a request. That makes objects, so it
    # happens without the mutex; nobody takes requests of a ring that is not started.
    fresh: cython.bint = state.fresh
    started: cython.bint = state.is_started
    if fresh:
        state.is_started = False
    old = state.ring.memory
    old_regions = state.ring.regions
    old_iotlb = state.ring.iotlb
    if state.is_attached:
        state.flush_locked()
    state.ring.descriptor_address = state.descriptor_address
    state.ring.driver_address = state.driver_address
    state.ring.device_address = state.device_address
    state.ring.logged = state.logged
    state.ring.log_address = state.log_address
    # attach touches no Python object but the reference it stores; `old` keeps the previous one until the lock is free.
    state.is_attached = state.ring.attach(memory if pinned else None, iotlb)
    state.told = 0
    if state.is_attached:
        if state.fresh:
            settle_in(state)
        # What completed while the memory was away becomes visible now (C044).
        state.flush_locked()
    unlock(cython.address(state.mutex))
    if pinned:
        memory.unpin()
    try:
        if fresh and state.is_attached:
            track(state)
    finally:
        if fresh and started:
            lock(cython.address(state.mutex))
            state.is_started = True
            unlock(cython.address(state.mutex))
            # A kick that came meanwhile found a ring that was not started.
            counter_set(cython.address(state.nudged), 1)
    del old, old_regions, old_iotlb, iotlb, memory


@cython.cfunc
@cython.exceptval(check=False)
def settle_in(state: VringState) -> cython.void:
    """With the mutex: the ring's memory is there for the first time since the start."""
    state.fresh = False
    if state.perhaps_new and state.ring.never_used():
        state.ring.set_base(NEW_PACKED)
    state.ring.begin()


@cython.cfunc
def track(state: VringState):
    """A ring whose memory is there for the first time since its start: what a process before us left in flight comes first."""
    with cython.critical_section(state):
        area: InflightArea = state.area
        ring: Ring = state.ring
    problem = None if area is None or ring is None else ring.track(area, state.index)
    with cython.critical_section(state):
        state.problem = problem


@cython.cfunc
def missing(state: VringState):
    memory: GuestMemory = state.snapshot()
    with_memory: cython.bint = memory is not None and memory.count > 0
    absent = []
    if state.ring_size == 0:
        absent.append("size (SET_VRING_NUM)")
    if not state.has_addresses and (with_memory or not state.addresses_kept):
        absent.append("addresses (SET_VRING_ADDR)")
    if not with_memory:
        absent.append("memory (SET_MEM_TABLE or ADD_MEM_REG)")
    return absent
