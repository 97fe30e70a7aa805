"""The packed virtqueue, device side (virtio 1.x section 2.8; rules V024 to V038)."""

# Areas: the descriptor ring, 16*q; the driver's and the device's event suppression structures, 4 bytes each. Positions wrap at
# q, which is any number up to 32768, and flip their wrap counter; every position is kept below q, so it is always inside.

import cython
from cython.cimports.libc.stdint import int64_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memcpy
from cython.cimports.vhost_user.engine.barriers import (
    full_fence,
    load_16,
    load_acquire_16,
    store_16,
    store_32,
    store_release_16,
)
from cython.cimports.vhost_user.engine.device.chain import Chain, chain_reset
from cython.cimports.vhost_user.engine.device.inflight import (
    Tracking,
    packed_batch,
    packed_note,
    packed_published,
    packed_taken,
    tracking_left,
)
from cython.cimports.vhost_user.engine.device.packed_inflight import TrackedPackedRing
from cython.cimports.vhost_user.engine.device.ring_translation import Descriptor
from cython.cimports.vhost_user.engine.memory.iotlb import MAY_READ, MAY_WRITE
from cython.cimports.vhost_user.engine.memory.window import window_written
from cython.cimports.vhost_user.engine.ring_layout import (
    EVENT_DESCRIPTOR,
    EVENT_DISABLE,
    EVENT_ENABLE,
    EVENT_SIZE,
    FLAGS_AT,
    F_INDIRECT,
    F_NEXT,
    F_USED,
    F_WRITE,
    ID_AT,
    POSITION,
    descriptor_at,
)


@cython.final
@cython.cclass
class PackedRing(TrackedPackedRing):
    def __cinit__(self):
        self.avail_wrap = 1
        self.used_wrap = 1
        self.pending = -1
        self.taken_slots = cython.cast(cython.pointer[uint16_t], calloc(65536, cython.sizeof(uint16_t)))
        if self.taken_slots == cython.NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.taken_slots)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def area_size(self, area: cython.int) -> uint64_t:
        return descriptor_at(self.size) if area == 0 else EVENT_SIZE

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def area_permission(self, area: cython.int) -> cython.int:
        # The ring is written where it is read.
        return MAY_READ | MAY_WRITE if area == 0 else MAY_READ if area == 1 else MAY_WRITE

    @cython.cfunc
    def begin(self) -> cython.void:
        self.pending = -1
        self.signalled = self.next_used
        self.unsignalled = 0
        self.signalled_valid = False

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def get_base(self) -> uint32_t:
        return cython.cast(
            uint32_t, self.next_avail | self.avail_wrap << 15 | cython.cast(uint32_t, self.next_used | self.used_wrap << 15) << 16
        )

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def set_base(self, value: uint32_t) -> cython.void:
        self.next_avail = value & POSITION
        self.avail_wrap = value >> 15 & 1
        self.next_used = value >> 16 & POSITION
        self.used_wrap = value >> 31

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def never_used(self) -> cython.bint:
        index: cython.int
        # `descriptors` has `size` of them: attach has checked the whole area. Only USED is looked at: the driver may be at work.
        for index in range(self.size):
            if load_16(self.descriptors + descriptor_at(index) + FLAGS_AT) & F_USED:
                return False
        return True

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def next_chain(self, chain: cython.pointer[Chain]) -> cython.int:
        descriptor: Descriptor
        index: cython.int = self.next_avail
        wrap: cython.int = self.avail_wrap
        # It stays the same as long as the ring exists.
        tracking: cython.pointer[Tracking] = self.tracking
        room: cython.int = self.size
        entry: cython.int = 0
        last: cython.int = 0
        slots: cython.int = 0
        if tracking != cython.NULL:
            if tracking_left(tracking) > 0:
                return self.next_again(chain)
            entry = tracking.free_head
            # No more descriptors than there are entries for: all chains in flight together fit into the ring.
            if room > tracking.free_count:
                room = tracking.free_count
        # Acquire: the rest of the chain is read after the head's flags, which the driver wrote last (V026).
        flags: uint16_t = load_acquire_16(self.descriptors + descriptor_at(index) + FLAGS_AT)
        if (flags >> 7 & 1) != wrap or (flags >> 15) == wrap:
            return 0
        chain_reset(chain)
        self.miss_count = 0
        while True:
            # One copy; of the head, the flags that made it available are the ones that count (V051).
            memcpy(cython.address(descriptor), self.descriptors + descriptor_at(index), 16)
            if slots > 0:
                flags = descriptor.b
            else:
                descriptor.b = flags
            slots += 1
            chain.head = descriptor.a
            if slots > room:
                chain.slots = slots
                return self.too_long(chain)
            if tracking != cython.NULL:
                last = entry
                entry = packed_note(tracking, entry, cython.address(descriptor))
            index += 1
            if index == self.size:
                index = 0
                wrap ^= 1
            if flags & F_INDIRECT:
                if flags & F_NEXT or slots > 1:
                    return self.fail(b"V030", b"direct and indirect descriptors in one list", descriptor.a, slots)
                if self.gather(chain, descriptor.address, descriptor.length, True) < 0:
                    return -1
                break
            if self.add_buffer(chain, cython.address(descriptor), flags & F_WRITE != 0) < 0:
                return -1
            if not flags & F_NEXT:
                break
        if self.miss_count > 0:
            # Not taken: it is walked again when the translations are there.
            return 0
        chain.slots = slots
        # The buffer id is that of the last descriptor; it is any 16-bit number and indexes nothing but a bit (V031, H58).
        if self.admit(chain) < 0:
            return -1
        self.taken_slots[chain.head] = cython.cast(uint16_t, slots)
        if tracking != cython.NULL:
            packed_taken(tracking, chain.head, last, entry, slots)
        self.next_avail = index
        self.avail_wrap = wrap
        return 1

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def too_long(self, chain: cython.pointer[Chain]) -> cython.int:
        if chain.slots > self.size:
            return self.fail(b"V031", b"the chain is longer than the ring (a loop?)", chain.head, chain.slots)
        return self.fail(b"V022", b"more descriptors are in flight than the ring has", chain.head, self.slots_in_flight + chain.slots)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def untake_last(self) -> cython.bint:
        # The descriptors between the used and the available position are as the driver made them: used ones are written at the
        # used position only. The one before the available position is the last of its chain and has the buffer id. A driver that
        # writes another id there gets another chain of its own back; the slots cannot be more than lie between the two.
        last: cython.int
        slots: cython.int
        head: uint16_t
        if self.descriptors == cython.NULL or (
            # Then they are not, see recover_packed.
            self.tracking != cython.NULL and self.tracking.dirty and self.tracking.again_open > 0
        ):
            return False
        last = (self.next_avail if self.next_avail > 0 else self.size) - 1
        head = load_16(self.descriptors + descriptor_at(last) + ID_AT)
        slots = self.taken_slots[head]
        if slots == 0 or slots > self.slots_in_flight or not self.untake(head, slots):
            return False
        self.step_back(slots)
        return True

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def slots_of(self, head: uint16_t) -> cython.int:
        return self.taken_slots[head]

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def step_back(self, slots: cython.int) -> cython.void:
        self.next_avail -= slots
        if self.next_avail < 0:
            self.next_avail += self.size
            self.avail_wrap ^= 1

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def log_place(self, index: uint16_t) -> cython.void:
        # log_guest_addr speaks of a used ring, which a packed ring has not; its writes are logged where they are (C079).
        if self.logged:
            if self.windows[0].base != cython.NULL:
                window_written(cython.address(self.windows[0]), self.memory.bitmap, descriptor_at(index), 16)
            else:
                self.memory.bitmap.written(self.descriptor_address + descriptor_at(index), 16)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def emit(self, head: uint16_t, slots: cython.int, length: uint32_t) -> cython.void:
        place: cython.p_char = self.descriptors + descriptor_at(self.next_used)
        flags: uint16_t = 0
        if self.used_wrap:
            flags = 0x8080
        if length > 0:
            flags |= F_WRITE
        store_32(place + 8, length)
        store_16(place + 12, head)
        if self.pending < 0:
            # The first of a batch becomes visible last: until then the driver does not look at the others (V028).
            self.pending = self.next_used
            self.pending_flags = flags
        else:
            store_release_16(place + FLAGS_AT, flags)
            if self.logged:
                self.log_place(self.next_used)
        self.unsignalled += slots
        self.next_used += slots
        if self.next_used >= self.size:
            self.next_used -= self.size
            self.used_wrap ^= 1
        if self.tracking != cython.NULL:
            self.note_emitted(head, slots)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def note_emitted(self, head: uint16_t, slots: cython.int) -> cython.void:
        """The entry is written, for whoever recovers after us. Called last, so that most rings pay nothing for it."""
        # There is room in the batch: each chain in it has entries of the area of its own, and so has this one.
        tracking: cython.pointer[Tracking] = self.tracking
        tracking.batch[tracking.batched] = tracking.entry_of[head]
        tracking.batched += 1
        tracking.batched_slots += slots

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def publish(self) -> cython.bint:
        if self.pending < 0:
            return False
        if self.tracking != cython.NULL:
            packed_batch(self.tracking, self.next_used, self.used_wrap)
        # Release: id, length and data are visible before the flags.
        store_release_16(self.descriptors + descriptor_at(self.pending) + FLAGS_AT, self.pending_flags)
        if self.tracking != cython.NULL:
            packed_published(self.tracking)
        self.log_place(self.pending)
        self.pending = -1
        return True

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def wants_call(self) -> cython.bint:
        old: cython.int = self.signalled
        new: cython.int = self.next_used
        event: uint16_t
        flags: uint16_t
        used: int64_t = self.unsignalled
        # What is not published yet is for the next decision.
        if used == 0 or self.pending >= 0:
            return False
        valid: cython.bint = self.signalled_valid
        self.unsignalled = 0
        self.signalled = new
        self.signalled_valid = True
        # The used flags must be visible before we look whether the driver waits for them: store, then load.
        full_fence()
        # Acquire: the position belongs to the flags that made it valid.
        flags = load_acquire_16(self.driver_area + 2)
        if flags == EVENT_DISABLE:
            return False
        if not self.event_idx or flags != EVENT_DESCRIPTOR:
            # ENABLE, and the reserved value as if it were (V033).
            return True
        if not valid:
            return True
        if used > self.size:
            # More than once round without a decision: positions do not tell any more whether the driver waits.
            return True
        event = load_16(self.driver_area)
        at: cython.int = event & POSITION
        if (event >> 15) != self.used_wrap:
            at -= self.size
        if new <= old:
            old -= self.size
        return cython.cast(uint16_t, new - at - 1) < cython.cast(uint16_t, new - old)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def has_work(self) -> cython.bint:
        flags: uint16_t = load_acquire_16(self.descriptors + descriptor_at(self.next_avail) + FLAGS_AT)
        if self.tracking != cython.NULL and tracking_left(self.tracking) > 0:
            return True
        return (flags >> 7 & 1) == self.avail_wrap and (flags >> 15) != self.avail_wrap

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def set_event(self, flags: uint16_t) -> cython.void:
        store_release_16(self.device_area + 2, flags)
        if self.logged:
            self.memory.bitmap.written(self.device_address, 4)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def arm(self) -> cython.bint:
        if self.event_idx:
            # Position first, then the flags that make it count (V034).
            store_16(self.device_area, cython.cast(uint16_t, self.next_avail | self.avail_wrap << 15))
            self.set_event(EVENT_DESCRIPTOR)
        elif load_16(self.device_area + 2) != EVENT_ENABLE:
            self.set_event(EVENT_ENABLE)
        # Our wish must be visible before we look again, or both sides wait for the other (V035).
        full_fence()
        return self.has_work()

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def disarm(self) -> cython.void:
        if load_16(self.device_area + 2) != EVENT_DISABLE:
            self.set_event(EVENT_DISABLE)
