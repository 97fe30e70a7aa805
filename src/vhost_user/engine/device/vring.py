"""A vring of the device side: requests by hand, or in batches to a handler (types and docstrings: vring.pyi)."""

import logging
from typing import Optional

import cython
from cython.cimports.cpython.list import PyList_Append
from cython.cimports.libc.stdint import int64_t, uint32_t, uint64_t
from cython.cimports.vhost_user.engine.blk.accelerator import DECLINED, DONE, Accelerator
from cython.cimports.vhost_user.engine.barriers import (
    condition_broadcast,
    counter_add,
    counter_exchange,
    counter_get,
    counter_set,
    full_fence,
    lock,
    lock_nogil,
    only_reference,
    store_64,
    this_thread,
    ticks,
    unlock,
)
from cython.cimports.vhost_user.engine.device.batch import Batch
from cython.cimports.vhost_user.engine.device.chain import Chain, chain_free, chain_new
from cython.cimports.vhost_user.engine.doorbell import ring_bell
from cython.cimports.vhost_user.engine.memory.guest_memory import GuestMemory
from cython.cimports.vhost_user.engine.device.request import COMPLETED, IDLE, IN_FLIGHT, Request
from cython.cimports.vhost_user.engine.device.vring_flow import BATCH, BROKEN, OTHER_MEMORY, VringFlow

from vhost_user.engine.errors import RequestError

_log = logging.getLogger("vhost_user.engine")

# Requests of a running batch are given back at least this often, so that a slow handler does not hold up finished ones.
PUBLISH_TICKS = cython.declare(uint64_t, 100_000)


@cython.final
@cython.cclass
class Vring(VringFlow):
    """One virtqueue as the device sees it, split or packed behind one interface.

    Control-plane methods are called by one thread (the session's); data-plane methods from any. A ring
    processes when it is ``started``, ``enabled`` and not ``suspended``; ``runnable`` says so. Every method
    is safe against the others.
    """

    def __init__(self, index, max_size, *, on_broken=None):
        VringFlow.__init__(self, index, max_size, on_broken=on_broken)
        self.batch = []

    # ------------------------------------------------------------------ by hand
    def pop(self):
        """The next request, None when there is none or the ring does not run.

        Raises RingError once when the ring is found broken. Finding the ring empty asks the driver for a
        kick, unless ``disable_notification`` was called or ``process`` serves the ring.
        """
        generation: int64_t = 0
        while True:
            memory = self.snapshot()
            request = self.spare()
            with cython.nogil:
                count: cython.int = self.fill(
                    cython.address(request.chain), 1, cython.cast(cython.p_void, memory), cython.address(generation), False
                )
            if count == OTHER_MEMORY:
                continue
            if count == 1:
                self.counts.requests += 1
                request.begin(memory, generation)
                self.list_popped(request)
                return request
            if count < 0:
                error = self.report()
                if error is not None:
                    raise error
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
        if self.ring.in_flight == 0:
            condition_broadcast(cython.address(self.idle))

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
                if self.ring.in_flight == 0:
                    condition_broadcast(cython.address(self.idle))
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

    @cython.cfunc
    def spare(self) -> Request:
        request: Request = Request()
        request.owner = self
        with cython.critical_section(self):
            request.layout = self.layout
        return request

    # ------------------------------------------------------------------ to a handler
    def set_outcome(self, callback):
        """What becomes of the results of handlers: ``callback(request or batch, result)`` unless it is None.

        What ``callback`` raises counts as raised by the handler. Without one results go nowhere.
        """
        self.on_outcome = callback

    def process(self, handler, on_error=None, budget=1024, accelerator: Accelerator = None):
        """Take requests until the ring is empty, and call ``handler`` with each.

        After ``budget`` requests it returns, and the worker comes back (H82). Those that were neither held
        nor completed are completed; finished ones are given back, and the driver
        notified if it waits for that, after every few and at the end. An
        exception out of ``handler`` goes to ``on_error``, which may complete the request (else it is
        completed with what was written). ``accelerator`` is offered every request first
        (engine.accelerator). Returns the number taken. A ring served by ``process`` is armed by its worker
        just before sleeping.
        """
        return self.run(handler, on_error, budget, 0, accelerator)

    def process_batch(self, handler, on_error=None, budget=1024, accelerator: Accelerator = None, *, size=64):
        """The same, ``handler`` called once for each batch of at most ``size`` requests (1 to 64).

        What a call of the batch could not do with a request (``Request.error``) goes to ``on_error`` when
        ``handler`` has returned. Raises ValueError for another size.
        """
        if not 1 <= size <= BATCH:
            raise ValueError(f"queue {self.index}: batches of {size} requests; 1 to {BATCH} are possible")
        return self.run(handler, on_error, budget, size, accelerator)

    @cython.cfunc
    def run(self, handler, on_error, budget: cython.int, together: cython.int, accelerator: Optional[Accelerator]):
        """Until the ring is empty or the budget spent; ``together``: how many requests a call of the handler gets, 0 for one by one."""
        total: cython.int = 0
        count: cython.int
        taken: cython.int
        memory: GuestMemory
        fast: cython.bint = accelerator is not None
        # Few at a time for a handler in Python: what is taken of them stays in the nearest cache until their turn comes.
        most: cython.int = together if together else BATCH if fast else self.shown()
        # One thread at a time fills and empties the batch; a second one finds the first at work and has nothing to do.
        if counter_exchange(cython.address(self.processing), 1) != 0:
            return 0
        self.served = 1
        if fast:
            counter_add(cython.address(accelerator.users), 1)
            accelerator.bell(False)
        try:
            self.prepare()
            while total < budget:
                memory = self.snapshot()
                taken = 0
                if fast:
                    accelerator.keep(memory)
                if fast or self.long_chains:
                    with cython.nogil:
                        count = self.take(memory, accelerator, budget - total, most, cython.address(taken))
                else:
                    # Giving up the GIL costs more than to look at a few descriptors; see WALK.
                    count = self.take(memory, accelerator, budget - total, most, cython.address(taken))
                total += taken
                if self.given_up.chain != cython.NULL:
                    self.redo(handler, on_error, together)
                elif count > 0:
                    try:
                        self.answer(count, memory, handler, on_error, together)
                    finally:
                        # Before the last answers are seen: a driver that goes then, or brings other memory, finds nothing of
                        # this one still mapped because of us.
                        memory = None
                        self.put_done(0, count)
                    if self.is_broken:
                        self.report()
                        break
                elif count != OTHER_MEMORY:
                    if count == BROKEN:
                        self.report()
                    break
            if fast:
                # The bell first, then a last look: what finishes between the two is seen by one of them.
                accelerator.bell(True)
                full_fence()
                while self.collect(accelerator):
                    self.redo(handler, on_error, together)
        finally:
            self.flush()
            if self.long_chains:
                self.trim()
            if fast:
                accelerator.bell(True)
                counter_add(cython.address(accelerator.users), -1)
            counter_set(cython.address(self.processing), 0)
        return total

    @cython.cfunc
    def prepare(self):
        index: cython.int
        if self.chains[0] == cython.NULL or self.chain_missing:
            for index in range(BATCH):
                if self.chains[index] == cython.NULL:
                    self.chains[index] = chain_new()
                if self.chains[index] == cython.NULL:
                    raise MemoryError
            self.chain_missing = False

    @cython.cfunc
    def answer(self, count: cython.int, memory: GuestMemory, handler, on_error, together: cython.int):
        """The chains taken, those the fast path declined, as requests to the handler. What it leaves open is completed."""
        pinned: cython.bint = memory.pin() != 0
        self.batch_memory = cython.cast(cython.p_void, memory) if pinned else cython.NULL
        store_64(cython.address(self.batch_thread), this_thread())
        try:
            if together:
                self.answer_together(count, memory, pinned, handler, on_error, together)
            else:
                self.answer_each(count, memory, pinned, handler, on_error)
        finally:
            store_64(cython.address(self.batch_thread), 0)
            self.batch_memory = cython.NULL
            if pinned:
                memory.unpin()

    @cython.cfunc
    def answer_each(self, count: cython.int, memory: GuestMemory, pinned: cython.bint, handler, on_error):
        index: cython.int = 0
        unsettled: cython.int = 0
        published: uint64_t = ticks()
        generation: int64_t = self.taken_generation
        request: Request = None
        calling: cython.bint = False
        show: cython.int = self.shown()
        # The loop is inside of the try, and begun again after an exception: entering it for each request would cost as much as
        # taking one.
        while index < count:
            try:
                while index < count:
                    if self.outcomes[index] == DECLINED:
                        request = self.hand_out(index, memory, generation)
                        if pinned and generation == self.generation:
                            calling = True
                            outcome = handler(request)
                            if outcome is not None:
                                self.returned(request, outcome)
                                outcome = None
                            calling = False
                        self.settled(request, index)
                    index += 1
                    # The clock is asked after every fourth: it costs as much as what is done here otherwise.
                    if (index - unsettled >= show and index < count) or (index & 3 == 0 and ticks() - published > PUBLISH_TICKS):
                        self.put_done(unsettled, index)
                        unsettled = index
                        published = ticks()
            except BaseException as error:
                if not calling:
                    raise
                calling = False
                _failed(request, on_error, error)
                self.settled(request, index)
                index += 1

    @cython.cfunc
    def answer_together(self, count: cython.int, memory: GuestMemory, pinned: cython.bint, handler, on_error, together: cython.int):
        index: cython.int
        generation: int64_t = self.taken_generation
        request: Request
        failure = None
        chosen: Batch = Batch()
        for index in range(count):
            if self.outcomes[index] == DECLINED:
                PyList_Append(chosen, self.hand_out(index, memory, generation))
        if pinned and generation == self.generation:
            try:
                outcome = handler(chosen)
                if outcome is not None:
                    self.returned(chosen, outcome)
                outcome = None
            except BaseException as error:
                failure = error
        # From here on not by this list: it was the handler's to change, or to keep.
        chosen = None
        for index in range(count):
            if self.outcomes[index] != DECLINED:
                continue
            request = cython.cast(Request, self.batch[index])
            if request.state == IN_FLIGHT:
                if request.problem is not None:
                    _failed(request, on_error, request.problem)
                elif failure is not None and not request.taken:
                    _failed(request, on_error, failure)
            self.settled(request, index)

    @cython.cfunc
    def returned(self, target, outcome):
        """The handler returned something. Apart from the loops, which are shorter so."""
        if self.on_outcome is not None:
            self.on_outcome(target, outcome)

    @cython.cfunc
    def redo(self, handler, on_error, together: cython.int):
        """The request that the fast path began and gave up: to the handler, as any other."""
        request: Request = self.spare()
        chain_free(request.chain)
        request.chain = self.given_up.chain
        self.given_up.chain = cython.NULL
        if self.given_up.generation != self.generation:
            return
        request.begin(cython.cast(GuestMemory, self.given_up.memory), self.given_up.generation)
        try:
            if together:
                batch: Batch = Batch()
                batch.append(request)
                outcome = handler(batch)
                if outcome is not None:
                    self.returned(batch, outcome)
                if request.problem is not None:
                    raise request.problem
            else:
                outcome = handler(request)
                if outcome is not None:
                    self.returned(request, outcome)
        except BaseException as error:
            if request.state == IN_FLIGHT:
                _failed(request, on_error, error)
        self.settle(request)

    @cython.cfunc
    def hand_out(self, position: cython.int, memory: GuestMemory, generation: int64_t) -> Request:
        """Chain ``position`` as a request. The objects are kept and used again, so that steady state allocates nothing."""
        request: Request
        while len(self.batch) <= position:
            self.batch.append(self.spare())
        request = cython.cast(Request, self.batch[position])
        chain: cython.pointer[Chain] = request.chain
        request.chain = self.chains[position]
        self.chains[position] = chain
        if request.layout is not self.layout:
            # As `snapshot`.
            with cython.critical_section(self):
                request.layout = self.layout
        request.begin(memory, generation)
        return request

    @cython.cfunc
    def settle(self, request: Request):
        """After the handler: complete what it neither took over nor completed."""
        if request.state == IN_FLIGHT and not request.taken:
            if counter_exchange(cython.address(request.state), COMPLETED) == IN_FLIGHT:
                self.finish(request.chain, request.generation, request.used_length())

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def settled(self, request: Request, index: cython.int) -> cython.int:
        """After the handler, in a batch: complete what it neither took over nor completed, and use the object again if possible.

        Its chain goes back to the batch, which puts all of them into the ring under one lock.
        """
        chain: cython.pointer[Chain]
        # Two references: the batch's and the caller's. Whoever else has one may still look at it, so it stays what it is.
        if not only_reference(request, 2):
            self.settle(request)
            self.batch[index] = self.spare()
            return 0
        if request.state == IN_FLIGHT:
            if request.taken:
                # Held and dropped: nobody can complete it any more. Its end gives the chain back (see Request.__dealloc__).
                self.batch[index] = self.spare()
                return 0
            chain = request.chain
            self.lengths[index] = request.used_length()
            if self.lengths[index] >> 32:
                # As in `finish`.
                self.lengths[index] -= 1
            request.chain = self.chains[index]
            self.chains[index] = chain
            self.outcomes[index] = DONE
        request.snapshot = None
        if request.data is not None:
            request.data = None
        if request.problem is not None:
            request.problem = None
        request.state = IDLE
        return 0

    def __repr__(self):
        state = "broken" if self.error is not None else "started" if self.is_started else "stopped"
        return f"<Vring {self.index} {state}{' enabled' if self.is_enabled else ''} size {self.ring_size} in flight {self.in_flight}>"


@cython.cfunc
def _failed(request: Request, on_error, error):
    """A handler raised: the device type's way to say so, or the log; never the worker's end."""
    if on_error is None:
        _log.error("queue %d, head %d: the handler failed", request.queue, request.chain.head, exc_info=error)
        return
    try:
        on_error(request, error)
    except BaseException:
        _log.exception("queue %d, head %d: reporting an error to the driver failed", request.queue, request.chain.head)


VringMutex = Vring
VringRwLock = Vring
