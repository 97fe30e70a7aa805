"""The driver's side of a packed ring (types and docstrings: driver_packed.pyi)."""

import cython
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import free, malloc
from cython.cimports.libc.string import memset
from cython.cimports.vhost_user.engine.barriers import (
    full_fence,
    load_16,
    load_32,
    load_acquire_16,
    store_16,
    store_32,
    store_64,
    store_release_16,
)
from cython.cimports.vhost_user.engine.driver.lent import Completion, Fault, Segment
from cython.cimports.vhost_user.engine.driver.queue import DriverQueue
from cython.cimports.vhost_user.engine.ring_layout import (
    EVENT_DESCRIPTOR,
    EVENT_DISABLE,
    EVENT_ENABLE,
    EVENT_SIZE,
    F_AVAIL,
    F_INDIRECT,
    F_NEXT,
    F_USED,
    F_WRITE,
    POSITION,
    descriptor_at,
)


@cython.cclass
class PackedDriverQueue(DriverQueue):
    """A packed ring of any size up to 32768.

    ``start`` 0 stands for 0x80008000: index 0, both wrap counters 1 (V024).
    """

    def __dealloc__(self):
        free(self.free_ids)

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def prepare(self) -> cython.int:
        self.packed = True
        self.free_ids = cython.cast(cython.pointer(uint16_t), malloc(self.size * 2))
        if self.free_ids == cython.NULL:
            raise MemoryError
        self.lay_out(descriptor_at(self.size), EVENT_SIZE, 4, EVENT_SIZE, 4)
        self.descriptors = cython.cast(
            cython.pointer(PackedDescriptor), self.memory.translate(self.descriptor_address, descriptor_at(self.size))
        )
        self.driver_event = self.memory.translate(self.driver_address, EVENT_SIZE)
        self.device_event_area = self.memory.translate(self.device_address, EVENT_SIZE)
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def setup(self, start: uint32_t) -> cython.void:
        i: cython.int
        flags: cython.int
        if start == 0:
            start = 0x8000_8000  # both wrap counters begin at 1 (V024)
        memset(self.descriptors, 0, descriptor_at(self.size))
        memset(self.driver_event, 0, 4)
        memset(self.device_event_area, 0, 4)
        for i in range(self.size):
            self.free_ids[i] = cython.cast(uint16_t, self.size - 1 - i)
        self.num_free_ids = self.size
        self.first_base = start
        self.avail_next = cython.cast(uint16_t, (start & POSITION) % self.size)
        self.avail_wrap = (start >> 15) & 1
        self.used_next = cython.cast(uint16_t, ((start >> 16) & POSITION) % self.size)
        self.used_wrap = (start >> 31) & 1
        # A descriptor looks neither available nor used as long as its bits say "used in the round before": below
        # the starting position this round, from it on the round before (V024, V036).
        for i in range(self.size):
            flags = F_AVAIL | F_USED if (i < self.avail_next) == self.avail_wrap else 0
            self.descriptors[i].flags = cython.cast(uint16_t, flags)
        self.pending_head = -1
        self.added_since_check = 0
        self.added_unpublished = 0
        self.published_next = self.avail_next
        self.published_wrap = self.avail_wrap

    @property
    def base(self):
        """What SET_VRING_BASE must carry for a ring that was just made or reset."""
        return self.first_base

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def next_slot(self) -> cython.int:
        return self.free_ids[self.num_free_ids - 1] if self.num_free_ids > 0 else -1

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def put(
        self,
        segments: cython.pointer(Segment),
        count: cython.int,
        direct: cython.int,
        token: uint64_t,
        writable: uint64_t,
    ) -> cython.int:
        needed: cython.int = 1 if direct < count else count
        i: cython.int
        id: cython.int
        flags: cython.int
        at: cython.int = self.avail_next
        wrap: cython.bint = self.avail_wrap
        head: cython.int = at
        head_flags: cython.int = 0
        descriptor: cython.pointer(PackedDescriptor)
        if self.num_free < needed or self.num_free_ids == 0:
            return -1
        self.num_free_ids -= 1
        id = self.free_ids[self.num_free_ids]
        if direct < count:
            descriptor = cython.cast(cython.pointer(PackedDescriptor), self.slots[id].table)
            for i in range(count):
                descriptor[i].address = segments[i].address
                descriptor[i].length = segments[i].length
                descriptor[i].id = 0
                descriptor[i].flags = cython.cast(uint16_t, F_WRITE if segments[i].writable else 0)
            self.descriptors[at].address = self.slots[id].table_address
            self.descriptors[at].length = descriptor_at(count)
            self.descriptors[at].id = cython.cast(uint16_t, id)
            head_flags = F_INDIRECT | (F_AVAIL if wrap else F_USED)
            at += 1
            if at == self.size:
                at = 0
                wrap = not wrap
        else:
            for i in range(count):
                flags = (F_WRITE if segments[i].writable else 0) | (F_AVAIL if wrap else F_USED)
                if i + 1 < count:
                    flags |= F_NEXT
                descriptor = self.descriptors + at
                descriptor.address = segments[i].address
                descriptor.length = segments[i].length
                descriptor.id = cython.cast(uint16_t, id)
                if i == 0:
                    head_flags = flags
                else:
                    descriptor.flags = cython.cast(uint16_t, flags)
                at += 1
                if at == self.size:
                    at = 0
                    wrap = not wrap
        # The device stops at the first head that is not available: only the first one of a batch has to wait (V026).
        if self.pending_head < 0:
            self.pending_head = head
            self.pending_flags = cython.cast(uint16_t, head_flags)
        else:
            store_release_16(cython.address(self.descriptors[head].flags), cython.cast(uint16_t, head_flags))
        self.avail_next = cython.cast(uint16_t, at)
        self.avail_wrap = wrap
        self.added_unpublished += needed
        return self.lend(id, needed, token, writable)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def make_visible(self) -> cython.void:
        if self.pending_head < 0:
            return
        store_release_16(cython.address(self.descriptors[self.pending_head].flags), self.pending_flags)
        self.pending_head = -1
        self.added_since_check += self.added_unpublished
        self.added_unpublished = 0
        self.published_next = self.avail_next
        self.published_wrap = self.avail_wrap
        self.published_sequence = self.sequence
        self.unpublished = 0

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def kick_wanted(self) -> cython.bint:
        new: uint16_t = self.published_next
        added: uint32_t = self.added_since_check
        old: uint16_t
        event: uint16_t
        flags: uint16_t
        # The flags must be out before the device's wish is read, or both sides go to sleep (V035, V049).
        full_fence()
        self.added_since_check = 0
        if added == 0:
            return False
        flags = load_acquire_16(self.device_event_area + 2) & 3
        if flags == EVENT_DISABLE:
            return False
        if flags != EVENT_DESCRIPTOR or not self.event_idx:
            return True
        event = load_16(self.device_event_area)
        if (event >> 15) != self.published_wrap:
            event = cython.cast(uint16_t, (event & POSITION) - self.size)
        else:
            event = event & POSITION
        old = cython.cast(uint16_t, new - added)
        return cython.cast(uint16_t, new - event - 1) < cython.cast(uint16_t, new - old)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def has_used(self) -> cython.bint:
        if self.batch_until >= 0:
            return True
        flags: uint16_t = load_acquire_16(cython.address(self.descriptors[self.used_next].flags))
        wrapped: cython.bint = (flags & F_USED) != 0
        # With nothing published a stale descriptor of the round before must not look used.
        return ((flags & F_AVAIL) != 0) == wrapped and wrapped == self.used_wrap

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def reap(self, completion: cython.pointer(Completion)) -> cython.int:
        id: uint16_t
        length: uint32_t
        result: cython.int
        flags: uint16_t
        wrapped: cython.bint
        if self.batch_until < 0:
            flags = load_acquire_16(cython.address(self.descriptors[self.used_next].flags))
            wrapped = (flags & F_USED) != 0
            if ((flags & F_AVAIL) != 0) != wrapped or wrapped != self.used_wrap:
                return 0
            id = load_16(cython.address(self.descriptors[self.used_next].id))
            length = load_32(cython.address(self.descriptors[self.used_next].length)) if flags & F_WRITE else 0
            if not self.in_order:
                result = self.take_back(id, length, completion)
                if result == 1:
                    self.advance_used(self.slots[id].count)
                    self.free_ids[self.num_free_ids] = id
                    self.num_free_ids += 1
                return result
            if self.begin_batch(id, length, self.in_flight) < 0:
                return -1
        result = self.reap_batch(completion)
        if result == 1:
            self.advance_used(self.slots[completion.slot].count)
            self.free_ids[self.num_free_ids] = cython.cast(uint16_t, completion.slot)
            self.num_free_ids += 1
        return result

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def advance_used(self, count: cython.int) -> cython.void:
        """Skip as many descriptors as our own record says the chain had (V055): never a number from the ring."""
        next: cython.int = self.used_next + count
        if next >= self.size:
            next -= self.size
            self.used_wrap = not self.used_wrap
        self.used_next = cython.cast(uint16_t, next)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def arm(self) -> cython.void:
        if self.event_idx:
            store_16(self.driver_event, cython.cast(uint16_t, self.used_next | (0x8000 if self.used_wrap else 0)))
            store_release_16(self.driver_event + 2, cython.cast(uint16_t, EVENT_DESCRIPTOR))
        else:
            store_16(self.driver_event + 2, cython.cast(uint16_t, EVENT_ENABLE))

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def disarm(self) -> cython.void:
        store_16(self.driver_event + 2, cython.cast(uint16_t, EVENT_DISABLE))

    # raw access, for tests that break rules: nothing here is checked against the driver's record

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def open_ring(self) -> cython.int:
        if self.closed:
            raise ValueError(f"queue {self.index} is closed")
        return 0

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def position(self, i: cython.int) -> cython.int:
        self.open_ring()
        if not 0 <= i < self.size:
            raise IndexError(f"queue {self.index}: descriptor {i} of {self.size}")
        return i

    def write_descriptor(self, i, address, length, id, flags):
        """Flags are stored last, with release."""
        descriptor: cython.pointer(PackedDescriptor) = self.descriptors + self.position(i)
        store_64(cython.address(descriptor.address), address)
        store_32(cython.address(descriptor.length), length)
        store_16(cython.address(descriptor.id), id)
        store_release_16(cython.address(descriptor.flags), flags)

    def read_descriptor(self, i):
        """(address, length, id, flags)."""
        descriptor: cython.pointer(PackedDescriptor) = self.descriptors + self.position(i)
        flags = load_acquire_16(cython.address(descriptor.flags))
        return descriptor.address, descriptor.length, descriptor.id, flags

    @property
    def driver_event_fields(self):
        """(offset and wrap, flags) of the driver event structure."""
        self.open_ring()
        return load_16(self.driver_event), load_16(self.driver_event + 2)

    def set_driver_event(self, offset_wrap, flags):
        """Write the driver's event suppression structure as it is."""
        self.open_ring()
        store_16(self.driver_event, offset_wrap)
        store_release_16(self.driver_event + 2, flags)

    @property
    def device_event(self):
        """(offset and wrap, flags) of the device event structure."""
        self.open_ring()
        flags = load_acquire_16(self.device_event_area + 2)
        return load_16(self.device_event_area), flags

    def set_device_event(self, offset_wrap, flags):
        """Write the device's event suppression structure as it is."""
        self.open_ring()
        store_16(self.device_event_area, offset_wrap)
        store_release_16(self.device_event_area + 2, flags)

    @property
    def avail_position(self):
        """(index, wrap counter) of the next descriptor to make available."""
        return self.avail_next, int(self.avail_wrap)

    @property
    def used_position(self):
        """(index, wrap counter) of the next used descriptor expected."""
        return self.used_next, int(self.used_wrap)

    def describe(self):
        if self.closed:
            return f"queue {self.index}: packed ring, closed"
        modes = ("enabled", "disabled", "at descriptor", "reserved")
        driver_off, driver_flags = self.driver_event_fields
        device_off, device_flags = self.device_event
        lines = [
            f"queue {self.index}: packed ring of {self.size}, "
            + (", ".join(name for name in ("event_idx", "indirect", "in_order") if getattr(self, name)) or "no ring features"),
            f"  descriptors {self.descriptor_address:#x}, driver event {self.driver_address:#x}, device event {self.device_address:#x}",
            f"  next to make available {self.avail_next} (wrap {int(self.avail_wrap)}), next used expected at {self.used_next} "
            f"(wrap {int(self.used_wrap)})",
            f"  calls {modes[driver_flags & 3]} {driver_off & POSITION} (wrap {driver_off >> 15}), kicks {modes[device_flags & 3]} "
            f"{device_off & POSITION} (wrap {device_off >> 15})",
            f"  {self.in_flight} in flight, {self.unpublished} not published, {self.num_free} descriptors free",
        ]
        for step in range(min(self.size, 16)):
            i = (self.used_next + step) % self.size
            address, length, id, flags = self.read_descriptor(i)
            words = [
                word
                for bit, word in ((F_NEXT, "next"), (F_WRITE, "write"), (F_INDIRECT, "indirect"), (F_AVAIL, "avail"), (F_USED, "used"))
                if flags & bit
            ]
            lines.append(f"  {i}: {address:#x}+{length} id {id} {' '.join(words) or 'no flags'}")
        return "\n".join(lines)
