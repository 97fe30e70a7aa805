"""A vring of the device side: ring state, doorbells, requests in flight, the batch loop (types and docstrings: vring.pyi)."""

# Locking: `mutex` guards the ring, its memory, its doorbells and its state. Under it only C code runs: nothing allocates or
# frees a Python object, so nobody waits for the GIL while holding it. A completion compares generations under the lock, so
# one that comes after the session ended finds nothing to do (C134).

import logging
from typing import Optional

import cython
from cython.cimports.libc.stdint import int64_t, uint8_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy
from cython.cimports.posix.fcntl import F_GETFL, O_NONBLOCK, fcntl
from cython.cimports.posix.unistd import close
from cython.cimports.vhost_user.engine.accelerator import DECLINED, DONE, UNDER_WAY, Accelerator
from cython.cimports.vhost_user.engine.barriers import (
    condition_broadcast,
    condition_destroy,
    condition_init,
    condition_wait,
    counter_add,
    counter_exchange,
    counter_set,
    doorbell_ring,
    doorbell_take,
    full_fence,
    lock,
    lock_destroy,
    lock_init,
    lock_nogil,
    now_ns,
    only_reference,
    prefetch,
    this_thread,
    ticks,
    unlock,
)
from cython.cimports.vhost_user.engine.chain import Chain, chain_free, chain_new
from cython.cimports.vhost_user.engine.memory import GuestMemory
from cython.cimports.vhost_user.engine.packed import PackedRing
from cython.cimports.vhost_user.engine.request import COMPLETED, IDLE, IN_FLIGHT, Header, Request, RequestOwner
from cython.cimports.vhost_user.engine.ring import Ring
from cython.cimports.vhost_user.engine.split import SplitRing
from cython.cimports.vhost_user.engine.vring import BATCH

from vhost_user.engine.errors import RingError

_log = logging.getLogger("vhost_user.engine")

# Used entries of a running batch become visible at least this often, so that a slow handler does not hold up finished requests.
PUBLISH_TICKS = cython.declare(uint64_t, 100_000)
# A driver that looks at the ring by itself can go on meanwhile, so that the two work at the same time and not in turn.
SHOW = cython.declare(cython.int, 8)
PUBLISH_BYTES = cython.declare(uint64_t, 262144)
LARGEST = 32768
LONGEST = 1e6
LARGEST_LENGTH = cython.declare(uint64_t, 0xFFFFFFFF)


@cython.final
@cython.cclass
class Vring(RequestOwner):
    def __cinit__(self, index, max_size, *, on_broken=None):
        lock_init(cython.address(self.mutex))
        condition_init(cython.address(self.idle))
        self.kick_fd = -1
        self.call_fd = -1
        self.err_fd = -1
        self.position = -1

    def __init__(self, index, max_size, *, on_broken=None):
        if not 1 <= max_size <= LARGEST:
            raise ValueError(f"queue {index}: a maximum size of {max_size} is outside of 1 … {LARGEST} [C070]")
        self.index = index
        self.max_size = max_size
        self.on_broken = on_broken
        self.batch = []

    def __dealloc__(self):
        for fd in (self.kick_fd, self.call_fd, self.err_fd):
            if fd >= 0:
                close(fd)
        for index in range(BATCH):
            chain_free(self.chains[index])
        condition_destroy(cython.address(self.idle))
        lock_destroy(cython.address(self.mutex))

    # ------------------------------------------------------------------ state
    @property
    def size(self):
        return self.ring_size

    @property
    def packed(self):
        return self.want_packed

    @property
    def started(self):
        return self.is_started

    @property
    def enabled(self):
        return self.is_enabled

    @property
    def suspended(self):
        return self.is_suspended

    @property
    def runnable(self):
        return self.can_run()

    @property
    def mapped(self):
        return self.is_attached

    @property
    def broken(self):
        return self.error

    @property
    def in_flight(self):
        return self.ring.in_flight if self.ring is not None else 0

    def heads_in_flight(self):
        heads: uint8_t[8192]
        lock(cython.address(self.mutex))
        present: cython.bint = self.ring is not None
        if present:
            memcpy(heads, self.ring.outstanding, 8192)
        unlock(cython.address(self.mutex))
        if not present:
            return []
        return [head for head in range(65536) if heads[head >> 3] >> (head & 7) & 1]

    @property
    def has_kick(self):
        return self.kick_fd >= 0

    @property
    def has_call(self):
        return self.call_fd >= 0

    @property
    def kick(self):
        return self.kick_fd

    def statistics(self):
        return {
            "requests": self.counts.requests,
            "batches": self.counts.batches,
            "calls": self.counts.calls,
            "calls_suppressed": self.counts.calls_suppressed,
            "kicks": self.counts.kicks,
            "arms": self.counts.arms,
            "polls_hit": self.counts.polls_hit,
            "dropped": self.counts.dropped,
        }

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def can_run(self) -> cython.bint:
        # Flags only: workers ask without the lock, and the ring itself may be gone at any moment.
        return self.is_started and self.is_enabled and not self.is_suspended and self.is_attached and not self.is_broken

    # ------------------------------------------------------------------ control plane
    def set_features(self, *, packed, event_idx, indirect, in_order, notify_on_empty=False):
        if self.is_started and bool(packed) != self.want_packed:
            raise RuntimeError(f"queue {self.index}: the ring format cannot change while the ring is started [C072]")
        if bool(packed) != self.want_packed:
            self.base_value = 0
            self.has_base = False
            self.base_from_ring = False
        self.want_packed = packed
        self.want_indirect = indirect
        self.want_in_order = in_order
        self.want_event_idx = event_idx
        self.want_notify_on_empty = notify_on_empty

    def set_size(self, size):
        if self.is_started:
            raise RuntimeError(f"queue {self.index}: the size cannot change while the ring is started [C072]")
        if not 1 <= size <= self.max_size:
            raise ValueError(f"queue {self.index}: size {size} is outside of 1 … {self.max_size} [C070]")
        if not self.want_packed and size & (size - 1):
            raise ValueError(f"queue {self.index}: the size of a split ring is a power of two, not {size} [C070]")
        self.ring_size = size

    def set_addresses(self, *, descriptor, driver, device, log_address=None):
        packed = self.want_packed
        for name, address, alignment in (
            ("descriptor area", descriptor, 16),
            ("driver area", driver, 4 if packed else 2),
            ("device area", device, 4),
        ):
            if address % alignment:
                raise ValueError(f"queue {self.index}: {name} at {address:#x} is not aligned to {alignment} bytes [C071]")
        # Converted before the lock is taken: a number that is no address raises here.
        areas: uint64_t[3]
        areas[0] = descriptor
        areas[1] = driver
        areas[2] = device
        log: uint64_t = 0 if log_address is None else log_address
        logged: cython.bint = log_address is not None
        lock(cython.address(self.mutex))
        self.descriptor_address = areas[0]
        self.driver_address = areas[1]
        self.device_address = areas[2]
        self.logged = logged
        self.log_address = log
        self.has_addresses = True
        unlock(cython.address(self.mutex))
        if self.is_started:
            self.reattach()

    def set_base(self, value):
        if self.is_started:
            raise RuntimeError(f"queue {self.index}: the base cannot change while the ring is started [C072]")
        if value >> 16 and not self.want_packed:
            raise ValueError(f"queue {self.index}: the base of a split ring has 16 bits, not {value:#x} [C056]")
        if not 0 <= value < 1 << 32:
            raise ValueError(f"queue {self.index}: the base of a ring has 32 bits, not {value:#x} [C057]")
        self.base_value = value
        self.has_base = True
        self.base_from_ring = False

    def base(self):
        lock(cython.address(self.mutex))
        value = self.ring.get_base() if self.base_from_ring else self.base_value
        if self.want_packed and not self.has_base:
            value = (1 << 15) | (1 << 31)
        unlock(cython.address(self.mutex))
        return value

    def set_memory(self, memory: Optional[GuestMemory]):
        lock(cython.address(self.mutex))
        old = self.memory
        self.memory = memory
        unlock(cython.address(self.mutex))
        # A stopped ring too: requests may still complete into it, and it must not keep regions mapped that are gone.
        if self.ring is not None:
            self.reattach()
        # `old` is let go here, outside of the lock: its regions may be unmapped now.
        del old

    @cython.cfunc
    def reattach(self):
        """Translate the ring areas again. Unpublished used entries are made visible in the old place first."""
        lock(cython.address(self.mutex))
        old = self.ring.memory
        old_regions = self.ring.regions
        if self.is_attached:
            self.flush_locked()
        self.ring.descriptor_address = self.descriptor_address
        self.ring.driver_address = self.driver_address
        self.ring.device_address = self.device_address
        self.ring.logged = self.logged
        self.ring.log_address = self.log_address
        # attach touches no Python object but the reference it stores; `old` keeps the previous one until the lock is free.
        self.is_attached = self.ring.attach(self.memory)
        if self.is_attached:
            # What completed while the memory was away becomes visible now (C044).
            self.flush_locked()
        unlock(cython.address(self.mutex))
        del old, old_regions

    def set_header(self, header: Optional[Header]):
        self.layout = header

    @cython.cfunc
    def replace_fd(self, place: cython.pointer[cython.int], fd):
        new: cython.int = -1 if fd is None else fd
        lock(cython.address(self.mutex))
        old: cython.int = place[0]
        place[0] = new
        unlock(cython.address(self.mutex))
        return old

    def set_kick(self, fd):
        old: cython.int = self.replace_fd(cython.address(self.kick_fd), fd)
        if old >= 0:
            # What was pending there counts for the new one (C066): the ring is looked at anyway.
            counter_set(cython.address(self.nudged), 1)
            close(old)

    def set_call(self, fd):
        nonblocking = 0 if fd is None else fcntl(fd, F_GETFL) & O_NONBLOCK
        lock(cython.address(self.mutex))
        old: cython.int = self.call_fd
        self.call_fd = -1 if fd is None else fd
        self.call_nonblocking = nonblocking
        # A call that went to the old one may be lost with it; a spurious one is harmless (C065, V019).
        if self.is_started and self.is_attached and self.call_fd >= 0:
            doorbell_ring(self.call_fd, self.call_nonblocking)
        unlock(cython.address(self.mutex))
        if old >= 0:
            close(old)

    def set_err(self, fd):
        nonblocking = 0 if fd is None else fcntl(fd, F_GETFL) & O_NONBLOCK
        old: cython.int = self.replace_fd(cython.address(self.err_fd), fd)
        self.err_nonblocking = nonblocking
        if old >= 0:
            close(old)

    def start(self):
        if self.is_started:
            return
        missing = [
            name
            for name, present in (
                ("SET_VRING_NUM", self.ring_size > 0),
                ("SET_VRING_ADDR", self.has_addresses),
                ("SET_MEM_TABLE or ADD_MEM_REG", self.memory is not None),
            )
            if not present
        ]
        if missing:
            raise RuntimeError(f"queue {self.index}: cannot start, {' and '.join(missing)} did not come [C073]")
        base: uint32_t = self.ring.get_base() if self.base_from_ring else self.base_value
        ring: Ring
        if self.want_packed:
            ring = PackedRing()
            if not self.has_base:
                # Both positions 0, both wrap counters 1 (V024).
                base = (1 << 15) | (1 << 31)
            if cython.cast(cython.int, base & 0x7FFF) >= self.ring_size or cython.cast(cython.int, base >> 16 & 0x7FFF) >= self.ring_size:
                raise RuntimeError(f"queue {self.index}: base {base:#x} lies outside of a ring of {self.ring_size} [C057]")
        else:
            ring = SplitRing()
            if self.ring_size & (self.ring_size - 1):
                raise RuntimeError(f"queue {self.index}: the size of a split ring is a power of two, not {self.ring_size} [C070]")
        ring.index = self.index
        ring.event_idx = self.want_event_idx
        ring.indirect = self.want_indirect
        ring.in_order = self.want_in_order
        ring.notify_on_empty = self.want_notify_on_empty
        ring.configure(self.ring_size)
        ring.set_base(base)
        lock(cython.address(self.mutex))
        old = self.ring
        error = self.error
        if old is not None and old.in_flight > 0:
            # Nobody waited for these: they belong to the ring as it was, completing them does nothing.
            self.generation += 1
        self.ring = ring
        self.is_broken = False
        self.error = None
        self.is_attached = False
        self.quiet = False
        self.undecided = False
        self.call_owed = False
        unlock(cython.address(self.mutex))
        # Freed outside of the lock: frames of the error may hold requests, which then come back to this ring.
        del old, error
        self.reattach()
        if not self.is_attached:
            raise RuntimeError(
                f"queue {self.index}: cannot start, ring areas at {self.descriptor_address:#x}, {self.driver_address:#x}, "
                f"{self.device_address:#x} do not each lie in one memory region [C071]"
            )
        ring.begin()
        lock(cython.address(self.mutex))
        self.is_started = True
        self.has_base = True
        self.base_from_ring = True
        unlock(cython.address(self.mutex))
        counter_set(cython.address(self.nudged), 1)

    def set_enabled(self, enabled):
        lock(cython.address(self.mutex))
        self.is_enabled = enabled
        unlock(cython.address(self.mutex))
        if enabled:
            counter_set(cython.address(self.nudged), 1)

    def set_suspended(self, suspended):
        lock(cython.address(self.mutex))
        self.is_suspended = suspended
        unlock(cython.address(self.mutex))
        if not suspended:
            counter_set(cython.address(self.nudged), 1)

    def stop(self):
        lock(cython.address(self.mutex))
        if self.is_started:
            if self.is_attached:
                self.flush_locked()
            self.is_started = False
        unlock(cython.address(self.mutex))

    def drain(self, timeout):
        if self.ring is None:
            return True
        deadline: int64_t = now_ns() + cython.cast(int64_t, max(0.0, min(float(timeout), LONGEST)) * 1e9)
        empty: cython.bint = False
        with cython.nogil:
            lock_nogil(cython.address(self.mutex))
            while self.ring is not None and self.ring.in_flight > 0:
                if condition_wait(cython.address(self.idle), cython.address(self.mutex), deadline) != 0:
                    break
            empty = self.ring is None or self.ring.in_flight == 0
            if empty and self.is_attached:
                self.flush_locked()
            unlock(cython.address(self.mutex))
        return empty

    def abandon(self):
        lock(cython.address(self.mutex))
        self.generation += 1
        if self.ring is not None:
            self.ring.forget()
        condition_broadcast(cython.address(self.idle))
        unlock(cython.address(self.mutex))

    def reset(self):
        self.stop()
        self.abandon()
        self.shut()

    @cython.cfunc
    def shut(self):
        lock(cython.address(self.mutex))
        ring = self.ring
        memory = self.memory
        error = self.error
        fds: cython.int[3]
        fds[0] = self.kick_fd
        fds[1] = self.call_fd
        fds[2] = self.err_fd
        self.ring = None
        self.memory = None
        self.is_attached = False
        self.is_enabled = False
        self.is_suspended = False
        self.error = None
        self.kick_fd = -1
        self.call_fd = -1
        self.err_fd = -1
        self.has_addresses = False
        self.ring_size = 0
        self.base_value = 0
        self.has_base = False
        self.base_from_ring = False
        self.quiet = False
        self.undecided = False
        self.call_owed = False
        self.logged = False
        self.want_packed = False
        self.want_event_idx = False
        self.want_indirect = False
        self.want_in_order = False
        self.want_notify_on_empty = False
        self.served = 0
        self.nudged = 0
        unlock(cython.address(self.mutex))
        index: cython.int
        for index in range(3):
            if fds[index] >= 0:
                close(fds[index])
        # Freed outside of the lock: frames of the error may hold requests, which then come back to this ring.
        del ring, memory, error

    # ------------------------------------------------------------------ completions
    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def finish(self, chain: cython.pointer[Chain], generation: int64_t, written: uint64_t) -> cython.void:
        lock_nogil(cython.address(self.mutex))
        # No ring: the garbage collector took this vring apart before the request that it finishes now.
        if generation == self.generation and self.ring is not None:
            if written > LARGEST_LENGTH:
                written = LARGEST_LENGTH
            self.ring.put(chain, cython.cast(uint32_t, written))
            # A batch publishes its own at its end; anybody else's completion is visible at once.
            if self.batch_thread != this_thread() and self.is_attached:
                self.flush_locked()
            if self.ring.in_flight == 0:
                condition_broadcast(cython.address(self.idle))
        unlock(cython.address(self.mutex))

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def lose(self, chain: cython.pointer[Chain], generation: int64_t) -> cython.void:
        self.counts.dropped += 1
        self.finish(chain, generation, 0)

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
            if self.call_fd >= 0:
                doorbell_ring(self.call_fd, self.call_nonblocking)
                self.counts.calls += 1
        else:
            self.counts.calls_suppressed += 1

    # ------------------------------------------------------------------ taking requests
    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def fill(
        self,
        chains: cython.pointer[cython.pointer[Chain]],
        most: cython.int,
        memory: cython.p_void,
        generation: cython.pointer[int64_t],
        disarm: cython.bint,
    ) -> cython.int:
        """Take up to ``most`` chains; their number, -1 when the ring broke before the first, -2 when the memory is another by now."""
        count: cython.int = 0
        result: cython.int
        lock_nogil(cython.address(self.mutex))
        if self.can_run():
            # The caller holds a reference to this snapshot; segments translated with another might not outlive the lock.
            if cython.cast(cython.p_void, self.ring.memory) != memory:
                unlock(cython.address(self.mutex))
                return -2
            generation[0] = self.generation
            if disarm:
                self.ring.disarm()
            while count < most:
                result = self.ring.next_chain(chains[count])
                if result <= 0:
                    if result < 0:
                        self.is_broken = True
                        if count == 0:
                            count = -1
                    break
                # Its header was written by another CPU and is wanted next.
                if chains[count].count > 0:
                    prefetch(chains[count].segments[0].iov_base)
                count += 1
        unlock(cython.address(self.mutex))
        return count

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def accelerate(self, accelerator: Accelerator, memory: GuestMemory, count: cython.int) -> cython.int:
        """Offer the chains taken to the fast path; the number it declined. Those done are back in the ring and visible."""
        index: cython.int
        declined: cython.int = 0
        settled: cython.int = 0
        moved: uint64_t = 0
        if not memory.pin():
            for index in range(count):
                self.outcomes[index] = DECLINED
            return count
        accelerator.prepare(self.chains[0])
        for index in range(count):
            if index + 1 < count:
                accelerator.prepare(self.chains[index + 1])
            self.outcomes[index] = accelerator.carry_out(self.chains[index], memory, self.taken_generation, cython.address(self.lengths[index]))
            if self.outcomes[index] == DECLINED:
                declined += 1
            elif self.outcomes[index] == UNDER_WAY:
                self.chains[index] = accelerator.replacement()
            else:
                moved += self.chains[index].readable_total + self.chains[index].writable_total
                if moved > PUBLISH_BYTES:
                    self.put_done(settled, index + 1, True)
                    settled = index + 1
                    moved = 0
                elif index + 1 - settled >= SHOW:
                    self.put_done(settled, index + 1, False)
                    settled = index + 1
        accelerator.submit()
        memory.unpin()
        self.put_done(settled, count, True)
        return declined

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def put_done(self, first: cython.int, last: cython.int, decide: cython.bint) -> cython.void:
        """Put back what is done of a batch and make it visible; ``decide``: about a call, too."""
        index: cython.int
        lock_nogil(cython.address(self.mutex))
        if self.taken_generation == self.generation:
            for index in range(first, last):
                if self.outcomes[index] == DONE:
                    self.ring.put(self.chains[index], cython.cast(uint32_t, self.lengths[index]))
            if self.is_attached:
                if decide:
                    self.flush_locked()
                elif self.ring.publish():
                    self.undecided = True
            if self.ring.in_flight == 0:
                condition_broadcast(cython.address(self.idle))
        unlock(cython.address(self.mutex))

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def collect(
        self, accelerator: Accelerator, generation: cython.pointer[int64_t], memory: cython.pointer[cython.p_void]
    ) -> cython.pointer[Chain]:
        """Put back what finished meanwhile. A chain that the fast path gave up is returned, for the handler."""
        outcome: cython.int = 0
        used: uint64_t = 0
        any_done: cython.bint = False
        chain: cython.pointer[Chain]
        while True:
            chain = accelerator.finished(cython.address(outcome), generation, cython.address(used), memory)
            if chain == cython.NULL or outcome == DECLINED:
                break
            lock_nogil(cython.address(self.mutex))
            if generation[0] == self.generation:
                self.ring.put(chain, cython.cast(uint32_t, used))
                any_done = True
            unlock(cython.address(self.mutex))
            accelerator.recycle(chain)
        if any_done:
            lock_nogil(cython.address(self.mutex))
            if self.is_attached:
                self.flush_locked()
            if self.ring is not None and self.ring.in_flight == 0:
                condition_broadcast(cython.address(self.idle))
            unlock(cython.address(self.mutex))
        return chain

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
    def take_kick(self) -> cython.void:
        lock_nogil(cython.address(self.mutex))
        if self.kick_fd >= 0 and doorbell_take(self.kick_fd):
            self.counts.kicks += 1
        unlock(cython.address(self.mutex))

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
        if self.err_fd >= 0:
            doorbell_ring(self.err_fd, self.err_nonblocking)
        unlock(cython.address(self.mutex))
        message: str = cython.cast(bytes, text).decode()
        if message.endswith(("by", ":", "to", "entry", "address")):
            message = f"{message} {value:#x}"
        error = RingError(message, rule=cython.cast(bytes, rule).decode(), queue=self.index, head=head)
        if self.memory is not None and self.memory.lost:
            # What looks like a broken ring is zeros where memory was: the session ends for that reason, not this one.
            self.error = error
            return None
        self.error = error
        if self.on_broken is not None:
            self.on_broken(self, error)
        else:
            _log.error("%s; the ring is stopped", error)
        return error

    def pop(self):
        generation: int64_t = 0
        while True:
            memory = self.memory
            request = self.spare()
            with cython.nogil:
                count: cython.int = self.fill(
                    cython.address(request.chain), 1, cython.cast(cython.p_void, memory), cython.address(generation), False
                )
            if count == -2:
                continue
            if count == 1:
                self.counts.requests += 1
                request.begin(memory, generation)
                return request
            if count < 0:
                error = self.report()
                if error is not None:
                    raise error
            elif not self.served and not self.quiet and self.arm():
                # Whoever empties a ring by hand gets a kick for what comes next without asking for it; this came meanwhile.
                continue
            return None

    def add_used(self, request: Request, written=-1):
        """Put back without publishing a call: signal_used_queue decides about it."""
        if request.owner is not self:
            raise ValueError(f"this request belongs to queue {request.queue}, not to queue {self.index}")
        before: uint64_t = self.batch_thread
        self.batch_thread = this_thread()
        try:
            request.complete(written)
        finally:
            self.batch_thread = before
        lock(cython.address(self.mutex))
        if self.is_attached and self.ring.publish():
            self.undecided = True
        unlock(cython.address(self.mutex))

    def needs_notification(self):
        lock(cython.address(self.mutex))
        # Asking settles the matter for the ring, so the answer is kept until somebody acts on it.
        self.undecided = False
        if self.is_attached and self.ring.wants_call():
            self.call_owed = True
        result: cython.bint = self.call_owed
        unlock(cython.address(self.mutex))
        return result

    def signal_used_queue(self):
        lock(cython.address(self.mutex))
        sent: cython.bint = False
        self.undecided = False
        if self.is_attached and self.call_fd >= 0 and (self.ring.wants_call() or self.call_owed):
            self.call_owed = False
            sent = doorbell_ring(self.call_fd, self.call_nonblocking)
            self.counts.calls += 1
        unlock(cython.address(self.mutex))
        return sent

    def enable_notification(self):
        self.quiet = False
        return self.arm()

    def disable_notification(self):
        self.quiet = True
        lock(cython.address(self.mutex))
        if self.is_attached:
            self.ring.disarm()
        unlock(cython.address(self.mutex))

    @cython.cfunc
    def spare(self) -> Request:
        request: Request = Request()
        request.owner = self
        request.layout = self.layout
        return request

    @cython.cfunc
    def settle(self, request: Request):
        """After the handler: complete what it neither took over nor completed."""
        if request.state == IN_FLIGHT and not request.taken:
            if counter_exchange(cython.address(request.state), COMPLETED) == IN_FLIGHT:
                self.finish(request.chain, request.generation, request.used_length())

    @cython.cfunc
    def settle_in_batch(self, request: Request, index: cython.int) -> cython.bint:
        """After the handler, in a batch: complete what it neither took over nor completed. True: the object can be used again.

        Its chain goes back to the batch, which puts all of them into the ring under one lock.
        """
        chain: cython.pointer[Chain]
        # Two references: the batch's and the caller's. Whoever else has one may still look at it, so it stays what it is.
        if not only_reference(request, 2):
            self.settle(request)
            return False
        if request.state == IN_FLIGHT:
            if request.taken:
                # Held and dropped: nobody can complete it any more. Its end gives the chain back (see Request.__dealloc__).
                return False
            chain = request.chain
            self.lengths[index] = request.used_length()
            request.chain = self.chains[index]
            self.chains[index] = chain
            self.outcomes[index] = DONE
        request.memory = None
        request.user_data = None
        request.state = IDLE
        return True

    def process(self, handler, on_error=None, budget=1024, accelerator: Accelerator = None):
        return _process(self, handler, on_error, budget, False, accelerator)

    def process_batch(self, handler, on_error=None, budget=1024, accelerator: Accelerator = None):
        return _process(self, handler, on_error, budget, True, accelerator)

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
def _hand_out(vring: Vring, position: cython.int, memory: GuestMemory, generation: int64_t) -> Request:
    """Chain ``position`` as a request. The objects are kept and used again, so that steady state allocates nothing."""
    request: Request
    while len(vring.batch) <= position:
        vring.batch.append(vring.spare())
    request = cython.cast(Request, vring.batch[position])
    chain: cython.pointer[Chain] = request.chain
    request.chain = vring.chains[position]
    vring.chains[position] = chain
    request.layout = vring.layout
    request.begin(memory, generation)
    return request


@cython.cfunc
def _redo(vring: Vring, chain: cython.pointer[Chain], memory: GuestMemory, generation: int64_t, handler, on_error, whole_batch: cython.bint):
    """A request the fast path began and gave up: to the handler, as any other."""
    request: Request = vring.spare()
    chain_free(request.chain)
    request.chain = chain
    if generation != vring.generation:
        return
    request.begin(memory, generation)
    try:
        handler([request] if whole_batch else request)
    except BaseException as error:
        _failed(request, on_error, error)
    vring.settle(request)


@cython.cfunc
def _process(vring: Vring, handler, on_error, budget: cython.int, whole_batch: cython.bint, accelerator: Optional[Accelerator]):
    total: cython.int = 0
    count: cython.int = 0
    index: cython.int
    declined: cython.int
    published: uint64_t
    unsettled: cython.int
    generation: int64_t = 0
    redo_generation: int64_t = 0
    redo_memory: cython.p_void = cython.NULL
    redo: cython.pointer[Chain] = cython.NULL
    request: Request
    memory: GuestMemory
    fast: cython.bint = accelerator is not None
    memory_pinned: cython.bint = False
    # One thread at a time fills and empties the batch; a second one finds the first at work and has nothing to do.
    if counter_exchange(cython.address(vring.processing), 1) != 0:
        return 0
    vring.served = 1
    batch: list = vring.batch
    if fast:
        counter_add(cython.address(accelerator.users), 1)
        accelerator.bell(False)
    try:
        if vring.chains[0] == cython.NULL:
            for index in range(BATCH):
                vring.chains[index] = chain_new()
                if vring.chains[index] == cython.NULL:
                    raise MemoryError
        while total < budget:
            memory = vring.memory
            declined = 0
            redo = cython.NULL
            if fast:
                accelerator.keep(memory)
            with cython.nogil:
                if fast:
                    redo = vring.collect(accelerator, cython.address(redo_generation), cython.address(redo_memory))
                while redo == cython.NULL:
                    count = BATCH if budget - total > BATCH else budget - total
                    count = vring.fill(
                        vring.chains, count, cython.cast(cython.p_void, memory), cython.address(vring.taken_generation), True
                    )
                    if count <= 0:
                        break
                    total += count
                    vring.counts.requests += count
                    vring.counts.batches += 1
                    if not fast:
                        break
                    declined = vring.accelerate(accelerator, memory, count)
                    if declined or total >= budget:
                        break
                    redo = vring.collect(accelerator, cython.address(redo_generation), cython.address(redo_memory))
            if redo != cython.NULL:
                _redo(vring, redo, cython.cast(GuestMemory, redo_memory), redo_generation, handler, on_error, whole_batch)
                continue
            if count == -2:
                continue
            if count <= 0:
                if count < 0:
                    vring.report()
                break
            if fast and declined == 0:
                continue
            vring.batch_thread = this_thread()
            generation = vring.taken_generation
            published = ticks()
            unsettled = 0
            memory_pinned = memory.pin() != 0
            vring.batch_memory = cython.cast(cython.p_void, memory) if memory_pinned else cython.NULL
            for index in range(count):
                if not fast:
                    vring.outcomes[index] = DECLINED
                elif vring.outcomes[index] == DONE:
                    # Settled already, by accelerate().
                    vring.outcomes[index] = UNDER_WAY
            if whole_batch:
                chosen = []
                for index in range(count):
                    if not fast or vring.outcomes[index] == DECLINED:
                        chosen.append(_hand_out(vring, index, memory, generation))
                if memory_pinned and generation == vring.generation:
                    try:
                        handler(chosen)
                    except BaseException as error:
                        for request in chosen:
                            if request.state == IN_FLIGHT and not request.taken:
                                _failed(request, on_error, error)
                chosen = None
            for index in range(count):
                if fast and vring.outcomes[index] != DECLINED:
                    continue
                if whole_batch:
                    request = cython.cast(Request, batch[index])
                else:
                    request = _hand_out(vring, index, memory, generation)
                    if memory_pinned and generation == vring.generation:
                        try:
                            handler(request)
                        except BaseException as error:
                            _failed(request, on_error, error)
                if not vring.settle_in_batch(request, index):
                    batch[index] = vring.spare()
                if not whole_batch:
                    if ticks() - published > PUBLISH_TICKS:
                        vring.put_done(unsettled, index + 1, True)
                        unsettled = index + 1
                        published = ticks()
                    elif index + 1 - unsettled >= SHOW:
                        vring.put_done(unsettled, index + 1, False)
                        unsettled = index + 1
            vring.put_done(unsettled, count, True)
            vring.batch_thread = 0
            vring.batch_memory = cython.NULL
            if memory_pinned:
                memory_pinned = False
                memory.unpin()
            if vring.is_broken:
                vring.report()
                break
        if fast:
            # The bell first, then a last look: what finishes between the two is seen by one of them.
            accelerator.bell(True)
            full_fence()
        while fast:
            redo = vring.collect(accelerator, cython.address(redo_generation), cython.address(redo_memory))
            if redo == cython.NULL:
                break
            _redo(vring, redo, cython.cast(GuestMemory, redo_memory), redo_generation, handler, on_error, whole_batch)
    finally:
        vring.batch_thread = 0
        vring.batch_memory = cython.NULL
        if memory_pinned:
            memory.unpin()
        vring.flush()
        if fast:
            accelerator.bell(True)
            counter_add(cython.address(accelerator.users), -1)
        counter_set(cython.address(vring.processing), 0)
    return total


VringMutex = Vring
VringRwLock = Vring
