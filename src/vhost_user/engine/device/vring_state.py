"""The state of a vring: what was set up, whether it runs, and what anybody does with it under its lock (see vring.py)."""

# A vring is stopped or started. Most of what sets it up is for a stopped one; what WHILE_STARTED names is refused while it is
# started, with the rule. set_addresses may move the ring then, and set_features change everything but the format.
#
#   from     to        by
#   new      stopped   set_size, set_addresses, set_memory (in any order; `missing` says what is left to do)
#   stopped  started   start
#   started  stopped   stop; what is in flight may still complete, until abandon or give_back
#   any      new       reset
#
# Whether requests are taken is a matter of five flags, RUNS_WHEN; each is moved by itself, whatever the others are.
#
# Locking: `mutex` guards the ring, its memory, its doorbells and its state. Under it only C code runs: nothing allocates or
# frees a Python object, so nobody waits for the GIL while holding it. A completion compares generations under the lock, so
# one that comes after the session ended finds nothing to do (C134).

import logging

import cython
from cython.cimports.libc.stdint import int64_t, uint8_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy
from cython.cimports.posix.unistd import close
from cython.cimports.vhost_user.engine.barriers import (
    condition_broadcast,
    condition_destroy,
    condition_init,
    counter_add,
    counter_exchange,
    load_64,
    lock,
    lock_destroy,
    lock_init,
    lock_nogil,
    this_thread,
    unlock,
)
from cython.cimports.vhost_user.engine.device.chain import Chain
from cython.cimports.vhost_user.engine.device.ring import MAX_TABLE_ENTRIES, Ring
from cython.cimports.vhost_user.engine.device.vring_state import Statistics
from cython.cimports.vhost_user.engine.doorbell import ring_bell, take_bell
from cython.cimports.vhost_user.engine.memory.guest_memory import GuestMemory

from vhost_user.engine.errors import RingError, RingValueError

_log = logging.getLogger("vhost_user.engine")

RUNS_WHEN = {"started": True, "enabled": True, "suspended": False, "mapped": True, "broken": False}
MAX_SIZE = 32768
DEFAULT_MAX_READ = cython.declare(int64_t, 16 << 20)
MAX_USED_LENGTH = cython.declare(uint64_t, 0xFFFFFFFF)


@cython.final
@cython.cclass
class VringState:
    """All that the parts of a ``Vring`` share. A request refers to it as its owner."""

    def __cinit__(self, index, max_size, on_broken):
        lock_init(cython.address(self.mutex))
        condition_init(cython.address(self.idle))
        self.kick_bell.fd = -1
        self.call_bell.fd = -1
        self.err_bell.fd = -1
        self.table_limit = MAX_TABLE_ENTRIES
        self.read_limit = DEFAULT_MAX_READ
        self.position = -1
        if not 1 <= max_size <= MAX_SIZE:
            raise RingValueError(f"a maximum size of {max_size} is outside of 1 … {MAX_SIZE}", rule="C070", queue=index)
        self.index = index
        self.max_size = max_size
        self.on_broken = on_broken

    def __dealloc__(self):
        for fd in (self.kick_bell.fd, self.call_bell.fd, self.err_bell.fd):
            if fd >= 0:
                close(fd)
        condition_destroy(cython.address(self.idle))
        lock_destroy(cython.address(self.mutex))

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def can_run(self) -> cython.bint:
        # Flags only: workers ask without the lock, and the ring itself may be gone at any moment.
        return (
            self.is_started
            and self.is_enabled
            and not self.is_suspended
            and self.is_attached
            and not self.is_broken
            and not self.is_waiting
        )

    @cython.cfunc
    def snapshot(self) -> GuestMemory:
        # `memory` is replaced by the control plane and read by workers. A pointer that is loaded and only then referred to
        # may be freed in between, where no GIL keeps the other thread out; there the critical section does, on both sides.
        # It is entered before the mutex, never with it in hand.
        with cython.critical_section(self):
            return self.memory

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

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def put_quietly(self, chain: cython.pointer[Chain], length: uint64_t) -> cython.void:
        """With the mutex: visible to the driver, and no call. The length is clamped as in `finish`."""
        self.ring.put(chain, cython.cast(uint32_t, length - (length >> 32)))
        if self.is_attached and self.ring.publish():
            self.undecided = True
        self.wake_drain()

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def wake_drain(self) -> cython.void:
        """With the mutex, after completions: whoever waits for requests to end looks again."""
        if self.ring.in_flight == 0 or self.watchers > 0:
            condition_broadcast(cython.address(self.idle))

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def flush(self) -> cython.void:
        lock_nogil(cython.address(self.mutex))
        if self.is_attached:
            self.flush_locked()
        unlock(cython.address(self.mutex))

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def flush_locked(self) -> cython.void:
        """Make used entries visible and notify the driver if it wants that. The fd cannot be replaced meanwhile: same lock."""
        if self.ring.publish():
            self.undecided = True
        if not self.undecided:
            return
        self.undecided = False
        if self.ring.wants_call() or self.call_owed:
            self.call_owed = False
            if self.call_bell.fd >= 0:
                # A driver that sleeps on this CPU takes it as soon as it is called, and its next requests are there afterwards.
                position: cython.int = self.ring.driver_position()
                ring_bell(self.call_bell.fd, self.call_bell.kind)
                self.counts.calls += 1
                if position >= 0:
                    self.near += ((256 if self.ring.driver_position() != position else 0) - self.near) >> 4
        else:
            self.counts.calls_suppressed += 1
            # It is awake while we run: on another CPU. Without this, one that no longer sleeps would be taken for what it was.
            self.near -= self.near >> 4

    # ------------------------------------------------------------------ what its worker asks
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

    # ------------------------------------------------------------------ what others are told
    @cython.cfunc
    def outcome_callback(self):
        # As `snapshot`.
        with cython.critical_section(self):
            return self.on_outcome

    @cython.cfunc
    def interrupted_callback(self):
        # As `snapshot`.
        with cython.critical_section(self):
            return self.on_interrupted

    @cython.cfunc
    def count_in_flight(self):
        # Under the lock: the control plane may be letting go of the ring.
        lock(cython.address(self.mutex))
        count: cython.int = self.ring.in_flight if self.ring is not None else 0
        unlock(cython.address(self.mutex))
        return count

    @cython.cfunc
    def heads(self):
        heads: uint8_t[8192]
        lock(cython.address(self.mutex))
        present: cython.bint = self.ring is not None
        if present:
            memcpy(heads, self.ring.outstanding, 8192)
        unlock(cython.address(self.mutex))
        if not present:
            return []
        return [head for head in range(65536) if heads[head >> 3] >> (head & 7) & 1]

    @cython.cfunc
    def statistics(self):
        # Under the lock: who was called finds the call counted.
        lock(cython.address(self.mutex))
        counts: Statistics = self.counts
        near: cython.int = self.near
        unlock(cython.address(self.mutex))
        return {
            "requests": counts.requests,
            "batches": counts.batches,
            "calls": counts.calls,
            "calls_suppressed": counts.calls_suppressed,
            "kicks": counts.kicks,
            "arms": counts.arms,
            "polls_hit": counts.polls_hit,
            "dropped": counts.dropped,
            "near": near,
        }

    @cython.cfunc
    def ask(self, vring):
        """Translations are missing: whoever can ask for them is told. Without the mutex."""
        with cython.critical_section(self):
            callback = self.missing_callback
        if callback is not None:
            callback(vring)

    @cython.cfunc
    def report(self, vring):
        """The driver broke a rule: tell the front-end by the err fd, the framework by on_broken; once."""
        lock(cython.address(self.mutex))
        ring: Ring = self.ring
        if ring is None or not ring.broken or ring.reported or self.error is not None:
            unlock(cython.address(self.mutex))
            return None
        # Said under the mutex: of two threads that found it broken, one reports it.
        ring.reported = True
        rule = ring.error_rule
        text = ring.error_text
        head = ring.error_head
        value = ring.error_value
        ring_bell(self.err_bell.fd, self.err_bell.kind)
        unlock(cython.address(self.mutex))
        message: str = cython.cast(bytes, text).decode().format(value)
        error = RingError(message, rule=cython.cast(bytes, rule).decode(), queue=self.index, head=head)
        memory: GuestMemory = self.snapshot()
        with cython.critical_section(self):
            lock(cython.address(self.mutex))
            old = self.error
            # Started anew meanwhile: the ring that runs now is not broken.
            if self.ring is ring and old is None:
                self.error = error
            unlock(cython.address(self.mutex))
        if memory is not None and memory.lost:
            # What looks like a broken ring is zeros where memory was: the session ends for that reason, not this one.
            return None
        if self.on_broken is not None:
            self.on_broken(vring, error)
        else:
            _log.error("%s; the ring is stopped", error)
        return error
