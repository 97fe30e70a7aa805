"""The control plane of a vring: its doorbells, and how it starts and stops (types: vring_control.pyi)."""

from typing import Optional

import cython
from cython.cimports.libc.stdint import int64_t, uint32_t
from cython.cimports.libc.stdlib import calloc
from cython.cimports.posix.unistd import close
from cython.cimports.vhost_user.engine.barriers import (
    condition_broadcast,
    condition_wait,
    counter_add,
    counter_set,
    lock,
    lock_nogil,
    now_ns,
    unlock,
)
from cython.cimports.vhost_user.engine.device.chain import Chain
from cython.cimports.vhost_user.engine.device.header import Header
from cython.cimports.vhost_user.engine.device.packed import PackedRing
from cython.cimports.vhost_user.engine.device.ring import Ring
from cython.cimports.vhost_user.engine.device.split import SplitRing
from cython.cimports.vhost_user.engine.device.vring_memory import VringMemory
from cython.cimports.vhost_user.engine.device.vring_state import NEW_PACKED, Bell
from cython.cimports.vhost_user.engine.doorbell import NO_BELL, adopt, ring_bell

from vhost_user.engine.errors import RingStateError

MAX_TIMEOUT = 1e6


@cython.cclass
class VringControl(VringMemory):
    """What the session's thread does with a vring."""

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

    def set_header(self, header: Optional[Header]):
        """The format of the header that requests of this queue begin with; None for none."""
        with cython.critical_section(self):
            self.layout = header

    def missing(self):
        """What must come before ``start``, in words; empty when nothing does (C073)."""
        with_memory: cython.bint = self.memory is not None and self.memory.count > 0
        absent = []
        if self.ring_size == 0:
            absent.append("size (SET_VRING_NUM)")
        if not self.has_addresses and (with_memory or not self.addresses_kept):
            absent.append("addresses (SET_VRING_ADDR)")
        if not with_memory:
            absent.append("memory (SET_MEM_TABLE or ADD_MEM_REG)")
        return absent

    def keep_addresses(self):
        """Addresses came that cannot be translated before there is memory (C041): the caller has them.

        Until then ``missing`` does not ask for them; ``set_addresses`` follows.
        """
        self.addresses_kept = True

    def start(self):
        """C050; raises RuntimeError naming what is missing: size, addresses or memory (C073)."""
        if self.is_started:
            return
        missing = self.missing()
        if missing:
            raise RingStateError(f"it cannot start without {', '.join(missing)}", rule="C073", queue=self.index)
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
        if self.iotlb is not None:
            ring.flying = cython.cast(cython.pointer[cython.pointer[Chain]], calloc(65536, cython.sizeof(cython.p_void)))
            if ring.flying == cython.NULL:
                raise MemoryError
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
            self.is_waiting = False
            self.fresh = True
            self.perhaps_new = short and base == 0
            self.quiet = False
            self.undecided = False
            self.call_owed = False
            unlock(cython.address(self.mutex))
        # Freed outside of the lock: frames of the error may hold requests, which then come back to this ring.
        del old, error
        self.reattach()
        # Behind an IOMMU it may start before its translations are there: it waits for them.
        if not self.is_attached and self.iotlb is None:
            raise RingStateError(
                f"cannot start, ring areas at {self.descriptor_address:#x}, {self.driver_address:#x}, "
                f"{self.device_address:#x} do not each lie in one memory region, with the same alignment in its file",
                rule="C071",
                queue=self.index,
            )
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

    def refuse(self, error):
        """Take no more requests until the next start, for a reason that is not the driver's: ``broken`` is ``error``.

        The err descriptor is signalled. What waits in the ring stays the driver's; what is in flight may still
        complete. Does nothing to a ring that is not started or broken already. Whoever calls this says why in a log.
        """
        lock(cython.address(self.mutex))
        refused: cython.bint = self.is_started and not self.is_broken
        if refused:
            self.is_broken = True
            ring_bell(self.err_bell.fd, self.err_bell.kind)
        unlock(cython.address(self.mutex))
        if refused:
            with cython.critical_section(self):
                self.error = error

    def drain(self, timeout):
        """Wait up to ``timeout`` seconds, GIL released, until no request is in flight (C054).

        True when none is.
        """
        if self.ring is None:
            return True
        deadline: int64_t = now_ns() + cython.cast(int64_t, max(0.0, min(float(timeout), MAX_TIMEOUT)) * 1e9)
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
        self.must_be_stopped("give_back")
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
        iotlb = self.iotlb
        error = self.error
        fds: cython.int[3]
        fds[0] = self.kick_bell.fd
        fds[1] = self.call_bell.fd
        fds[2] = self.err_bell.fd
        self.ring = None
        self.memory = None
        self.iotlb = None
        self.is_waiting = False
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
        self.addresses_kept = False
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
        del ring, memory, iotlb, error
