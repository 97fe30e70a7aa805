"""What a packed ring finds in its area of requests in flight, and takes again (C110 to C117)."""

# The requests that a process before this one left in flight come first. Their descriptors are in the area, because those in the
# ring may have been written over; the ring's own positions follow from the area too.

import cython
from cython.cimports.libc.stdint import uint16_t
from cython.cimports.vhost_user.engine.device.chain import Chain, chain_reset
from cython.cimports.vhost_user.engine.device.inflight import (
    InflightArea,
    Saved,
    packed_untaken,
    tracking_begin_packed,
    tracking_free,
)
from cython.cimports.vhost_user.engine.device.inflight_recovery import recover_packed
from cython.cimports.vhost_user.engine.device.ring import Ring
from cython.cimports.vhost_user.engine.device.ring_translation import Descriptor
from cython.cimports.vhost_user.engine.ring_layout import F_INDIRECT, F_WRITE, descriptor_at


@cython.cclass
class TrackedPackedRing(Ring):
    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def next_again(self, chain: cython.pointer[Chain]) -> cython.int:
        # From what was saved when it was fetched (C113): its place in the ring may have been written over. The entries and their
        # number were checked by the recovery, and are private since.
        descriptor: Descriptor
        saved: cython.pointer[Saved]
        entry: cython.int = self.tracking.again[self.tracking.again_next]
        at: cython.int = entry
        step: cython.int
        chain_reset(chain)
        self.miss_count = 0
        chain.again = True
        for step in range(self.tracking.num[entry]):
            saved = self.tracking.saved + at
            descriptor.address = saved.address
            descriptor.length = saved.length
            chain.slots += 1
            chain.head = saved.id
            if saved.flags & F_INDIRECT:
                if self.tracking.num[entry] > 1:
                    return self.fail(b"V030", b"direct and indirect descriptors in one list", saved.id, chain.slots)
                if self.gather(chain, descriptor.address, descriptor.length, True) < 0:
                    return -1
            elif self.add_buffer(chain, cython.address(descriptor), saved.flags & F_WRITE != 0) < 0:
                return -1
            at = self.tracking.following[at]
        if self.miss_count > 0:
            return 0
        if self.admit(chain) < 0:
            return -1
        self.taken_slots[chain.head] = cython.cast(uint16_t, chain.slots)
        self.tracking.entry_of[chain.head] = cython.cast(uint16_t, entry)
        self.tracking.again_next += 1
        self.tracking.again_open += 1
        return 1

    @cython.cfunc
    def track(self, area: InflightArea, queue: cython.int):
        found: tuple
        self.area = area
        area.track(queue, True, cython.address(self.tracking))
        if self.tracking == cython.NULL:
            return "it has no room for this queue"
        found = recover_packed(self.tracking, self.descriptors, self.size, self.never_used())
        number: cython.int = found[0]
        if number == -2:
            tracking_free(self.tracking)
            self.tracking = cython.NULL
            return found[1]
        if found[1] is not None:
            tracking_begin_packed(self.tracking, self.next_used, self.used_wrap)
            return f"{found[1]}; it begins anew" if found[1] else None
        if self.tracking.dirty and self.logged:
            self.memory.bitmap.written(self.descriptor_address, descriptor_at(self.size))
        # Overrides SET_VRING_BASE (C111).
        self.next_used = self.tracking.used
        self.used_wrap = self.tracking.wrap
        self.signalled = self.next_used
        self.next_avail = self.next_used + number
        self.avail_wrap = self.used_wrap
        if self.next_avail >= self.size:
            self.next_avail -= self.size
            self.avail_wrap ^= 1
        return None

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def track_anew(self) -> cython.void:
        tracking_begin_packed(self.tracking, self.next_used, self.used_wrap)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def untracked(self, head: uint16_t) -> cython.void:
        packed_untaken(self.tracking, head, self.taken_slots[head])
