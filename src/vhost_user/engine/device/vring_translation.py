"""A vring behind an IOMMU: what it waits for, and who uses what (types and docstrings: vring_translation.pyi)."""

import cython
from cython.cimports.libc.stdint import int64_t, uint64_t
from cython.cimports.vhost_user.engine.barriers import condition_wait, counter_set, lock, lock_nogil, now_ns, unlock
from cython.cimports.vhost_user.engine.device.ring_areas import MISSES, Miss
from cython.cimports.vhost_user.engine.device.vring_inflight import VringInflight

MAX_TIMEOUT = 1e6


@cython.cclass
class VringTranslation(VringInflight):
    """What the session's thread does with a vring whose addresses are IOVAs (C088 to C092)."""

    @property
    def waiting(self):
        """Whether nothing is taken because translations are missing, of a request or of the ring itself."""
        return self.is_waiting or (self.iotlb is not None and self.is_started and not self.is_attached)

    @property
    def on_missing(self):
        """Called with this vring, by whoever looked, when requests lack translations: ``misses`` says which."""
        with cython.critical_section(self):
            return self.missing_callback

    @on_missing.setter
    def on_missing(self, callback):
        with cython.critical_section(self):
            old = self.missing_callback
            self.missing_callback = callback
        del old

    def misses(self):
        """Translations that are lacking and were not told before: (IOVA, permission), at most 64."""
        found: Miss[MISSES]
        first: cython.int = 0
        count: cython.int = 0
        index: cython.int
        lock(cython.address(self.mutex))
        if self.ring is not None and (self.is_waiting or not self.is_attached):
            first = self.told
            count = self.ring.miss_count
            for index in range(first, count):
                found[index] = self.ring.misses[index]
            self.told = count
        unlock(cython.address(self.mutex))
        return [(found[index].iova, found[index].permission) for index in range(first, count)]

    @property
    def scattered(self):
        """An area of the ring is mapped, but in pieces that do not lie behind each other: such a ring cannot run."""
        return self.ring is not None and not self.is_attached and self.ring.scattered

    def look_again(self):
        """Translations came: what waits for some is tried once more. True if there was something."""
        if self.iotlb is None or self.ring is None:
            return False
        lock(cython.address(self.mutex))
        waited: cython.bint = self.is_waiting
        self.is_waiting = False
        self.told = 0
        unlock(cython.address(self.mutex))
        if not self.is_attached:
            self.reattach()
            waited = True
        if waited:
            counter_set(cython.address(self.nudged), 1)
        return waited

    def users(self, iova, size):
        """How many requests in flight use addresses in this range of IOVAs. A size of 0: up to the end."""
        first: uint64_t = iova
        last: uint64_t = iova + size - 1 if size else 0xFFFFFFFFFFFFFFFF
        lock(cython.address(self.mutex))
        count: cython.int = self.ring.users(first, last, self.ring.in_flight) if self.ring is not None else 0
        unlock(cython.address(self.mutex))
        return count

    def drain_range(self, iova, size, timeout):
        """Wait up to ``timeout`` seconds, GIL released, until no request in flight uses this range. True when none does."""
        first: uint64_t = iova
        last: uint64_t = iova + size - 1 if size else 0xFFFFFFFFFFFFFFFF
        deadline: int64_t = now_ns() + cython.cast(int64_t, max(0.0, min(float(timeout), MAX_TIMEOUT)) * 1e9)
        free: cython.bint = True
        with cython.nogil:
            lock_nogil(cython.address(self.mutex))
            while self.ring is not None and self.ring.users(first, last, self.ring.in_flight) > 0:
                # Who completes looks at this, so that nobody pays for the signal when nobody waits.
                self.ring.watched = True
                if condition_wait(cython.address(self.idle), cython.address(self.mutex), deadline) != 0:
                    break
            if self.ring is not None:
                free = self.ring.users(first, last, self.ring.in_flight) == 0
                self.ring.watched = False
            unlock(cython.address(self.mutex))
        return free

    def leave_range(self, iova, size):
        """If the ring lies in this range of IOVAs, touch it no more until its translations come again (C091).

        True if it does. Used entries are made visible before, and those that come later when it is back.
        """
        first: uint64_t = iova
        last: uint64_t = iova + size - 1 if size else 0xFFFFFFFFFFFFFFFF
        lock(cython.address(self.mutex))
        left: cython.bint = self.ring is not None and self.areas_meet(first, last)
        if left:
            if self.is_attached:
                self.flush_locked()
            self.ring.detach()
            self.is_attached = False
        unlock(cython.address(self.mutex))
        return left

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def areas_meet(self, first: uint64_t, last: uint64_t) -> cython.bint:
        addresses: uint64_t[3]
        area: cython.int
        addresses[0] = self.descriptor_address
        addresses[1] = self.driver_address
        addresses[2] = self.device_address
        for area in range(3):
            if addresses[area] <= last and addresses[area] + (self.ring.area_size(area) - 1) >= first:
                return True
        return False
