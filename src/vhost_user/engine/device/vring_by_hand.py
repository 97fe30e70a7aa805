"""Requests of a vring by hand: popped one by one, completed or put back, and the driver called when the device says so.

C functions on its state, for ``Vring``, which documents them.
"""

import cython
from cython.cimports.libc.stdint import uint64_t
from cython.cimports.vhost_user.engine.barriers import counter_exchange, counter_get, lock, unlock
from cython.cimports.vhost_user.engine.device.chain import chains_bring
from cython.cimports.vhost_user.engine.device.request import Request
from cython.cimports.vhost_user.engine.device.request_state import COMPLETED, IN_FLIGHT
from cython.cimports.vhost_user.engine.device.source import ABSENT, BROKEN, OTHER_MEMORY, Source, Taken
from cython.cimports.vhost_user.engine.device.vring_handling import Handling
from cython.cimports.vhost_user.engine.device.vring_state import VringState
from cython.cimports.vhost_user.engine.doorbell import ring_bell
from cython.cimports.vhost_user.engine.memory.guest_memory import GuestMemory
from cython.cimports.vhost_user.engine.ring_layout import DESCRIPTOR_SIZE

from vhost_user.engine.errors import RequestError


@cython.cfunc
def pop(handling: Handling, vring):
    source: Source = handling.source
    state: VringState = handling.state
    taken: Taken
    memory: GuestMemory
    came: cython.bint = True
    while True:
        memory = state.snapshot()
        request = handling.spare()
        with cython.nogil:
            taken = source.fill(cython.address(request.chain), 1, cython.cast(cython.p_void, memory), False)
            if taken.count == 1 and memory.sparse:
                came = chains_bring(cython.address(request.chain), 1, memory)
            elif taken.why == ABSENT:
                came = memory.bring(taken.absent, DESCRIPTOR_SIZE)
        if not came:
            # The session ends.
            return None
        if taken.why == ABSENT:
            continue
        if taken.count == 1:
            request.begin(memory, taken.generation)
            list_popped(state, request)
            return request
        if taken.why == OTHER_MEMORY:
            continue
        if taken.why == BROKEN:
            error = state.report(vring)
            if error is not None:
                raise error
        elif state.is_waiting:
            state.ask(vring)
        elif not state.served and not state.quiet and state.arm():
            # Whoever empties a ring by hand gets a kick for what comes next without asking for it; this came meanwhile.
            continue
        return None


@cython.cfunc
def list_popped(state: VringState, request: Request):
    lock(cython.address(state.mutex))
    request.listed = True
    request.previous = cython.NULL
    request.next = state.popped
    if state.popped != cython.NULL:
        cython.cast(Request, state.popped).previous = cython.cast(cython.p_void, request)
    state.popped = cython.cast(cython.p_void, request)
    unlock(cython.address(state.mutex))


@cython.cfunc
def add_used(state: VringState, request, written):
    if type(request) is not Request:
        add_used_head(state, request, written)
        return
    ours: Request = request
    if ours.owner is not state:
        raise ValueError(f"this request belongs to queue {ours.queue}, not to queue {state.index}")
    length: uint64_t = ours.conclude(written)
    lock(cython.address(state.mutex))
    if ours.generation == state.generation and state.ring is not None:
        state.put_quietly(ours.chain, length)
    unlock(cython.address(state.mutex))


@cython.cfunc
def add_used_head(state: VringState, head, written):
    number: cython.int = head if 0 <= head < 65536 else -1
    length: uint64_t = 0 if written < 0 else min(written, 1 << 32)
    each: cython.p_void
    found: cython.bint = False
    lock(cython.address(state.mutex))
    each = state.popped
    while each != cython.NULL and not found:
        # Not referred to, only looked at: a request leaves this list, under the mutex, before its end.
        if (
            cython.cast(Request, each).chain.head == number
            and cython.cast(Request, each).generation == state.generation
            and state.ring is not None
            and counter_get(cython.address(cython.cast(Request, each).state)) == IN_FLIGHT
            and counter_exchange(cython.address(cython.cast(Request, each).state), COMPLETED) == IN_FLIGHT
        ):
            if length > cython.cast(Request, each).chain.writable_total:
                # Never more than the driver made writable (V014).
                length = cython.cast(Request, each).chain.writable_total
            cython.cast(Request, each).mark_to(length)
            state.put_quietly(cython.cast(Request, each).chain, length)
            found = True
        each = cython.cast(Request, each).next
    unlock(cython.address(state.mutex))
    if not found:
        raise ValueError(f"queue {state.index}: no request with head {head} that pop gave out is in flight")


@cython.cfunc
def put_back(state: VringState, request: Request):
    if request.owner is not state:
        raise ValueError(f"this request belongs to queue {request.queue}, not to queue {state.index}")
    taken_back: cython.bint = False
    over: cython.bint = True
    lock(cython.address(state.mutex))
    if request.generation == state.generation and state.ring is not None and request.state == IN_FLIGHT:
        if not state.ring.is_last(request.chain):
            over = False
        elif counter_exchange(cython.address(request.state), COMPLETED) == IN_FLIGHT:
            # Whoever completes it does the same exchange before the mutex, so that only one of the two goes on.
            over = False
            taken_back = True
            state.ring.take_back(request.chain)
            state.wake_drain()
    unlock(cython.address(state.mutex))
    if over:
        raise RequestError(
            f"queue {state.index}, head {request.head}: cannot be put back, it is complete or its session ended", rule="V036"
        )
    if not taken_back:
        raise RequestError(f"queue {state.index}, head {request.head}: only the request taken last can be put back", rule="V036")


@cython.cfunc
def needs_notification(state: VringState):
    lock(cython.address(state.mutex))
    # Asking settles the matter for the ring, so the answer is kept until somebody acts on it.
    state.undecided = False
    if state.is_attached and state.ring.wants_call():
        state.call_owed = True
    result: cython.bint = state.call_owed
    unlock(cython.address(state.mutex))
    return result


@cython.cfunc
def signal_used_queue(state: VringState):
    lock(cython.address(state.mutex))
    sent: cython.bint = False
    state.undecided = False
    if state.is_attached and state.call_bell.fd >= 0 and (state.ring.wants_call() or state.call_owed):
        state.call_owed = False
        sent = ring_bell(state.call_bell.fd, state.call_bell.kind) != 0
        state.counts.calls += 1
    unlock(cython.address(state.mutex))
    return sent


@cython.cfunc
def disable_notification(state: VringState):
    state.quiet = True
    lock(cython.address(state.mutex))
    if state.is_attached:
        state.ring.disarm()
    unlock(cython.address(state.mutex))
