"""The split virtqueue, device side (virtio 1.x section 2.7; rules V001 to V023)."""

# Areas: descriptors 16*q; driver area (avail): flags, idx, ring[q], used_event; device area (used): flags, idx, {id, len}[q],
# avail_event. The extents were checked when the ring was attached, so an index below q is always inside.

import cython
from cython.cimports.libc.stdint import uint16_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy
from cython.cimports.vhost_user.engine.barriers import full_fence, load_16, load_acquire_16, prefetch, store_16, store_32, store_release_16
from cython.cimports.vhost_user.engine.device.chain import Chain, chain_reset
from cython.cimports.vhost_user.engine.device.inflight import (
    InflightArea,
    split_batch,
    split_published,
    split_taken,
    split_untaken,
    tracking_begin_split,
    tracking_free,
    tracking_left,
)
from cython.cimports.vhost_user.engine.device.inflight_recovery import recover_split
from cython.cimports.vhost_user.engine.device.ring import Ring
from cython.cimports.vhost_user.engine.device.ring_translation import Descriptor
from cython.cimports.vhost_user.engine.ring_layout import (
    F_INDIRECT,
    F_NEXT,
    F_WRITE,
    INDEX_AT,
    NO_INTERRUPT,
    NO_NOTIFY,
    avail_entry_at,
    avail_event_at,
    avail_size,
    descriptor_at,
    used_entry_at,
    used_event_at,
    used_size,
)


@cython.final
@cython.cclass
class SplitRing(Ring):
    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def area_size(self, area: cython.int) -> uint64_t:
        size: uint64_t = self.size
        # The event fields count only when they are negotiated: nothing touches them otherwise (V001).
        without: uint64_t = 0 if self.event_idx else 2
        if area == 0:
            return descriptor_at(size)
        if area == 1:
            return avail_size(size) - without
        return used_size(size) - without

    @cython.cfunc
    def begin(self) -> cython.void:
        # The used index lives in the ring, not in SET_VRING_BASE (C059): after a restart the driver counts on from it.
        self.next_used = load_16(self.device_area + INDEX_AT)
        self.published = self.next_used
        self.seen_avail = self.last_avail
        self.signalled_valid = False

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def get_base(self) -> uint32_t:
        return self.last_avail

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def set_base(self, value: uint32_t) -> cython.void:
        self.last_avail = cython.cast(uint16_t, value)
        self.seen_avail = self.last_avail

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def next_chain(self, chain: cython.pointer[Chain]) -> cython.int:
        index: uint32_t
        pending: uint16_t
        if self.tracking != cython.NULL and tracking_left(self.tracking) > 0:
            return self.next_again(chain)
        if self.seen_avail == self.last_avail:
            # Acquire: ring entries and descriptors are read after the index that announced them.
            self.seen_avail = load_acquire_16(self.driver_area + INDEX_AT)
            pending = cython.cast(uint16_t, self.seen_avail - self.last_avail)
            if pending == 0:
                return 0
            if pending > self.size:
                return self.fail(b"V003", b"avail.idx jumped further than the ring is long, by {:#x}", -1, pending)
        chain_reset(chain)
        self.miss_count = 0
        index = load_16(self.driver_area + avail_entry_at(self.last_avail & (self.size - 1)))
        if index >= cython.cast(uint32_t, self.size):
            return self.fail(b"V004", b"the available ring names a descriptor outside of the table: {:#x}", index, index)
        chain.head = cython.cast(uint16_t, index)
        following: uint16_t = cython.cast(uint16_t, self.last_avail + 1)
        if following != self.seen_avail:
            # The driver wrote them on another CPU; the index is only a hint here, and checked when its turn comes.
            prefetch(
                self.descriptors + descriptor_at(load_16(self.driver_area + avail_entry_at(following & (self.size - 1))) & (self.size - 1))
            )
        outcome: cython.int = self.walk(chain, index)
        if outcome <= 0:
            return outcome
        if self.tracking != cython.NULL:
            split_taken(self.tracking, chain.head)
        self.last_avail += 1
        return 1

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def walk(self, chain: cython.pointer[Chain], index: uint32_t) -> cython.int:
        """Gather the chain that begins at ``index``, which is below the size, and account for it."""
        descriptor: Descriptor
        while True:
            # What is in use cannot be so twice: all chains in flight together are no longer than the table (V022).
            chain.slots += 1
            # One copy; the driver may change the original at any time (V051).
            memcpy(cython.address(descriptor), self.descriptors + descriptor_at(index), 16)
            if descriptor.a & F_INDIRECT:
                if descriptor.a & F_NEXT:
                    return self.fail(b"V007", b"a descriptor is both indirect and chained", chain.head, index)
                # F_WRITE on it means nothing; direct descriptors before it are fine (V008).
                if self.gather(chain, descriptor.address, descriptor.length, False) < 0:
                    return -1
                break
            if self.add_buffer(chain, cython.address(descriptor), descriptor.a & F_WRITE != 0) < 0:
                return -1
            if not descriptor.a & F_NEXT:
                break
            index = descriptor.b
            if index >= cython.cast(uint32_t, self.size):
                return self.fail(b"V004", b"next points outside of the descriptor table, to {:#x}", chain.head, index)
        if self.miss_count > 0:
            # Not taken: it is walked again when the translations are there.
            return 0
        return self.admit(chain)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def next_again(self, chain: cython.pointer[Chain]) -> cython.int:
        # Its descriptors stand in the table as the driver made them: it waits for this chain. Its place in the available ring,
        # which may be another's by now, was passed before.
        chain_reset(chain)
        self.miss_count = 0
        chain.head = self.tracking.again[self.tracking.again_next]
        chain.again = True
        outcome: cython.int = self.walk(chain, chain.head)
        if outcome <= 0:
            return outcome
        self.tracking.again_next += 1
        self.tracking.again_open += 1
        return 1

    @cython.cfunc
    def track(self, area: InflightArea, queue: cython.int):
        found: tuple
        self.area = area
        area.track(queue, False, cython.address(self.tracking))
        if self.tracking == cython.NULL:
            return "it has no room for this queue"
        # The driver waits for what it made available and has not got back: both indices are its view of it.
        found = recover_split(self.tracking, self.next_used, load_16(self.driver_area + INDEX_AT), self.size)
        number: cython.int = found[0]
        if number == -2:
            tracking_free(self.tracking)
            self.tracking = cython.NULL
            return found[1]
        if found[1] is not None:
            tracking_begin_split(self.tracking, self.next_used)
            return f"{found[1]}; it begins anew" if found[1] else None
        # Overrides SET_VRING_BASE (C111): whoever restarts a ring after a crash does not know it.
        self.last_avail = cython.cast(uint16_t, self.next_used + number)
        self.seen_avail = self.last_avail
        return None

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def track_anew(self) -> cython.void:
        tracking_begin_split(self.tracking, self.next_used)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def untracked(self, head: uint16_t) -> cython.void:
        split_untaken(self.tracking, head)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def untake_last(self) -> cython.bint:
        # The driver cannot have used this entry again: it has as many as there can be chains in flight, and this one is. What it
        # writes there all the same names a chain of its own that is in flight, or none.
        index: cython.int
        if self.driver_area == cython.NULL:
            return False
        index = load_16(self.driver_area + avail_entry_at(cython.cast(uint16_t, self.last_avail - 1) & (self.size - 1)))
        if not self.untake(cython.cast(uint16_t, index), 0):
            return False
        self.step_back(1)
        self.seen_avail = self.last_avail
        return True

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def step_back(self, slots: cython.int) -> cython.void:
        self.last_avail -= 1

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def emit(self, head: uint16_t, slots: cython.int, length: uint32_t) -> cython.void:
        offset: uint64_t = used_entry_at(self.next_used & (self.size - 1))
        store_32(self.device_area + offset, head)
        store_32(self.device_area + offset + 4, length)
        self.next_used += 1
        if self.logged or self.tracking != cython.NULL:
            self.note_emitted(head, offset)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def note_emitted(self, head: uint16_t, offset: uint64_t) -> cython.void:
        """The entry is written, for the log and for whoever recovers after us. Called last, so that most rings pay nothing for it."""
        self.log_device(offset, 8)
        if self.tracking != cython.NULL:
            if self.tracking.batched == self.tracking.size:
                # A driver that uses a head again before it has it back. This entry comes after the batch.
                self.next_used -= 1
                self.publish()
                self.next_used += 1
            self.tracking.batch[self.tracking.batched] = head
            self.tracking.batched += 1

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def publish(self) -> cython.bint:
        if self.published == self.next_used:
            return False
        if self.tracking != cython.NULL:
            split_batch(self.tracking)
        # Release: elements and data are visible before the index (V015).
        store_release_16(self.device_area + INDEX_AT, self.next_used)
        if self.tracking != cython.NULL:
            split_published(self.tracking, self.next_used)
        self.log_device(INDEX_AT, 2)
        self.published = self.next_used
        return True

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def wants_call(self) -> cython.bint:
        old: uint16_t = self.signalled
        new: uint16_t = self.published
        event: uint16_t
        if self.signalled_valid and old == new:
            return False
        # Our used.idx must be visible before we look whether the driver waits for it: store, then load.
        full_fence()
        if self.notify_on_empty and self.in_flight == 0 and load_16(self.driver_area + INDEX_AT) == self.last_avail:
            self.signalled = new
            self.signalled_valid = True
            return True
        if not self.event_idx:
            self.signalled = new
            self.signalled_valid = True
            return not load_16(self.driver_area) & NO_INTERRUPT
        self.signalled = new
        if not self.signalled_valid:
            # The first decision after a start has no past to compare with: always call (V017).
            self.signalled_valid = True
            return True
        event = load_16(self.driver_area + used_event_at(self.size))
        return cython.cast(uint16_t, new - event - 1) < cython.cast(uint16_t, new - old)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def driver_position(self) -> cython.int:
        return load_16(self.driver_area + INDEX_AT)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def has_work(self) -> cython.bint:
        return load_acquire_16(self.driver_area + INDEX_AT) != self.last_avail or (
            self.tracking != cython.NULL and tracking_left(self.tracking) > 0
        )

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def arm(self) -> cython.bint:
        if self.event_idx:
            store_16(self.device_area + avail_event_at(self.size), self.last_avail)
            self.log_device(avail_event_at(self.size), 2)
        elif load_16(self.device_area) != 0:
            store_16(self.device_area, 0)
            self.log_device(0, 2)
        # Our wish must be visible before we look again, or both sides wait for the other (V018).
        full_fence()
        return self.has_work()

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def disarm(self) -> cython.void:
        # With EVENT_IDX an avail_event left behind is the suppression: nothing to write.
        if not self.event_idx and load_16(self.device_area) != NO_NOTIFY:
            store_16(self.device_area, NO_NOTIFY)
            self.log_device(0, 2)
