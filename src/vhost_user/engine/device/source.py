"""Where the requests of a vring come from: chains are taken from its ring, offered to the fast path, and given back (see vring.py)."""

import cython
from cython.cimports.libc.stdint import int64_t, uint32_t, uint64_t
from cython.cimports.vhost_user.engine.barriers import lock_nogil, prefetch_write, unlock
from cython.cimports.vhost_user.engine.device.chain import KEPT_SEGMENTS, Chain, chain_free, chain_new, chain_trim, chains_bring
from cython.cimports.vhost_user.engine.device.fast_path import DECLINED, DONE, SETTLED, UNDER_WAY, FastPath
from cython.cimports.vhost_user.engine.device.inflight import tracking_left
from cython.cimports.vhost_user.engine.device.source import ABSENT, BATCH, BROKEN, ENDED, NO_MORE, OTHER_MEMORY, SHOW, Taken
from cython.cimports.vhost_user.engine.device.vring_state import NEAR, VringState
from cython.cimports.vhost_user.engine.memory.guest_memory import GuestMemory
from cython.cimports.vhost_user.engine.ring_layout import DESCRIPTOR_SIZE

PUBLISH_BYTES = cython.declare(uint64_t, 262144)


@cython.final
@cython.no_gc_clear
@cython.cclass
class Source:
    """Takes chains out of the ring and gives them back."""

    # Not cleared by the garbage collector: `state` is used without a look whether it is still there. Cycles through it are
    # broken at the state, which has all that callers gave: callbacks, and errors with their tracebacks.

    def __cinit__(self, state: VringState):
        self.state = state

    def __dealloc__(self):
        for index in range(BATCH):
            chain_free(self.chains[index])

    @cython.cfunc
    def prepare(self):
        """A chain for each place of a batch."""
        index: cython.int
        if self.chains[0] == cython.NULL or self.chain_missing:
            for index in range(BATCH):
                if self.chains[index] == cython.NULL:
                    self.chains[index] = chain_new()
                if self.chains[index] == cython.NULL:
                    raise MemoryError
            self.chain_missing = False

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def fill(self, chains: cython.pointer[cython.pointer[Chain]], most: cython.int, memory: cython.p_void, disarm: cython.bint) -> Taken:
        """Take up to ``most`` chains into ``chains``."""
        taken: Taken
        result: cython.int
        taken.count = 0
        taken.why = NO_MORE
        taken.absent = 0
        lock_nogil(cython.address(self.state.mutex))
        taken.generation = self.state.generation
        if self.state.can_run():
            # The caller holds a reference to this snapshot; segments translated with another might not outlive the lock.
            if cython.cast(cython.p_void, self.state.ring.memory) != memory:
                taken.why = OTHER_MEMORY
                most = 0
            elif disarm:
                self.state.ring.disarm()
            if self.state.only_new and self.state.ring.tracking != cython.NULL:
                # Those of a process before us come alone: they have another way to go (see Handling.run).
                result = tracking_left(self.state.ring.tracking)
                if 0 < result < most:
                    most = result
            while taken.count < most and chains[taken.count] != cython.NULL:
                result = self.state.ring.next_chain(chains[taken.count])
                if result <= 0:
                    if result < 0 and self.state.ring.is_absent:
                        self.state.ring.is_absent = False
                        taken.absent = self.state.ring.absent
                        taken.why = ABSENT
                    elif result < 0:
                        self.state.is_broken = True
                        taken.why = BROKEN
                        # What was gathered of it until then leads nowhere, and may be much.
                        chain_trim(chains[taken.count])
                    elif self.state.ring.miss_count > 0:
                        # The chain in turn lacks translations, and so those behind it wait.
                        self.state.is_waiting = True
                        self.state.told = 0
                    break
                # Its header was written by another CPU and is wanted next; a status is mostly beside it, to be written.
                if chains[taken.count].count > 0:
                    prefetch_write(chains[taken.count].segments[0].iov_base)
                taken.count += 1
            if taken.count > 0:
                # Here, under the mutex: pop and process may run at once.
                self.state.counts.requests += taken.count
                self.state.ring.taken += taken.count
                chains[taken.count - 1].serial = self.state.ring.taken
            if self.state.ring.walked > KEPT_SEGMENTS:
                self.long_chains = True
            self.state.ring.walked = 0
        unlock(cython.address(self.state.mutex))
        taken.total = taken.count
        return taken

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def take(self, memory: GuestMemory, fast_path: FastPath, budget: cython.int, most: cython.int) -> Taken:
        """Take chains until some are for the handler: those of ``chains`` whose outcome is DECLINED.

        ``count`` is 0 when there are none, when the budget is spent, and when ``given_up`` has one that comes first.
        """
        index: cython.int
        total: cython.int = 0
        room: cython.int
        taken: Taken
        taken.count = 0
        taken.why = NO_MORE
        taken.absent = 0
        taken.generation = self.taken_generation
        while taken.why == NO_MORE and total < budget:
            if fast_path is not None and self.collect(fast_path):
                taken.count = 0
                break
            room = budget - total
            if room > most:
                room = most
            taken = self.fill(self.chains, room, cython.cast(cython.p_void, memory), True)
            if taken.count == 0:
                if taken.why == ABSENT and memory.bring(taken.absent, DESCRIPTOR_SIZE):
                    taken.why = NO_MORE
                    continue
                break
            self.taken_generation = taken.generation
            total += taken.count
            self.state.counts.batches += 1
            if memory.sparse and not chains_bring(self.chains, taken.count, memory):
                # Nobody is going to answer these: they stay in flight, in the area of the front-end too, for the next session.
                taken.count = 0
                taken.why = ENDED
                break
            if fast_path is None or self.interrupted():
                for index in range(taken.count):
                    self.outcomes[index] = DECLINED
                break
            if self.offer(fast_path, memory, taken.count) > 0:
                break
            taken.count = 0
        taken.total = total
        return taken

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def interrupted(self) -> cython.bint:
        """The chains just taken were in flight when a process before us ended, and must not simply be carried out again."""
        return self.state.only_new and self.chains[0].again

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def offer(self, fast_path: FastPath, memory: GuestMemory, count: cython.int) -> cython.int:
        """Offer the chains taken to the fast path; the number it declined. Those done are back in the ring and visible."""
        index: cython.int
        declined: cython.int = 0
        settled: cython.int = 0
        moved: uint64_t = 0
        show: cython.int = self.shown()
        if not memory.pin():
            for index in range(count):
                self.outcomes[index] = DECLINED
            return count
        fast_path.current = cython.address(self.state.generation)
        fast_path.expected = self.taken_generation
        fast_path.prepare(self.chains[0])
        for index in range(count):
            if index + 1 < count:
                fast_path.prepare(self.chains[index + 1])
            fast_path.following = count - 1 - index
            self.outcomes[index] = fast_path.carry_out(
                self.chains[index], memory, self.taken_generation, cython.address(self.lengths[index])
            )
            if self.outcomes[index] == DECLINED:
                declined += 1
            elif self.outcomes[index] == UNDER_WAY:
                self.chains[index] = fast_path.replacement()
                if self.chains[index] == cython.NULL:
                    self.chain_missing = True
            else:
                moved += self.chains[index].readable_total + self.chains[index].writable_total
                if moved > PUBLISH_BYTES or index + 1 - settled >= show:
                    alive: cython.bint = self.put_done(settled, index + 1)
                    settled = index + 1
                    moved = 0
                    if not alive:
                        # The session ended, or the ring was stopped without waiting: nobody looks at the rest of the batch.
                        while settled < count:
                            self.outcomes[settled] = SETTLED
                            settled += 1
                        break
        fast_path.submit()
        memory.unpin()
        self.put_done(settled, count)
        return declined

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def shown(self) -> cython.int:
        """How many are given back at a time.

        A driver that goes on meanwhile, on another CPU, is told early. One that takes this CPU when it is told would only cost a
        switch there and back, and get fewer answers for it.
        """
        return BATCH if self.state.near >= NEAR else SHOW

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def put_done(self, first: cython.int, last: cython.int) -> cython.bint:
        """Put back what is done of a batch, make it visible, and call the driver if it waits for that. False: nobody waits any more.

        Called for the first few of a batch already: a driver that sleeps wakes up while the others are worked on, and one that
        is awake has suppressed the call.
        """
        index: cython.int
        lock_nogil(cython.address(self.state.mutex))
        alive: cython.bint = self.taken_generation == self.state.generation
        if alive:
            for index in range(first, last):
                if self.outcomes[index] == DONE:
                    self.state.ring.put(self.chains[index], cython.cast(uint32_t, self.lengths[index]))
                    self.outcomes[index] = SETTLED
            if self.state.is_attached:
                self.state.flush_locked()
            self.state.wake_drain()
        unlock(cython.address(self.state.mutex))
        return alive

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def trim(self) -> cython.void:
        """Nothing is taken: what huge chains needed goes back. Only the vring has a way to the chains that stand here."""
        index: cython.int
        self.long_chains = False
        for index in range(BATCH):
            if self.chains[index] != cython.NULL:
                chain_trim(self.chains[index])

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def collect(self, fast_path: FastPath) -> cython.bint:
        """Put back what finished meanwhile. True: one that the fast path gave up is in ``given_up``, for the handler."""
        outcome: cython.int = 0
        used: uint64_t = 0
        any_done: cython.bint = False
        chain: cython.pointer[Chain]
        generation: cython.pointer[int64_t] = cython.address(self.given_up.generation)
        while True:
            chain = fast_path.finished(cython.address(outcome), generation, cython.address(used), cython.address(self.given_up.memory))
            if chain == cython.NULL or outcome == DECLINED:
                break
            lock_nogil(cython.address(self.state.mutex))
            if generation[0] == self.state.generation:
                self.state.ring.put(chain, cython.cast(uint32_t, used))
                any_done = True
            unlock(cython.address(self.state.mutex))
            fast_path.recycle(chain)
        if any_done:
            lock_nogil(cython.address(self.state.mutex))
            if self.state.is_attached:
                self.state.flush_locked()
            if self.state.ring is not None:
                self.state.wake_drain()
            unlock(cython.address(self.state.mutex))
        self.given_up.chain = chain
        return chain != cython.NULL
