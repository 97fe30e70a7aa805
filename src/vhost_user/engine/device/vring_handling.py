"""Requests of a vring to a handler: handed out, answered, and what is left open completed (see vring.py)."""

import functools
import logging
from typing import Optional

import cython
from cython.cimports.cpython.list import PyList_Append
from cython.cimports.libc.stdint import int64_t, uint64_t
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
from cython.cimports.vhost_user.engine.device.chain import Chain, chain_free
from cython.cimports.vhost_user.engine.device.fast_path import DECLINED, DONE, FastPath
from cython.cimports.vhost_user.engine.device.request import Request
from cython.cimports.vhost_user.engine.device.request_state import COMPLETED, IDLE, IN_FLIGHT
from cython.cimports.vhost_user.engine.device.source import BATCH, BROKEN, OTHER_MEMORY, Source, Taken
from cython.cimports.vhost_user.engine.device.vring_state import VringState
from cython.cimports.vhost_user.engine.memory.guest_memory import GuestMemory

_log = logging.getLogger("vhost_user.engine")

# Requests of a running batch are given back at least this often, so that a slow handler does not hold up finished ones.
PUBLISH_TICKS = cython.declare(uint64_t, 100_000)


@cython.final
@cython.no_gc_clear
@cython.cclass
class Handling:
    """Calls a handler with what a source gives."""

    # Not cleared by the garbage collector, as Source: what callers gave is with the state.

    def __cinit__(self, source: Source):
        self.source = source
        self.state = source.state
        self.batch = []

    @cython.cfunc
    def run(self, vring, handler, on_error, budget: cython.int, together: cython.int, fast_path: Optional[FastPath]):
        """Until the ring is empty or the budget spent; ``together``: how many requests a call of the handler gets, 0 for one by one."""
        total: cython.int = 0
        taken: Taken
        memory: GuestMemory
        fast: cython.bint = fast_path is not None
        # Few at a time for a handler in Python: what is taken of them stays in the nearest cache until their turn comes.
        most: cython.int = together if together else BATCH if fast else self.source.shown()
        # One thread at a time fills and empties the batch; a second one finds the first at work and has nothing to do.
        if counter_exchange(cython.address(self.processing), 1) != 0:
            return 0
        self.state.served = 1
        if fast:
            counter_add(cython.address(fast_path.users), 1)
            fast_path.bell(False)
        try:
            self.source.prepare()
            while total < budget:
                memory = self.state.snapshot()
                if fast:
                    fast_path.keep(memory)
                if fast or self.source.long_chains or (memory is not None and memory.sparse):
                    with cython.nogil:
                        taken = self.source.take(memory, fast_path, budget - total, most)
                else:
                    # Giving up the GIL costs more than to look at a few descriptors; see WALK.
                    taken = self.source.take(memory, fast_path, budget - total, most)
                total += taken.total
                if self.source.given_up.chain != cython.NULL:
                    self.redo(handler, on_error, together)
                elif taken.count > 0:
                    try:
                        if self.source.interrupted():
                            self.answer(taken.count, memory, self.ask_first(handler, together), on_error, 0)
                        else:
                            self.answer(taken.count, memory, handler, on_error, together)
                    finally:
                        # Before the last answers are seen: a driver that goes then, or brings other memory, finds nothing of
                        # this one still mapped because of us.
                        memory = None
                        self.source.put_done(0, taken.count)
                    if self.state.is_broken:
                        self.state.report(vring)
                        break
                elif taken.why != OTHER_MEMORY:
                    if taken.why == BROKEN:
                        self.state.report(vring)
                    break
            if fast:
                # The bell first, then a last look: what finishes between the two is seen by one of them.
                fast_path.bell(True)
                full_fence()
                while self.source.collect(fast_path):
                    self.redo(handler, on_error, together)
        finally:
            self.state.flush()
            if self.source.long_chains:
                self.source.trim()
            if fast:
                fast_path.bell(True)
                counter_add(cython.address(fast_path.users), -1)
            counter_set(cython.address(self.processing), 0)
        if self.state.is_waiting:
            self.state.ask(vring)
        return total

    @cython.final
    @cython.cfunc
    def spare(self) -> Request:
        request: Request = Request()
        request.owner = self.state
        with cython.critical_section(self.state):
            request.layout = self.state.layout
        return request

    @cython.cfunc
    def answer(self, count: cython.int, memory: GuestMemory, handler, on_error, together: cython.int):
        """The chains taken, those the fast path declined, as requests to the handler. What it leaves open is completed."""
        pinned: cython.bint = memory.pin() != 0
        self.state.batch_memory = cython.cast(cython.p_void, memory) if pinned else cython.NULL
        store_64(cython.address(self.state.batch_thread), this_thread())
        try:
            if together:
                self.answer_together(count, memory, pinned, handler, on_error, together)
            else:
                self.answer_each(count, memory, pinned, handler, on_error)
        finally:
            store_64(cython.address(self.state.batch_thread), 0)
            self.state.batch_memory = cython.NULL
            if pinned:
                memory.unpin()

    @cython.final
    @cython.cfunc
    def answer_each(self, count: cython.int, memory: GuestMemory, pinned: cython.bint, handler, on_error):
        index: cython.int = 0
        unsettled: cython.int = 0
        published: uint64_t = ticks()
        generation: int64_t = self.source.taken_generation
        request: Request = None
        calling: cython.bint = False
        show: cython.int = self.source.shown()
        # The loop is inside of the try, and begun again after an exception: entering it for each request would cost as much as
        # taking one.
        while index < count:
            try:
                while index < count:
                    if self.source.outcomes[index] == DECLINED:
                        request = self.hand_out(index, memory, generation)
                        if pinned and generation == self.state.generation:
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
                        self.source.put_done(unsettled, index)
                        unsettled = index
                        published = ticks()
            except BaseException as error:
                if not calling:
                    raise
                calling = False
                _failed(request, on_error, error)
                self.settled(request, index)
                index += 1

    @cython.final
    @cython.cfunc
    def answer_together(self, count: cython.int, memory: GuestMemory, pinned: cython.bint, handler, on_error, together: cython.int):
        index: cython.int
        generation: int64_t = self.source.taken_generation
        request: Request
        failure = None
        chosen: Batch = Batch()
        for index in range(count):
            if self.source.outcomes[index] == DECLINED:
                PyList_Append(chosen, self.hand_out(index, memory, generation))
        if pinned and generation == self.state.generation:
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
            if self.source.outcomes[index] != DECLINED:
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
        callback = self.state.outcome_callback()
        if callback is not None:
            callback(target, outcome)

    @cython.cfunc
    def ask_first(self, handler, together: cython.int):
        """The handler of requests that a process before this one left in flight; see VringRecovery.set_interrupted."""
        return functools.partial(_ask_first, self.state.interrupted_callback(), handler, together)

    @cython.cfunc
    def redo(self, handler, on_error, together: cython.int):
        """The request that the fast path began and gave up: to the handler, as any other."""
        request: Request = self.spare()
        chain_free(request.chain)
        request.chain = self.source.given_up.chain
        self.source.given_up.chain = cython.NULL
        if self.source.given_up.generation != self.state.generation:
            return
        request.begin(cython.cast(GuestMemory, self.source.given_up.memory), self.source.given_up.generation)
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

    @cython.final
    @cython.cfunc
    def hand_out(self, position: cython.int, memory: GuestMemory, generation: int64_t) -> Request:
        """Chain ``position`` as a request. The objects are kept and used again, so that steady state allocates nothing."""
        request: Request
        while len(self.batch) <= position:
            self.batch.append(self.spare())
        request = cython.cast(Request, self.batch[position])
        chain: cython.pointer[Chain] = request.chain
        request.chain = self.source.chains[position]
        self.source.chains[position] = chain
        if request.layout is not self.state.layout:
            # As `snapshot`.
            with cython.critical_section(self.state):
                request.layout = self.state.layout
        request.begin(memory, generation)
        return request

    @cython.final
    @cython.cfunc
    def settle(self, request: Request):
        """After the handler: complete what it neither took over nor completed."""
        if request.state == IN_FLIGHT and not request.taken:
            if counter_exchange(cython.address(request.state), COMPLETED) == IN_FLIGHT:
                self.state.finish(request.chain, request.generation, request.used_length())

    @cython.final
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
            self.source.lengths[index] = request.used_length()
            if self.source.lengths[index] >> 32:
                # As in `finish`.
                self.source.lengths[index] -= 1
            request.chain = self.source.chains[index]
            self.source.chains[index] = chain
            self.source.outcomes[index] = DONE
        request.snapshot = None
        if request.data is not None:
            request.data = None
        if request.problem is not None:
            request.problem = None
        request.state = IDLE
        return 0


def _ask_first(on_interrupted, handler, together, request):
    """The handler of requests that a process before this one left in flight; see VringRecovery.set_interrupted."""
    # None: it was taken away since these were taken.
    if on_interrupted is not None and (on_interrupted(request) is not True or request.completed):
        return None
    if not together:
        return handler(request)
    batch: Batch = Batch()
    PyList_Append(batch, request)
    outcome = handler(batch)
    if request.error is not None:
        raise request.error
    return outcome


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
