"""The control plane of a vring: its state, memory and doorbells, and how it starts and stops (types and docstrings: vring_control.pyi)."""

# Locking: `mutex` guards the ring, its memory, its doorbells and its state. Under it only C code runs: nothing allocates or
# frees a Python object, so nobody waits for the GIL while holding it. A completion compares generations under the lock, so
# one that comes after the session ended finds nothing to do (C134).

from typing import Optional

import cython
from cython.cimports.libc.stdint import int64_t, uint8_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy
from cython.cimports.posix.unistd import close
from cython.cimports.vhost_user.engine.barriers import (
    condition_broadcast,
    condition_destroy,
    condition_init,
    condition_wait,
    counter_add,
    counter_get,
    counter_set,
    lock,
    lock_destroy,
    lock_init,
    lock_nogil,
    now_ns,
    unlock,
)
from cython.cimports.vhost_user.engine.doorbell import NO_BELL, adopt, ring_bell
from cython.cimports.vhost_user.engine.memory.guest_memory import GuestMemory
from cython.cimports.vhost_user.engine.device.packed import PackedRing
from cython.cimports.vhost_user.engine.device.request import Header, RequestOwner
from cython.cimports.vhost_user.engine.device.ring import TABLE_LIMIT, Ring
from cython.cimports.vhost_user.engine.device.split import SplitRing
from vhost_user.engine.errors import RingStateError, RingValueError
from cython.cimports.vhost_user.engine.device.vring_control import Bell

LARGEST = 32768
MOST_BYTES = 1 << 32
MAX_READ = cython.declare(int64_t, 16 << 20)
LONGEST = 1e6
# The base of a packed ring that is new: both positions 0, both wrap counters 1 (V024).
NEW_PACKED = cython.declare(uint32_t, 0x80008000)


@cython.cclass
class VringControl(RequestOwner):
    """VringControl(index, max_size, *, on_broken=None)\n--\n\n\
    What the session's thread does with a vring."""

    def __cinit__(self, index, max_size, *, on_broken=None):
        lock_init(cython.address(self.mutex))
        condition_init(cython.address(self.idle))
        self.kick_bell.fd = -1
        self.call_bell.fd = -1
        self.err_bell.fd = -1
        self.table_limit = TABLE_LIMIT
        self.read_limit = MAX_READ

    def __init__(self, index, max_size, *, on_broken=None):
        if not 1 <= max_size <= LARGEST:
            raise RingValueError(f"a maximum size of {max_size} is outside of 1 … {LARGEST}", rule="C070", queue=index)
        if self.max_size:
            # Once more would take the requests at hand away from under a worker.
            raise RuntimeError(f"queue {self.index}: a vring is made once")
        self.index = index
        self.max_size = max_size
        self.on_broken = on_broken

    def __dealloc__(self):
        for fd in (self.kick_bell.fd, self.call_bell.fd, self.err_bell.fd):
            if fd >= 0:
                close(fd)
        condition_destroy(cython.address(self.idle))
        lock_destroy(cython.address(self.mutex))

    # ------------------------------------------------------------------ state
    @property
    def size(self):
        """Size of the ring in descriptors: what ``set_size`` said, at first the largest."""
        return self.ring_size

    @property
    def indirect_limit(self):
        """Entries of an indirect table that are followed: 4096 unless set, and always as many as the ring has.

        Drivers make tables longer than the ring, with as many entries as the device's configuration allows;
        a longer one breaks the ring (V005). 1 to 65536; counts from the next chain on.
        """
        return self.table_limit

    @indirect_limit.setter
    def indirect_limit(self, value):
        if not 1 <= value <= 65536:
            raise ValueError(f"queue {self.index}: an indirect_limit of {value}; 1 to 65536 descriptors are possible")
        self.table_limit = value
        lock(cython.address(self.mutex))
        if self.ring is not None:
            self.ring.table_limit = self.table_limit
        unlock(cython.address(self.mutex))

    @property
    def max_read(self):
        """Bytes that ``Request.read()`` gives without being told a length; 16 MiB unless set."""
        return counter_get(cython.address(self.read_limit))

    @max_read.setter
    def max_read(self, value):
        if not 0 <= value <= MOST_BYTES:
            raise ValueError(f"queue {self.index}: a max_read of {value}; 0 to {MOST_BYTES} bytes are possible")
        counter_set(cython.address(self.read_limit), value)

    @property
    def packed(self):
        """Whether the ring is packed; else it is split."""
        return self.want_packed

    @property
    def started(self):
        """Whether the ring was started and not stopped since (C050, C053)."""
        return self.is_started

    @property
    def enabled(self):
        """Whether the ring is enabled (C061); remembered while it is stopped."""
        return self.is_enabled

    @property
    def suspended(self):
        """Whether the ring is held back although it is started and enabled (C132)."""
        return self.is_suspended

    @property
    def runnable(self):
        """Whether requests are taken: started, enabled, not suspended, not broken, and its memory is there."""
        return self.can_run()

    @property
    def mapped(self):
        """All three areas lie in mapped memory."""
        return self.is_attached

    @property
    def broken(self):
        """The rule the driver broke, if it did; cleared by reset and by a new start."""
        with cython.critical_section(self):
            return self.error

    @property
    def in_flight(self):
        """Requests taken and not yet completed."""
        # Under the lock: `shut` may be letting go of the ring.
        lock(cython.address(self.mutex))
        count: cython.int = self.ring.in_flight if self.ring is not None else 0
        unlock(cython.address(self.mutex))
        return count

    def heads_in_flight(self):
        """Their heads (split) or buffer ids (packed), ascending."""
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
        """Whether the driver kicks; otherwise the ring is polled (C052)."""
        return self.kick_bell.fd >= 0

    @property
    def has_call(self):
        """Whether the driver can be called; otherwise it polls (C052)."""
        return self.call_bell.fd >= 0

    @property
    def kick(self):
        """The kick fd, or -1; for the worker's registration."""
        return self.kick_bell.fd

    @property
    def call(self):
        """The call fd, or -1. It stays the ring's: whoever hands it on makes a duplicate."""
        return self.call_bell.fd

    @property
    def err(self):
        """The err fd, or -1, as ``call``."""
        return self.err_bell.fd

    def statistics(self):
        """Counters since creation.

        Requests, batches, calls sent, calls suppressed, kicks, polls that found work …
        """
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
        """What was negotiated. ``packed`` cannot change while started.

        Without ``indirect``, indirect tables are served all the same: drivers exist that use them unasked.
        """
        if self.is_started and bool(packed) != self.want_packed:
            raise RingStateError(f"the ring format cannot change while the ring is started", rule="C072", queue=self.index)
        if bool(packed) != self.want_packed:
            self.base_value = 0
            self.has_base = False
            self.base_from_ring = False
        self.want_packed = packed
        self.want_in_order = in_order
        self.want_event_idx = event_idx
        self.want_notify_on_empty = notify_on_empty

    def set_size(self, size):
        """SET_VRING_NUM; raises ValueError with the rule (C070) and, when started, RuntimeError (C072)."""
        if self.is_started:
            raise RingStateError(f"the size cannot change while the ring is started", rule="C072", queue=self.index)
        if not 1 <= size <= self.max_size:
            raise RingValueError(f"size {size} is outside of 1 … {self.max_size}", rule="C070", queue=self.index)
        if not self.want_packed and size & (size - 1):
            raise RingValueError(f"the size of a split ring is a power of two, not {size}", rule="C070", queue=self.index)
        self.ring_size = size

    def set_addresses(self, *, descriptor, driver, device, log_address=None):
        """Guest addresses of the three areas.

        They are desc, avail, used for a split ring; ring, driver event, device event for a packed one.
        Raises ValueError on misalignment (C071). While started it moves the ring or toggles logging (C072,
        C086). The split ring's used index is read from the ring at start (C059). ``log_address`` None: ring
        writes are not logged (C079).
        """
        packed = self.want_packed
        for name, address, alignment in (
            ("descriptor area", descriptor, 16),
            ("driver area", driver, 4 if packed else 2),
            ("device area", device, 4),
        ):
            if address % alignment:
                raise RingValueError(f"{name} at {address:#x} is not aligned to {alignment} bytes", rule="C071", queue=self.index)
        # Converted before the lock is taken: a number that is not an address raises here.
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
        """SET_VRING_BASE in the negotiated form (C057).

        Of a packed ring the upper half may be absent (zero): the used position is the available one then. Plain 0
        is a new ring if no descriptor was ever used when the ring starts. See the bases of packed rings in
        docs/messages.md.
        """
        if self.is_started:
            raise RingStateError(f"the base cannot change while the ring is started", rule="C072", queue=self.index)
        if value >> 16 and not self.want_packed:
            raise RingValueError(f"the base of a split ring has 16 bits, not {value:#x}", rule="C056", queue=self.index)
        if not 0 <= value < 1 << 32:
            raise RingValueError(f"the base of a ring has 32 bits, not {value:#x}", rule="C057", queue=self.index)
        self.base_value = value
        self.has_base = True
        self.base_from_ring = False

    def base(self):
        """What GET_VRING_BASE answers."""
        lock(cython.address(self.mutex))
        value = self.ring.get_base() if self.base_from_ring else self.base_value
        if self.want_packed and not self.has_base:
            value = NEW_PACKED
        unlock(cython.address(self.mutex))
        return value

    @cython.cfunc
    def snapshot(self) -> GuestMemory:
        # `memory` is replaced by the control plane and read by workers. A pointer that is loaded and only then referred to
        # may be freed in between, where no GIL keeps the other thread out; there the critical section does, on both sides.
        # It is entered before the mutex, never with it in hand.
        with cython.critical_section(self):
            return self.memory

    def set_memory(self, memory: Optional[GuestMemory]):
        """New snapshot: ring areas are translated again.

        A ring whose memory went away pauses until it comes back (C041, C044).
        """
        with cython.critical_section(self):
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
        memory: GuestMemory = self.snapshot()
        # A pin, so that `attach` can take the snapshot's regions while the session's end may be letting go of them; given
        # back when the lock is free, because its end could run Python code. Closed already: `attach` refuses it.
        pinned: cython.bint = memory is not None and memory.pin() != 0
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
        self.is_attached = self.ring.attach(memory if pinned else None)
        if self.is_attached:
            # What completed while the memory was away becomes visible now (C044).
            self.flush_locked()
        unlock(cython.address(self.mutex))
        if pinned:
            memory.unpin()
        del old, old_regions, memory

    def set_header(self, header: Optional[Header]):
        """The format of the header that requests of this queue begin with; None for none."""
        with cython.critical_section(self):
            self.layout = header

    @cython.cfunc
    def replace_bell(self, place: cython.pointer[Bell], fd, reading: cython.bint):
        """Take ``fd`` (or None) over as a doorbell and close the one before; ValueError, with the old one in place, when it cannot be one."""
        new: Bell
        new.fd = -1 if fd is None else fd
        new.kind = NO_BELL if fd is None else adopt(new.fd, reading)
        lock(cython.address(self.mutex))
        old: cython.int = place.fd
        place[0] = new
        # A call that went to the old one may be lost with it; a spurious one is harmless (C065, V019).
        if place == cython.address(self.call_bell) and self.is_started and self.is_attached:
            ring_bell(new.fd, new.kind)
        unlock(cython.address(self.mutex))
        if old >= 0:
            close(old)
        return old >= 0

    def set_kick(self, fd):
        """Take ownership of the kick fd (None: poll, C052).

        A kick pending on the old one is not lost (C066). ValueError for what is neither an eventfd nor the
        right end of a pipe nor one end of a Unix socket pair (C067): it stays the caller's, and the old one
        in use. So for the two below.
        """
        if self.replace_bell(cython.address(self.kick_bell), fd, True):
            # What was pending there counts for the new one (C066): the ring is looked at anyway.
            counter_set(cython.address(self.nudged), 1)

    def set_call(self, fd):
        """Take ownership of the call fd; a new one is signalled once (C065)."""
        self.replace_bell(cython.address(self.call_bell), fd, False)

    def set_err(self, fd):
        """Take ownership of the err fd, which is signalled when the ring breaks."""
        self.replace_bell(cython.address(self.err_bell), fd, False)

    def start(self):
        """C050; raises RuntimeError naming what is missing: size, addresses or memory (C073)."""
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
            raise RingStateError(f"cannot start, {' and '.join(missing)} did not come", rule="C073", queue=self.index)
        base: uint32_t = self.ring.get_base() if self.base_from_ring else self.base_value
        short: cython.bint = self.want_packed and self.has_base and not self.base_from_ring and base >> 16 == 0
        ring: Ring
        if self.want_packed:
            ring = PackedRing()
            if not self.has_base:
                base = NEW_PACKED
            elif short:
                # The used half is absent: after a drain it equals the available one (docs/messages.md, bases of packed rings).
                base |= base << 16
            if cython.cast(cython.int, base & 0x7FFF) >= self.ring_size or cython.cast(cython.int, base >> 16 & 0x7FFF) >= self.ring_size:
                raise RingStateError(f"base {base:#x} lies outside of a ring of {self.ring_size}", rule="C057", queue=self.index)
        else:
            ring = SplitRing()
            if self.ring_size & (self.ring_size - 1):
                raise RingStateError(f"the size of a split ring is a power of two, not {self.ring_size}", rule="C070", queue=self.index)
        ring.index = self.index
        ring.event_idx = self.want_event_idx
        ring.table_limit = self.table_limit
        ring.in_order = self.want_in_order
        ring.notify_on_empty = self.want_notify_on_empty
        ring.configure(self.ring_size)
        ring.set_base(base)
        with cython.critical_section(self):
            lock(cython.address(self.mutex))
            old = self.ring
            error = self.error
            if old is not None and old.in_flight > 0:
                # Nobody waited for these: they belong to the ring as it was, completing them does nothing.
                counter_add(cython.address(self.generation), 1)
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
            raise RingStateError(
                f"cannot start, ring areas at {self.descriptor_address:#x}, {self.driver_address:#x}, "
                f"{self.device_address:#x} do not each lie in one memory region, with the same alignment in its file",
                rule="C071",
                queue=self.index,
            )
        if short and base == 0 and ring.never_used():
            ring.set_base(NEW_PACKED)
        ring.begin()
        lock(cython.address(self.mutex))
        self.is_started = True
        self.has_base = True
        self.base_from_ring = True
        unlock(cython.address(self.mutex))
        counter_set(cython.address(self.nudged), 1)

    def set_enabled(self, enabled):
        """SET_VRING_ENABLE: let the ring run or hold it (C061 to C064)."""
        lock(cython.address(self.mutex))
        self.is_enabled = enabled
        unlock(cython.address(self.mutex))
        if enabled:
            counter_set(cython.address(self.nudged), 1)

    def set_suspended(self, suspended):
        """Hold the ring back although it is started and enabled, or let it go on (C132)."""
        lock(cython.address(self.mutex))
        self.is_suspended = suspended
        unlock(cython.address(self.mutex))
        if not suspended:
            counter_set(cython.address(self.nudged), 1)

    def stop(self):
        """Take no more requests; in-flight ones may still complete (C053)."""
        lock(cython.address(self.mutex))
        if self.is_started:
            if self.is_attached:
                self.flush_locked()
            self.is_started = False
        unlock(cython.address(self.mutex))

    def drain(self, timeout):
        """Wait up to ``timeout`` seconds, GIL released, until no request is in flight (C054).

        True when none is.
        """
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
        """Forget the in-flight requests: completing them later does nothing (C055, end of session)."""
        lock(cython.address(self.mutex))
        counter_add(cython.address(self.generation), 1)
        if self.ring is not None:
            self.ring.forget()
        condition_broadcast(cython.address(self.idle))
        unlock(cython.address(self.mutex))

    def give_back(self):
        """Give the requests in flight of a stopped ring back to the driver; nobody is going to answer them.

        Those taken last count as never taken: ``base`` steps back, and the next start finds them again. One that is
        older than a request which was completed cannot be untaken: it is used with length 0. Gives the numbers of the
        two. The requests can no longer be used. Raises RuntimeError while the ring is started.
        """
        if self.is_started:
            raise RuntimeError(f"queue {self.index}: requests are given back by a stopped ring; this one runs")
        turned: cython.int = 0
        empty: cython.int = 0
        lock(cython.address(self.mutex))
        # From here on the requests are strangers to this ring: completing them does nothing, using them raises (C134).
        self.generation += 1
        if self.ring is not None:
            turned = self.ring.in_flight
            empty = self.ring.give_back()
            turned -= empty
            if self.is_attached:
                self.flush_locked()
        condition_broadcast(cython.address(self.idle))
        unlock(cython.address(self.mutex))
        return turned, empty

    def reset(self):
        """Back to the state of creation.

        Abandon, close all fds, drop memory, addresses, base, flags (C134).
        """
        self.stop()
        self.abandon()
        # See `snapshot`.
        with cython.critical_section(self):
            self.shut()

    @cython.cfunc
    def shut(self):
        lock(cython.address(self.mutex))
        ring = self.ring
        memory = self.memory
        error = self.error
        fds: cython.int[3]
        fds[0] = self.kick_bell.fd
        fds[1] = self.call_bell.fd
        fds[2] = self.err_bell.fd
        self.ring = None
        self.memory = None
        self.is_attached = False
        self.is_enabled = False
        self.is_suspended = False
        self.error = None
        self.kick_bell.fd = -1
        self.call_bell.fd = -1
        self.err_bell.fd = -1
        self.kick_bell.kind = NO_BELL
        self.call_bell.kind = NO_BELL
        self.err_bell.kind = NO_BELL
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
