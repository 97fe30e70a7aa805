"""The driver's side of a split ring (types: split.pyi)."""

import cython
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.string import memset
from cython.cimports.vhost_user.engine.barriers import (
    full_fence,
    load_16,
    load_32,
    load_acquire_16,
    store_16,
    store_release_16,
)
from cython.cimports.vhost_user.engine.driver.lent import Completion, Fault, Segment
from cython.cimports.vhost_user.engine.driver.split_areas import SplitAreas, SplitDescriptor
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


@cython.cclass
class SplitDriverQueue(SplitAreas):
    """A split ring; ``size`` is a power of two up to 32768.

    Slots of the raw accessors wrap at the ring size (V002).
    """

    @cython.cfunc
    @cython.exceptval(check=False)
    def setup(self, start: uint32_t) -> cython.void:
        i: cython.int
        base: uint16_t = cython.cast(uint16_t, start)
        memset(self.descriptors, 0, descriptor_at(self.size))
        memset(self.known, 0, descriptor_at(self.size))
        memset(self.avail, 0, avail_size(self.size))
        memset(self.used, 0, used_size(self.size))
        for i in range(self.size):
            self.links[i] = cython.cast(uint16_t, (i + 1) % self.size)
        # With IN_ORDER descriptors are used in ring order, beginning at the first one.
        self.free_head = 0
        self.first_base = base
        self.avail_next = base
        self.avail_published = base
        self.kick_checked = base
        self.used_next = base
        self.used_seen = base
        # The device reads the used index from the ring when it starts (C059); the event fields begin where the indices do.
        store_16(self.avail + INDEX_AT, base)
        store_16(self.used + INDEX_AT, base)
        store_16(self.avail + used_event_at(self.size), base)
        store_16(self.used + avail_event_at(self.size), base)

    @property
    def base(self):
        """What SET_VRING_BASE must carry for a ring that was just made or reset."""
        return self.first_base

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def next_slot(self) -> cython.int:
        return self.free_head if self.num_free > 0 else -1

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
        needed: cython.int = direct + 1 if direct < count else count
        head: cython.int = self.free_head
        at: cython.int = head
        i: cython.int
        following: uint16_t
        descriptor: cython.pointer(SplitDescriptor)
        table: cython.pointer(SplitDescriptor)
        flags: cython.int
        if self.num_free < needed:
            return -1
        for i in range(needed):
            if i == direct:
                self.describe_buffer(
                    at, self.slots[head].table_address, descriptor_at(count - direct), cython.cast(uint16_t, F_INDIRECT), 0
                )
            else:
                flags = F_WRITE if segments[i].writable else 0
                following = 0
                if i + 1 < needed:
                    flags |= F_NEXT
                    following = self.links[at]
                self.describe_buffer(at, segments[i].address, segments[i].length, cython.cast(uint16_t, flags), following)
            if i + 1 < needed:
                at = self.links[at]
        if direct < count:
            table = cython.cast(cython.pointer(SplitDescriptor), self.slots[head].table)
            for i in range(direct, count):
                flags = F_WRITE if segments[i].writable else 0
                if i + 1 < count:
                    flags |= F_NEXT
                descriptor = table + (i - direct)
                descriptor.address = segments[i].address
                descriptor.length = segments[i].length
                descriptor.flags = cython.cast(uint16_t, flags)
                descriptor.next = cython.cast(uint16_t, i - direct + 1) if i + 1 < count else 0
        self.free_head = self.links[at]
        store_16(self.avail + avail_entry_at(self.avail_next & (self.size - 1)), cython.cast(uint16_t, head))
        self.avail_next = cython.cast(uint16_t, self.avail_next + 1)
        return self.lend(head, needed, token, writable)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def describe_buffer(self, at: cython.int, address: uint64_t, length: uint32_t, flags: uint16_t, following: uint16_t) -> cython.void:
        """Write a descriptor unless it says so already: whoever reuses his buffers leaves the device's cache lines alone."""
        known: cython.pointer(SplitDescriptor) = self.known + at
        if known.address == address and known.length == length and known.flags == flags and known.next == following:
            return
        known.address = address
        known.length = length
        known.flags = flags
        known.next = following
        self.descriptors[at] = known[0]

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def make_visible(self) -> cython.void:
        if self.unpublished == 0:
            return
        # Release: whoever sees the index sees the descriptors and the ring entries (V049).
        store_release_16(self.avail + INDEX_AT, self.avail_next)
        self.avail_published = self.avail_next
        self.published_sequence = self.sequence
        self.unpublished = 0

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def kick_wanted(self) -> cython.bint:
        new: uint16_t = self.avail_published
        old: uint16_t = self.kick_checked
        event: uint16_t
        # The index must be out before the device's wish is read, or both sides go to sleep (V018, V049).
        full_fence()
        self.kick_checked = new
        if new == old:
            return False
        if self.event_idx:
            event = load_16(self.used + avail_event_at(self.size))
            return cython.cast(uint16_t, new - event - 1) < cython.cast(uint16_t, new - old)
        return not (load_16(self.used) & NO_NOTIFY)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def has_used(self) -> cython.bint:
        return load_acquire_16(self.used + INDEX_AT) != self.used_next

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def reap(self, completion: cython.pointer(Completion)) -> cython.int:
        pending: uint16_t = cython.cast(uint16_t, self.used_seen - self.used_next)
        element: cython.pointer(uint8_t)
        id: uint32_t
        length: uint32_t
        result: cython.int
        if pending == 0:
            # Looked at only when all it promised was taken: the device writes there, and each look costs a cache line.
            self.used_seen = load_acquire_16(self.used + INDEX_AT)
            pending = cython.cast(uint16_t, self.used_seen - self.used_next)
            if pending == 0:
                return 0
        if pending > self.in_flight:
            return self.broken(Fault.FAULT_JUMP, 0, pending, self.in_flight)
        if self.batch_until < 0:
            element = self.used + used_entry_at(self.used_next & (self.size - 1))
            id = load_32(element)
            length = load_32(element + 4)
            if not self.in_order:
                result = self.take_back(id, length, completion)
                if result == 1:
                    self.release(completion.slot)
                    self.used_next = cython.cast(uint16_t, self.used_next + 1)
                return result
            if self.begin_batch(id, length, pending) < 0:
                return -1
        result = self.reap_batch(completion)
        if result == 1:
            self.used_next = cython.cast(uint16_t, self.used_next + 1)
        return result

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def release(self, slot: uint32_t) -> cython.void:
        """Put the descriptors of a finished chain back in front of the free list."""
        count: cython.int = self.slots[slot].count
        tail: cython.int = slot
        i: cython.int
        for i in range(count - 1):
            tail = self.links[tail]
        self.links[tail] = cython.cast(uint16_t, self.free_head)
        self.free_head = slot

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def arm(self) -> cython.void:
        if self.event_idx:
            store_16(self.avail + used_event_at(self.size), self.used_next)
        else:
            store_16(self.avail, 0)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def arm_after(self, count: cython.int) -> cython.void:
        if self.event_idx and count < self.in_flight:
            store_16(self.avail + used_event_at(self.size), cython.cast(uint16_t, self.used_next + count))
        else:
            self.arm()

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def disarm(self) -> cython.void:
        if self.event_idx:
            store_16(self.avail + used_event_at(self.size), cython.cast(uint16_t, self.used_next - 1))
        else:
            store_16(self.avail, NO_INTERRUPT)

    @property
    def used_position(self):
        """Used index up to which the driver has reaped."""
        return self.used_next

    def describe(self):
        if self.closed:
            return f"queue {self.index}: split ring, closed"
        lines = [
            f"queue {self.index}: split ring of {self.size}, "
            + (", ".join(name for name in ("event_idx", "indirect", "in_order") if getattr(self, name)) or "no ring features"),
            f"  descriptors {self.descriptor_address:#x}, avail {self.driver_address:#x}, used {self.device_address:#x}",
            f"  avail: index {self.avail_index} (published {self.avail_published}, next {self.avail_next}), "
            f"flags {self.avail_flags}, used_event {self.used_event}",
            f"  used: index {self.used_index}, driver has taken up to {self.used_next}, flags {self.used_flags}, "
            f"avail_event {self.avail_event}",
            f"  {self.in_flight} in flight, {self.unpublished} not published, {self.num_free} descriptors free",
        ]
        shown = 0
        for head in range(self.size):
            if not self.slots[head].in_flight:
                continue
            if shown == 16:
                lines.append(f"  … {self.in_flight - shown} more in flight")
                break
            shown += 1
            at = head
            chain = []
            for _ in range(min(self.slots[head].count, 8)):
                address, length, flags, following = self.read_descriptor(at)
                words = [word for bit, word in ((F_WRITE, "writable"), (F_INDIRECT, "indirect table"), (F_NEXT, "next")) if flags & bit]
                chain.append(f"{at}: {address:#x}+{length} {' '.join(words) or 'readable'}")
                at = following
            lines.append(f"  in flight: head {head}, token {self.slots[head].token}: " + " → ".join(chain))
        return "\n".join(lines)
