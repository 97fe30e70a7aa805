"""A vring behind an IOMMU: what it waits for, and who uses what (types: vring_translation.pyi)."""

import cython
from cython.cimports.libc.stdint import int64_t, uint64_t
from cython.cimports.vhost_user.engine.barriers import condition_wait, counter_set, lock, lock_nogil, now_ns, unlock
from cython.cimports.vhost_user.engine.device.ring_areas import MISSES, Miss
from cython.cimports.vhost_user.engine.device.vring_setup import reattach
from cython.cimports.vhost_user.engine.device.vring_state import VringState

MAX_TIMEOUT = 1e6


@cython.final
@cython.no_gc_clear
@cython.cclass
class VringTranslation:
    """What the session's thread does with a vring whose addresses are IOVAs (C088 to C092): ``Vring.translation``."""

    # Not cleared by the garbage collector, as Vring.

    def __cinit__(self, state: VringState):
        self.state = state

    @property
    def waiting(self):
        """Whether nothing is taken because translations are missing, of a request or of the ring itself."""
        return self.state.is_waiting or (self.state.iotlb is not None and self.state.is_started and not self.state.is_attached)

    @property
    def on_missing(self):
        """Called with the vring, by whoever looked, when requests lack translations: ``misses`` says which."""
        with cython.critical_section(self.state):
            return self.state.missing_callback

    @on_missing.setter
    def on_missing(self, callback):
        with cython.critical_section(self.state):
            old = self.state.missing_callback
            self.state.missing_callback = callback
        del old

    def misses(self):
        """Translations that are lacking and were not told before: (IOVA, permission), at most 64."""
        found: Miss[MISSES]
        first: cython.int = 0
        count: cython.int = 0
        index: cython.int
        lock(cython.address(self.state.mutex))
        if self.state.ring is not None and (self.state.is_waiting or not self.state.is_attached):
            first = self.state.told
            count = self.state.ring.miss_count
            for index in range(first, count):
                found[index] = self.state.ring.misses[index]
            self.state.told = count
        unlock(cython.address(self.state.mutex))
        return [(found[index].iova, found[index].permission) for index in range(first, count)]

    @property
    def scattered(self):
        """An area of the ring is mapped, but in pieces that do not lie behind each other: such a ring cannot run."""
        lock(cython.address(self.state.mutex))
        result: cython.bint = self.state.ring is not None and not self.state.is_attached and self.state.ring.scattered
        unlock(cython.address(self.state.mutex))
        return result

    def look_again(self):
        """Translations came: what waits for some is tried once more. True if there was something."""
        if self.state.iotlb is None or self.state.ring is None:
            return False
        lock(cython.address(self.state.mutex))
        waited: cython.bint = self.state.is_waiting
        self.state.is_waiting = False
        self.state.told = 0
        unlock(cython.address(self.state.mutex))
        if not self.state.is_attached:
            reattach(self.state)
            waited = True
        if waited:
            counter_set(cython.address(self.state.nudged), 1)
        return waited

    def users(self, iova, size):
        """How many requests in flight use addresses in this range of IOVAs. A size of 0: up to the end."""
        first: uint64_t = iova
        last: uint64_t = iova + size - 1 if size else 0xFFFFFFFFFFFFFFFF
        lock(cython.address(self.state.mutex))
        count: cython.int = self.state.ring.users(first, last, self.state.ring.in_flight) if self.state.ring is not None else 0
        unlock(cython.address(self.state.mutex))
        return count

    def drain_range(self, iova, size, timeout):
        """Wait up to ``timeout`` seconds, GIL released, until no request in flight uses this range. True when none does."""
        first: uint64_t = iova
        last: uint64_t = iova + size - 1 if size else 0xFFFFFFFFFFFFFFFF
        deadline: int64_t = now_ns() + cython.cast(int64_t, max(0.0, min(float(timeout), MAX_TIMEOUT)) * 1e9)
        free: cython.bint = True
        late: cython.bint
        with cython.nogil:
            lock_nogil(cython.address(self.state.mutex))
            while self.state.ring is not None and self.state.ring.users(first, last, self.state.ring.in_flight) > 0:
                # Who completes looks at this, so that nobody pays for the signal when nobody waits. Counted: one that has waited
                # long enough must not take the signal away from the others.
                self.state.watchers += 1
                late = condition_wait(cython.address(self.state.idle), cython.address(self.state.mutex), deadline) != 0
                self.state.watchers -= 1
                if late:
                    break
            if self.state.ring is not None:
                free = self.state.ring.users(first, last, self.state.ring.in_flight) == 0
            unlock(cython.address(self.state.mutex))
        return free

    def leave_range(self, iova, size):
        """If the ring lies in this range of IOVAs, touch it no more until its translations come again (C091).

        True if it does. Used entries are made visible before, and those that come later when it is back.
        """
        first: uint64_t = iova
        last: uint64_t = iova + size - 1 if size else 0xFFFFFFFFFFFFFFFF
        lock(cython.address(self.state.mutex))
        left: cython.bint = self.state.ring is not None and self.areas_meet(first, last)
        if left:
            if self.state.is_attached:
                self.state.flush_locked()
            self.state.ring.detach()
            self.state.is_attached = False
        unlock(cython.address(self.state.mutex))
        return left

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def areas_meet(self, first: uint64_t, last: uint64_t) -> cython.bint:
        addresses: uint64_t[3]
        area: cython.int
        addresses[0] = self.state.descriptor_address
        addresses[1] = self.state.driver_address
        addresses[2] = self.state.device_address
        for area in range(3):
            if addresses[area] <= last and addresses[area] + (self.state.ring.area_size(area) - 1) >= first:
                return True
        return False
