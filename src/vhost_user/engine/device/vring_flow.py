"""The way of requests through a vring: taken, offered to the fast path, given back; and what its worker asks it."""

import logging

import cython
from cython.cimports.libc.stdint import int64_t, uint32_t, uint64_t
from cython.cimports.vhost_user.engine.device.fast_path import DECLINED, DONE, SETTLED, UNDER_WAY, FastPath
from cython.cimports.vhost_user.engine.barriers import (
    counter_add,
    counter_exchange,
    load_64,
    lock,
    lock_nogil,
    prefetch_write,
    this_thread,
    unlock,
)
from cython.cimports.vhost_user.engine.device.chain import KEPT_SEGMENTS, Chain, chain_free, chain_trim, chains_bring
from cython.cimports.vhost_user.engine.device.inflight import tracking_left
from cython.cimports.vhost_user.engine.doorbell import ring_bell, take_bell
from cython.cimports.vhost_user.engine.memory.guest_memory import GuestMemory
from cython.cimports.vhost_user.engine.device.vring_translation import VringTranslation
from cython.cimports.vhost_user.engine.device.vring_flow import ABSENT, BATCH, BROKEN, ENDED, NEAR, NO_MORE, OTHER_MEMORY, SHOW, Taken
from cython.cimports.vhost_user.engine.ring_layout import DESCRIPTOR_SIZE

from vhost_user.engine.errors import RingError

_log = logging.getLogger("vhost_user.engine")

MAX_USED_LENGTH = cython.declare(uint64_t, 0xFFFFFFFF)
PUBLISH_BYTES = cython.declare(uint64_t, 262144)


@cython.cclass
class VringFlow(VringTranslation):
    """Takes chains out of the ring and gives them back."""

    def __cinit__(self, index, max_size, *, on_broken=None):
        self.position = -1

    def __dealloc__(self):
        for index in range(BATCH):
            chain_free(self.chains[index])

    # ------------------------------------------------------------------ completions
    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def finish(self, chain: cython.pointer[Chain], generation: int64_t, written: uint64_t) -> cython.void:
        lock_nogil(cython.address(self.mutex))
        # No ring: the garbage collector took this vring apart before the request that it finishes now.
        if generation == self.generation and self.ring is not None:
            # A chain of 2**32 bytes is legal; used.len has 32 bits. It may say less than was written, never 0 for all of it.
            if written > MAX_USED_LENGTH:
                written = MAX_USED_LENGTH
            self.ring.put(chain, cython.cast(uint32_t, written))
            # A batch publishes its own at its end; anybody else's completion is visible at once.
            if load_64(cython.address(self.batch_thread)) != this_thread() and self.is_attached:
                self.flush_locked()
            self.wake_drain()
        unlock(cython.address(self.mutex))

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def lose(self, chain: cython.pointer[Chain], generation: int64_t) -> cython.void:
        counter_add(cython.address(self.counts.dropped), 1)
        self.finish(chain, generation, 0)

    # ------------------------------------------------------------------ taking requests
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
        lock_nogil(cython.address(self.mutex))
        taken.generation = self.generation
        if self.can_run():
            # The caller holds a reference to this snapshot; segments translated with another might not outlive the lock.
            if cython.cast(cython.p_void, self.ring.memory) != memory:
                taken.why = OTHER_MEMORY
                most = 0
            elif disarm:
                self.ring.disarm()
            if self.only_new and self.ring.tracking != cython.NULL:
                # Those of a process before us come alone: they have another way to go (see Vring.run).
                result = tracking_left(self.ring.tracking)
                if 0 < result < most:
                    most = result
            while taken.count < most and chains[taken.count] != cython.NULL:
                result = self.ring.next_chain(chains[taken.count])
                if result <= 0:
                    if result < 0 and self.ring.is_absent:
                        self.ring.is_absent = False
                        taken.absent = self.ring.absent
                        taken.why = ABSENT
                    elif result < 0:
                        self.is_broken = True
                        taken.why = BROKEN
                        # What was gathered of it until then leads nowhere, and may be much.
                        chain_trim(chains[taken.count])
                    elif self.ring.miss_count > 0:
                        # The chain in turn lacks translations, and so those behind it wait.
                        self.is_waiting = True
                        self.told = 0
                    break
                # Its header was written by another CPU and is wanted next; a status is mostly beside it, to be written.
                if chains[taken.count].count > 0:
                    prefetch_write(chains[taken.count].segments[0].iov_base)
                taken.count += 1
            if taken.count > 0:
                self.ring.taken += taken.count
                chains[taken.count - 1].serial = self.ring.taken
            if self.ring.walked > KEPT_SEGMENTS:
                self.long_chains = True
            self.ring.walked = 0
        unlock(cython.address(self.mutex))
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
            self.counts.requests += taken.count
            self.counts.batches += 1
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
        return self.only_new and self.chains[0].again

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
        fast_path.current = cython.address(self.generation)
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
        return BATCH if self.near >= NEAR else SHOW

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def put_done(self, first: cython.int, last: cython.int) -> cython.bint:
        """Put back what is done of a batch, make it visible, and call the driver if it waits for that. False: nobody waits any more.

        Called for the first few of a batch already: a driver that sleeps wakes up while the others are worked on, and one that
        is awake has suppressed the call.
        """
        index: cython.int
        lock_nogil(cython.address(self.mutex))
        alive: cython.bint = self.taken_generation == self.generation
        if alive:
            for index in range(first, last):
                if self.outcomes[index] == DONE:
                    self.ring.put(self.chains[index], cython.cast(uint32_t, self.lengths[index]))
                    self.outcomes[index] = SETTLED
            if self.is_attached:
                self.flush_locked()
            self.wake_drain()
        unlock(cython.address(self.mutex))
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
            lock_nogil(cython.address(self.mutex))
            if generation[0] == self.generation:
                self.ring.put(chain, cython.cast(uint32_t, used))
                any_done = True
            unlock(cython.address(self.mutex))
            fast_path.recycle(chain)
        if any_done:
            lock_nogil(cython.address(self.mutex))
            if self.is_attached:
                self.flush_locked()
            if self.ring is not None:
                self.wake_drain()
            unlock(cython.address(self.mutex))
        self.given_up.chain = chain
        return chain != cython.NULL

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def nudged_to_run(self) -> cython.bint:
        """Was it nudged, and does it run? Under the lock: the control plane may be replacing the ring."""
        result: cython.bint
        if counter_exchange(cython.address(self.nudged), 0) == 0:
            return False
        lock_nogil(cython.address(self.mutex))
        result = self.can_run()
        unlock(cython.address(self.mutex))
        return result

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def look(self) -> cython.bint:
        """Is there something to take? For the worker's poll."""
        result: cython.bint
        lock_nogil(cython.address(self.mutex))
        result = self.can_run() and self.ring.has_work()
        unlock(cython.address(self.mutex))
        return result

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def arm(self) -> cython.bint:
        result: cython.bint
        lock_nogil(cython.address(self.mutex))
        result = self.can_run() and self.ring.arm()
        self.counts.arms += 1
        unlock(cython.address(self.mutex))
        return result

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def note_poll(self) -> cython.void:
        self.counts.polls_hit += 1

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def take_kick(self) -> cython.bint:
        """A kick came: drain it, an eventfd too; true when there may be more of it.

        One that stays readable would be a kick for whoever takes over from us (QEMU starts the device again for one that it finds
        after a stop), and a full one refuses kicks (H88).
        """
        self.counts.kicks += 1
        lock_nogil(cython.address(self.mutex))
        more: cython.bint = take_bell(self.kick_bell.fd, self.kick_bell.kind) > 1
        unlock(cython.address(self.mutex))
        return more

    @cython.cfunc
    def ask(self):
        """Translations are missing: whoever can ask for them is told. Without the mutex."""
        callback = self.on_missing
        if callback is not None:
            callback(self)

    @cython.cfunc
    def report(self):
        """The driver broke a rule: tell the front-end by the err fd, the framework by on_broken; once."""
        lock(cython.address(self.mutex))
        if self.ring is None or not self.ring.broken or self.error is not None:
            unlock(cython.address(self.mutex))
            return None
        rule = self.ring.error_rule
        text = self.ring.error_text
        head = self.ring.error_head
        value = self.ring.error_value
        ring_bell(self.err_bell.fd, self.err_bell.kind)
        unlock(cython.address(self.mutex))
        message: str = cython.cast(bytes, text).decode().format(value)
        error = RingError(message, rule=cython.cast(bytes, rule).decode(), queue=self.index, head=head)
        memory: GuestMemory = self.snapshot()
        with cython.critical_section(self):
            self.error = error
        if memory is not None and memory.lost:
            # What looks like a broken ring is zeros where memory was: the session ends for that reason, not this one.
            return None
        if self.on_broken is not None:
            self.on_broken(self, error)
        else:
            _log.error("%s; the ring is stopped", error)
        return error
