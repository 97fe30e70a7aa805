"""A vring of the device side: requests by hand, or in batches to a handler (types: vring.pyi)."""

import warnings
from typing import Optional

import cython
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.vhost_user.engine.barriers import (
    counter_add,
    counter_exchange,
    counter_get,
    counter_set,
    full_fence,
    lock,
    lock_nogil,
    unlock,
)
from cython.cimports.vhost_user.engine.device.chain import Chain, chains_bring
from cython.cimports.vhost_user.engine.device.fast_path import FastPath
from cython.cimports.vhost_user.engine.device.request import Request
from cython.cimports.vhost_user.engine.device.request_state import COMPLETED, IN_FLIGHT
from cython.cimports.vhost_user.engine.device.vring_flow import ABSENT, BATCH, BROKEN, OTHER_MEMORY, Taken
from cython.cimports.vhost_user.engine.device.vring_handling import VringHandling
from cython.cimports.vhost_user.engine.doorbell import ring_bell
from cython.cimports.vhost_user.engine.memory.guest_memory import GuestMemory
from cython.cimports.vhost_user.engine.ring_layout import DESCRIPTOR_SIZE

from vhost_user.engine.errors import RequestError


@cython.final
@cython.cclass
class Vring(VringHandling):
    """One virtqueue as the device sees it, split or packed behind one interface.

    Control-plane methods are called by one thread (the session's); data-plane methods from any. A ring
    processes when it is ``started``, ``enabled`` and not ``suspended``; ``runnable`` says so. Every method
    is safe against the others.
    """

    def __init__(self, index, max_size, *, on_broken=None):
        VringHandling.__init__(self, index, max_size, on_broken=on_broken)
        self.batch = []

    # ------------------------------------------------------------------ by hand
    def pop(self):
        """The next request, None when there is none or the ring does not run.

        Raises RingError once when the ring is found broken. Finding the ring empty asks the driver for a
        kick, unless ``disable_notification`` was called or ``process`` serves the ring.
        """
        taken: Taken
        memory: GuestMemory
        came: cython.bint = True
        while True:
            memory = self.snapshot()
            request = self.spare()
            with cython.nogil:
                taken = self.fill(cython.address(request.chain), 1, cython.cast(cython.p_void, memory), False)
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
                self.counts.requests += 1
                request.begin(memory, taken.generation)
                self.list_popped(request)
                return request
            if taken.why == OTHER_MEMORY:
                continue
            if taken.why == BROKEN:
                error = self.report()
                if error is not None:
                    raise error
            elif self.is_waiting:
                self.ask()
            elif not self.served and not self.quiet and self.arm():
                # Whoever empties a ring by hand gets a kick for what comes next without asking for it; this came meanwhile.
                continue
            return None

    def add_used(self, request, written=-1):
        """Put back without notifying; ``signal_used_queue`` follows. ``request.complete()`` does both.

        ``request`` may also be the head of one that ``pop`` gave out and that still exists; ``written`` is
        then 0 unless given. Raises RequestError if it is complete already, ValueError for a stranger.
        """
        if type(request) is not Request:
            self.add_used_head(request, written)
            return
        ours: Request = request
        if ours.owner is not self:
            raise ValueError(f"this request belongs to queue {ours.queue}, not to queue {self.index}")
        length: uint64_t = ours.conclude(written)
        lock(cython.address(self.mutex))
        if ours.generation == self.generation and self.ring is not None:
            self.put_quietly(ours.chain, length)
        unlock(cython.address(self.mutex))

    @cython.cfunc
    def add_used_head(self, head, written):
        number: cython.int = head if 0 <= head < 65536 else -1
        length: uint64_t = 0 if written < 0 else min(written, 1 << 32)
        each: cython.p_void
        found: cython.bint = False
        lock(cython.address(self.mutex))
        each = self.popped
        while each != cython.NULL and not found:
            # Not referred to, only looked at: a request leaves this list, under the mutex, before its end.
            if (
                cython.cast(Request, each).chain.head == number
                and cython.cast(Request, each).generation == self.generation
                and self.ring is not None
                and counter_get(cython.address(cython.cast(Request, each).state)) == IN_FLIGHT
                and counter_exchange(cython.address(cython.cast(Request, each).state), COMPLETED) == IN_FLIGHT
            ):
                if length > cython.cast(Request, each).chain.writable_total:
                    # Never more than the driver made writable (V014).
                    length = cython.cast(Request, each).chain.writable_total
                cython.cast(Request, each).mark_to(length)
                self.put_quietly(cython.cast(Request, each).chain, length)
                found = True
            each = cython.cast(Request, each).next
        unlock(cython.address(self.mutex))
        if not found:
            raise ValueError(f"queue {self.index}: no request with head {head} that pop gave out is in flight")

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def put_quietly(self, chain: cython.pointer[Chain], length: uint64_t) -> cython.void:
        """With the mutex: visible to the driver, and no call. The length is clamped as in `finish`."""
        self.ring.put(chain, cython.cast(uint32_t, length - (length >> 32)))
        if self.is_attached and self.ring.publish():
            self.undecided = True
        self.wake_drain()

    def put_back(self, request: Request):
        """Undo ``pop``: the next one gives the same chain again.

        Only the request taken last can be put back, then the one before it, and so on; RequestError
        otherwise. ``process`` would take it again at once: this is for rings emptied by hand.
        """
        if request.owner is not self:
            raise ValueError(f"this request belongs to queue {request.queue}, not to queue {self.index}")
        taken_back: cython.bint = False
        over: cython.bint = True
        lock(cython.address(self.mutex))
        if request.generation == self.generation and self.ring is not None and request.state == IN_FLIGHT:
            over = False
            taken_back = self.ring.take_back(request.chain)
            if taken_back:
                # Under the mutex, so that nobody completes it in between.
                counter_set(cython.address(request.state), COMPLETED)
                self.wake_drain()
        unlock(cython.address(self.mutex))
        if over:
            raise RequestError(
                f"queue {self.index}, head {request.head}: cannot be put back, it is complete or its session ended", rule="V036"
            )
        if not taken_back:
            raise RequestError(f"queue {self.index}, head {request.head}: only the request taken last can be put back", rule="V036")

    def go_to_previous_position(self, request: Request):
        """``put_back`` by the name that the crate has for it."""
        self.put_back(request)

    @cython.cfunc
    def list_popped(self, request: Request):
        lock(cython.address(self.mutex))
        request.listed = True
        request.previous = cython.NULL
        request.next = self.popped
        if self.popped != cython.NULL:
            cython.cast(Request, self.popped).previous = cython.cast(cython.p_void, request)
        self.popped = cython.cast(cython.p_void, request)
        unlock(cython.address(self.mutex))

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def unlist(self, request: cython.p_void) -> cython.void:
        previous: cython.p_void
        following: cython.p_void
        lock_nogil(cython.address(self.mutex))
        previous = cython.cast(Request, request).previous
        following = cython.cast(Request, request).next
        if previous != cython.NULL:
            cython.cast(Request, previous).next = following
        else:
            self.popped = following
        if following != cython.NULL:
            cython.cast(Request, following).previous = previous
        cython.cast(Request, request).listed = False
        unlock(cython.address(self.mutex))

    def needs_notification(self):
        """Whether ``signal_used_queue`` would notify; the answer stands until it is called."""
        lock(cython.address(self.mutex))
        # Asking settles the matter for the ring, so the answer is kept until somebody acts on it.
        self.undecided = False
        if self.is_attached and self.ring.wants_call():
            self.call_owed = True
        result: cython.bint = self.call_owed
        unlock(cython.address(self.mutex))
        return result

    def signal_used_queue(self):
        """Notify the driver if it asked for it (V016, V017, V033); True if the call fd was written."""
        lock(cython.address(self.mutex))
        sent: cython.bint = False
        self.undecided = False
        if self.is_attached and self.call_bell.fd >= 0 and (self.ring.wants_call() or self.call_owed):
            self.call_owed = False
            sent = ring_bell(self.call_bell.fd, self.call_bell.kind) != 0
            self.counts.calls += 1
        unlock(cython.address(self.mutex))
        return sent

    def enable_notification(self):
        """Ask the driver for kicks; True if buffers arrived meanwhile: look again (V018)."""
        self.quiet = False
        return self.arm()

    def disable_notification(self):
        """Ask the driver for no kicks; a hint, which it may disregard (V018)."""
        self.quiet = True
        lock(cython.address(self.mutex))
        if self.is_attached:
            self.ring.disarm()
        unlock(cython.address(self.mutex))

    # ------------------------------------------------------------------ to a handler
    def set_outcome(self, callback):
        """What becomes of the results of handlers: ``callback(request or batch, result)`` unless it is None.

        What ``callback`` raises counts as raised by the handler. Without one results go nowhere.
        """
        self.on_outcome = callback

    def process(self, handler, on_error=None, budget=1024, fast_path: FastPath = None, *, accelerator: FastPath = None):
        """Take requests until the ring is empty, and call ``handler`` with each.

        After ``budget`` requests it returns, and the worker comes back (H82). Those that were neither held
        nor completed are completed; finished ones are given back, and the driver
        notified if it waits for that, after every few and at the end. An
        exception out of ``handler`` goes to ``on_error``, which may complete the request (else it is
        completed with what was written). ``fast_path`` is offered every request first
        (see ``FastPath``). Returns the number taken. A ring served by ``process`` is armed by its worker
        just before sleeping.
        """
        return self.run(handler, on_error, budget, 0, fast_path if accelerator is None else _renamed(accelerator))

    def process_batch(self, handler, on_error=None, budget=1024, fast_path: FastPath = None, *, size=64, accelerator: FastPath = None):
        """The same, ``handler`` called once for each batch of at most ``size`` requests (1 to 64).

        What a call of the batch could not do with a request (``Request.error``) goes to ``on_error`` when
        ``handler`` has returned. Raises ValueError for another size.
        """
        if not 1 <= size <= BATCH:
            raise ValueError(f"queue {self.index}: batches of {size} requests; 1 to {BATCH} are possible")
        return self.run(handler, on_error, budget, size, fast_path if accelerator is None else _renamed(accelerator))

    @cython.cfunc
    def run(self, handler, on_error, budget: cython.int, together: cython.int, fast_path: Optional[FastPath]):
        """Until the ring is empty or the budget spent; ``together``: how many requests a call of the handler gets, 0 for one by one."""
        total: cython.int = 0
        taken: Taken
        memory: GuestMemory
        fast: cython.bint = fast_path is not None
        # Few at a time for a handler in Python: what is taken of them stays in the nearest cache until their turn comes.
        most: cython.int = together if together else BATCH if fast else self.shown()
        # One thread at a time fills and empties the batch; a second one finds the first at work and has nothing to do.
        if counter_exchange(cython.address(self.processing), 1) != 0:
            return 0
        self.served = 1
        if fast:
            counter_add(cython.address(fast_path.users), 1)
            fast_path.bell(False)
        try:
            self.prepare()
            while total < budget:
                memory = self.snapshot()
                if fast:
                    fast_path.keep(memory)
                if fast or self.long_chains or (memory is not None and memory.sparse):
                    with cython.nogil:
                        taken = self.take(memory, fast_path, budget - total, most)
                else:
                    # Giving up the GIL costs more than to look at a few descriptors; see WALK.
                    taken = self.take(memory, fast_path, budget - total, most)
                total += taken.total
                if self.given_up.chain != cython.NULL:
                    self.redo(handler, on_error, together)
                elif taken.count > 0:
                    try:
                        if self.interrupted():
                            self.answer(taken.count, memory, self.ask_first(handler, together), on_error, 0)
                        else:
                            self.answer(taken.count, memory, handler, on_error, together)
                    finally:
                        # Before the last answers are seen: a driver that goes then, or brings other memory, finds nothing of
                        # this one still mapped because of us.
                        memory = None
                        self.put_done(0, taken.count)
                    if self.is_broken:
                        self.report()
                        break
                elif taken.why != OTHER_MEMORY:
                    if taken.why == BROKEN:
                        self.report()
                    break
            if fast:
                # The bell first, then a last look: what finishes between the two is seen by one of them.
                fast_path.bell(True)
                full_fence()
                while self.collect(fast_path):
                    self.redo(handler, on_error, together)
        finally:
            self.flush()
            if self.long_chains:
                self.trim()
            if fast:
                fast_path.bell(True)
                counter_add(cython.address(fast_path.users), -1)
            counter_set(cython.address(self.processing), 0)
        if self.is_waiting:
            self.ask()
        return total

    def __repr__(self):
        state = "broken" if self.error is not None else "started" if self.is_started else "stopped"
        return f"<Vring {self.index} {state}{' enabled' if self.is_enabled else ''} size {self.ring_size} in flight {self.in_flight}>"


@cython.cfunc
def _renamed(fast_path: FastPath) -> FastPath:
    warnings.warn("the argument accelerator is now called fast_path", DeprecationWarning, stacklevel=1)
    return fast_path


VringMutex = Vring
VringRwLock = Vring
