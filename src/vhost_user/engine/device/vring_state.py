"""The state of a vring: what was set up, and whether it runs (types: vring_state.pyi)."""

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

import cython
from cython.cimports.libc.stdint import int64_t, uint8_t
from cython.cimports.libc.string import memcpy
from cython.cimports.posix.unistd import close
from cython.cimports.vhost_user.engine.barriers import (
    condition_broadcast,
    condition_destroy,
    condition_init,
    counter_get,
    counter_set,
    lock,
    lock_destroy,
    lock_init,
    lock_nogil,
    unlock,
)
from cython.cimports.vhost_user.engine.device.request_state import RequestOwner
from cython.cimports.vhost_user.engine.device.ring import MAX_TABLE_ENTRIES
from cython.cimports.vhost_user.engine.device.vring_state import NEW_PACKED
from cython.cimports.vhost_user.engine.doorbell import ring_bell

from vhost_user.engine.errors import RingStateError, RingValueError

WHILE_STARTED = {
    "set_features": ("the ring format cannot change", "C072"),
    "set_size": ("the size cannot change", "C072"),
    "set_base": ("the base cannot change", "C072"),
    "set_inflight": ("the in-flight area cannot change", "C107"),
    "give_back": ("requests are given back by a stopped ring", "C053"),
}
RUNS_WHEN = {"started": True, "enabled": True, "suspended": False, "mapped": True, "broken": False}
MAX_SIZE = 32768
MAX_READ = 1 << 32
DEFAULT_MAX_READ = cython.declare(int64_t, 16 << 20)


@cython.cclass
class VringState(RequestOwner):
    """VringState(index, max_size, *, on_broken=None)\n--\n\n\
    What was set up of a vring, and whether it runs."""

    def __cinit__(self, index, max_size, *, on_broken=None):
        lock_init(cython.address(self.mutex))
        condition_init(cython.address(self.idle))
        self.kick_bell.fd = -1
        self.call_bell.fd = -1
        self.err_bell.fd = -1
        self.table_limit = MAX_TABLE_ENTRIES
        self.read_limit = DEFAULT_MAX_READ

    def __init__(self, index, max_size, *, on_broken=None):
        if not 1 <= max_size <= MAX_SIZE:
            raise RingValueError(f"a maximum size of {max_size} is outside of 1 … {MAX_SIZE}", rule="C070", queue=index)
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
        """Size of the ring in descriptors: what ``set_size`` said; 0 before, and after ``reset``."""
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
        if not 0 <= value <= MAX_READ:
            raise ValueError(f"queue {self.index}: a max_read of {value}; 0 to {MAX_READ} bytes are possible")
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
        And "near": the share of the last few dozen calls, in 256ths, that the driver answered before they
        returned, because it sleeps on our CPU.
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
            "near": self.near,
        }

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

    # ------------------------------------------------------------------ control plane
    @cython.cfunc
    def must_be_stopped(self, call: str):
        """The way of the calls in WHILE_STARTED to refuse."""
        if self.is_started:
            reason, rule = WHILE_STARTED[call]
            raise RingStateError(f"{reason} while the ring is started", rule=rule, queue=self.index)

    def set_features(self, *, packed, event_idx, in_order, notify_on_empty=False):
        """What was negotiated. ``packed`` cannot change while started.

        INDIRECT_DESC is not among it: indirect tables are served in any case, because drivers exist that use
        them unasked.
        """
        if bool(packed) != self.want_packed:
            self.must_be_stopped("set_features")
            self.base_value = 0
            self.has_base = False
            self.base_from_ring = False
        self.want_packed = packed
        self.want_in_order = in_order
        self.want_event_idx = event_idx
        self.want_notify_on_empty = notify_on_empty

    def set_size(self, size):
        """SET_VRING_NUM; raises ValueError with the rule (C070) and, when started, RuntimeError (C072)."""
        self.must_be_stopped("set_size")
        if not 1 <= size <= self.max_size:
            raise RingValueError(f"size {size} is outside of 1 … {self.max_size}", rule="C070", queue=self.index)
        if not self.want_packed and size & (size - 1):
            raise RingValueError(f"the size of a split ring is a power of two, not {size}", rule="C070", queue=self.index)
        self.ring_size = size

    def set_base(self, value):
        """SET_VRING_BASE in the negotiated form (C057).

        Of a packed ring the upper half may be absent (zero): the used position is the available one then. Plain 0
        is a new ring if no descriptor was ever used when the ring starts. See the bases of packed rings in
        docs/messages.md.
        """
        self.must_be_stopped("set_base")
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
    @cython.nogil
    @cython.exceptval(check=False)
    def wake_drain(self) -> cython.void:
        """With the mutex, after completions: whoever waits for requests to end looks again."""
        if self.ring.in_flight == 0 or self.ring.watched:
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
