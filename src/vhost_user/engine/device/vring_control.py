"""How a vring starts and stops, and its doorbells.

C functions on its state, for ``Vring``, which documents them.
"""

import cython
from cython.cimports.libc.stdint import int64_t, uint32_t
from cython.cimports.libc.stdlib import calloc
from cython.cimports.posix.unistd import close
from cython.cimports.vhost_user.engine.barriers import (
    condition_broadcast,
    condition_wait,
    counter_add,
    counter_set,
    lock,
    lock_nogil,
    now_ns,
    unlock,
)
from cython.cimports.vhost_user.engine.device.chain import Chain
from cython.cimports.vhost_user.engine.device.packed import PackedRing
from cython.cimports.vhost_user.engine.device.ring import Ring
from cython.cimports.vhost_user.engine.device.split import SplitRing
from cython.cimports.vhost_user.engine.device.vring_setup import missing, must_be_stopped, reattach
from cython.cimports.vhost_user.engine.device.vring_state import NEW_PACKED, Bell, VringState
from cython.cimports.vhost_user.engine.doorbell import NO_BELL, adopt, ring_bell

from vhost_user.engine.errors import RingStateError

MAX_TIMEOUT = 1e6


@cython.cfunc
@cython.exceptval(-1, check=False)
def replace_bell(state: VringState, place: cython.pointer[Bell], fd, reading: cython.bint) -> cython.bint:
    """Take ``fd`` (or None) over as a doorbell and close the one before; ValueError, with the old one in place, when it cannot be one."""
    new: Bell
    new.fd = -1 if fd is None else fd
    new.kind = NO_BELL if fd is None else adopt(new.fd, reading)
    lock(cython.address(state.mutex))
    old: cython.int = place.fd
    place[0] = new
    # A call that went to the old one may be lost with it; a spurious one is harmless (C065, V019).
    if place == cython.address(state.call_bell) and state.is_started and state.is_attached:
        ring_bell(new.fd, new.kind)
    unlock(cython.address(state.mutex))
    if old >= 0:
        close(old)
    return old >= 0


@cython.cfunc
def start(state: VringState):
    if state.is_started:
        return
    absent = missing(state)
    if absent:
        raise RingStateError(f"it cannot start without {', '.join(absent)}", rule="C073", queue=state.index)
    lock(cython.address(state.mutex))
    base: uint32_t = state.ring.get_base() if state.base_from_ring else state.base_value
    unlock(cython.address(state.mutex))
    short: cython.bint = state.want_packed and state.has_base and not state.base_from_ring and base >> 16 == 0
    ring: Ring
    if state.want_packed:
        ring = PackedRing()
        if not state.has_base:
            base = NEW_PACKED
        elif short:
            # The used half is absent: after a drain it equals the available one (docs/messages.md, bases of packed rings).
            base |= base << 16
        if cython.cast(cython.int, base & 0x7FFF) >= state.ring_size or cython.cast(cython.int, base >> 16 & 0x7FFF) >= state.ring_size:
            raise RingStateError(f"base {base:#x} lies outside of a ring of {state.ring_size}", rule="C057", queue=state.index)
    else:
        ring = SplitRing()
        if state.ring_size & (state.ring_size - 1):
            raise RingStateError(f"the size of a split ring is a power of two, not {state.ring_size}", rule="C070", queue=state.index)
    ring.index = state.index
    ring.event_idx = state.want_event_idx
    ring.table_limit = state.table_limit
    ring.in_order = state.want_in_order
    ring.notify_on_empty = state.want_notify_on_empty
    ring.configure(state.ring_size)
    if state.iotlb is not None:
        ring.flying = cython.cast(cython.pointer[cython.pointer[Chain]], calloc(65536, cython.sizeof(cython.p_void)))
        if ring.flying == cython.NULL:
            raise MemoryError
    ring.accounts_more = ring.in_order or ring.flying != cython.NULL
    ring.set_base(base)
    with cython.critical_section(state):
        lock(cython.address(state.mutex))
        old = state.ring
        error = state.error
        if old is not None and old.in_flight > 0:
            # Nobody waited for these: they belong to the ring as it was, completing them does nothing.
            counter_add(cython.address(state.generation), 1)
        state.ring = ring
        state.is_broken = False
        state.error = None
        state.is_attached = False
        state.is_waiting = False
        state.fresh = True
        state.perhaps_new = short and base == 0
        state.quiet = False
        state.undecided = False
        state.call_owed = False
        unlock(cython.address(state.mutex))
    # Freed outside of the lock: frames of the error may hold requests, which then come back to this ring.
    del old, error
    reattach(state)
    # Behind an IOMMU it may start before its translations are there: it waits for them.
    if not state.is_attached and state.iotlb is None:
        raise RingStateError(
            f"cannot start, ring areas at {state.descriptor_address:#x}, {state.driver_address:#x}, "
            f"{state.device_address:#x} do not each lie in one memory region, with the same alignment in its file",
            rule="C071",
            queue=state.index,
        )
    lock(cython.address(state.mutex))
    state.is_started = True
    state.has_base = True
    state.base_from_ring = True
    unlock(cython.address(state.mutex))
    counter_set(cython.address(state.nudged), 1)


@cython.cfunc
def set_enabled(state: VringState, enabled):
    lock(cython.address(state.mutex))
    state.is_enabled = enabled
    unlock(cython.address(state.mutex))
    if enabled:
        counter_set(cython.address(state.nudged), 1)


@cython.cfunc
def set_suspended(state: VringState, suspended):
    lock(cython.address(state.mutex))
    state.is_suspended = suspended
    unlock(cython.address(state.mutex))
    if not suspended:
        counter_set(cython.address(state.nudged), 1)


@cython.cfunc
def stop(state: VringState):
    lock(cython.address(state.mutex))
    if state.is_started:
        if state.is_attached:
            state.flush_locked()
        state.is_started = False
    unlock(cython.address(state.mutex))


@cython.cfunc
def refuse(state: VringState, error):
    with cython.critical_section(state):
        lock(cython.address(state.mutex))
        old = state.error
        if state.is_started and not state.is_broken:
            state.is_broken = True
            state.error = error
            ring_bell(state.err_bell.fd, state.err_bell.kind)
        unlock(cython.address(state.mutex))
    # Freed outside of the lock, as by `start`.
    del old


@cython.cfunc
def drain(state: VringState, timeout):
    if state.ring is None:
        return True
    deadline: int64_t = now_ns() + cython.cast(int64_t, max(0.0, min(float(timeout), MAX_TIMEOUT)) * 1e9)
    empty: cython.bint = False
    with cython.nogil:
        lock_nogil(cython.address(state.mutex))
        while state.ring is not None and state.ring.in_flight > 0:
            if condition_wait(cython.address(state.idle), cython.address(state.mutex), deadline) != 0:
                break
        empty = state.ring is None or state.ring.in_flight == 0
        if empty and state.is_attached:
            state.flush_locked()
        unlock(cython.address(state.mutex))
    return empty


@cython.cfunc
def abandon(state: VringState):
    lock(cython.address(state.mutex))
    counter_add(cython.address(state.generation), 1)
    if state.ring is not None:
        state.ring.forget()
    condition_broadcast(cython.address(state.idle))
    unlock(cython.address(state.mutex))


@cython.cfunc
def give_back(state: VringState):
    must_be_stopped(state, "give_back")
    turned: cython.int = 0
    empty: cython.int = 0
    lock(cython.address(state.mutex))
    # From here on the requests are strangers to this ring: completing them does nothing, using them raises (C134).
    counter_add(cython.address(state.generation), 1)
    if state.ring is not None:
        turned = state.ring.in_flight
        empty = state.ring.give_back()
        turned -= empty
        if state.is_attached:
            state.flush_locked()
    condition_broadcast(cython.address(state.idle))
    unlock(cython.address(state.mutex))
    return turned, empty


@cython.cfunc
def reset(state: VringState):
    stop(state)
    abandon(state)
    # See VringState.snapshot.
    with cython.critical_section(state):
        shut(state)


@cython.cfunc
def shut(state: VringState):
    lock(cython.address(state.mutex))
    ring = state.ring
    memory = state.memory
    iotlb = state.iotlb
    error = state.error
    area = state.area
    problem = state.problem
    fds: cython.int[3]
    fds[0] = state.kick_bell.fd
    fds[1] = state.call_bell.fd
    fds[2] = state.err_bell.fd
    state.ring = None
    state.memory = None
    state.iotlb = None
    state.is_waiting = False
    state.is_attached = False
    state.is_enabled = False
    state.is_suspended = False
    state.error = None
    state.area = None
    state.problem = None
    state.kick_bell.fd = -1
    state.call_bell.fd = -1
    state.err_bell.fd = -1
    state.kick_bell.kind = NO_BELL
    state.call_bell.kind = NO_BELL
    state.err_bell.kind = NO_BELL
    state.has_addresses = False
    state.addresses_kept = False
    state.ring_size = 0
    state.base_value = 0
    state.has_base = False
    state.base_from_ring = False
    state.quiet = False
    state.undecided = False
    state.call_owed = False
    state.logged = False
    state.want_packed = False
    state.want_event_idx = False
    state.want_in_order = False
    state.want_notify_on_empty = False
    state.served = 0
    state.nudged = 0
    unlock(cython.address(state.mutex))
    index: cython.int
    for index in range(3):
        if fds[index] >= 0:
            close(fds[index])
    # Freed outside of the lock: frames of the error may hold requests, which then come back to this ring.
    del ring, memory, iotlb, error, area, problem
