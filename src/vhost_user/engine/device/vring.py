"""A vring of the device side: its requests to a handler, one by one or in batches (types: vring.pyi)."""

import logging
import warnings
from typing import Optional

import cython
from cython.cimports.cpython.list import PyList_Append
from cython.cimports.libc.stdint import int64_t, uint64_t
from cython.cimports.vhost_user.engine.device.fast_path import DECLINED, DONE, FastPath
from cython.cimports.vhost_user.engine.barriers import (
    counter_add,
    counter_exchange,
    counter_set,
    full_fence,
    only_reference,
    store_64,
    this_thread,
    ticks,
)
from cython.cimports.vhost_user.engine.device.batch import Batch
from cython.cimports.vhost_user.engine.device.chain import Chain, chain_free, chain_new
from cython.cimports.vhost_user.engine.memory.guest_memory import GuestMemory
from cython.cimports.vhost_user.engine.device.request import Request
from cython.cimports.vhost_user.engine.device.request_state import COMPLETED, IDLE, IN_FLIGHT
from cython.cimports.vhost_user.engine.device.vring_by_hand import VringByHand
from cython.cimports.vhost_user.engine.device.vring_flow import BATCH, BROKEN, OTHER_MEMORY

_log = logging.getLogger("vhost_user.engine")

# Requests of a running batch are given back at least this often, so that a slow handler does not hold up finished ones.
PUBLISH_TICKS = cython.declare(uint64_t, 100_000)


@cython.final
@cython.cclass
class Vring(VringByHand):
    """One virtqueue as the device sees it, split or packed behind one interface.

    Control-plane methods are called by one thread (the session's); data-plane methods from any. A ring
    processes when it is ``started``, ``enabled`` and not ``suspended``; ``runnable`` says so. Every method
    is safe against the others.
    """

    def __init__(self, index, max_size, *, on_broken=None):
        VringByHand.__init__(self, index, max_size, on_broken=on_broken)
        self.batch = []

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
        count: cython.int
        taken: cython.int
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
                taken = 0
                if fast:
                    fast_path.keep(memory)
                if fast or self.long_chains:
                    with cython.nogil:
                        count = self.take(memory, fast_path, budget - total, most, cython.address(taken))
                else:
                    # Giving up the GIL costs more than to look at a few descriptors; see WALK.
                    count = self.take(memory, fast_path, budget - total, most, cython.address(taken))
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


@cython.cfunc
def _renamed(fast_path: FastPath) -> FastPath:
    warnings.warn("the argument accelerator is now called fast_path", DeprecationWarning, stacklevel=1)
    return fast_path


VringMutex = Vring
VringRwLock = Vring
