# C interface of vhost_user.engine.device.ring.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from vhost_user.engine.device.chain cimport Chain, chain_push
from vhost_user.engine.device.inflight cimport InflightArea, Tracking
from vhost_user.engine.device.ring_areas cimport Order
from vhost_user.engine.device.ring_translation cimport Descriptor, RingTranslation

cdef enum:
    MAX_CHAIN_BYTES = 4294967296    # bytes of a chain (virtio 1.4, 2.7.4 and 2.8.5)
    MAX_TABLE_ENTRIES = 4096        # entries of an indirect table, unless the vring says otherwise

cdef class Ring(RingTranslation):
    cdef uint8_t *outstanding       # one bit a head or buffer id
    cdef int in_flight
    cdef uint64_t taken             # chains handed out, less those taken back; the last of each look has it as its serial
    cdef int64_t slots_in_flight
    cdef Order *order
    cdef uint32_t *place            # head -> position in order
    cdef int order_first            # both below `size`, so that nothing wraps but at the ring's end
    cdef int order_next
    cdef int order_count
    cdef bint accounts_more         # in order, or behind an IOMMU: more than bits and counts is kept of what is in flight
    cdef bint reported              # that it is broken
    cdef int table_limit            # entries of one indirect table that are followed
    cdef Tracking *tracking         # NULL: nothing is recorded; else it points into `area`
    cdef InflightArea area
    cdef int most                   # descriptors that the chain in hand may have so far: the ring's, and in a table the table's
    cdef int configure(self, int size)
    cdef int gather(self, Chain *chain, uint64_t address, uint32_t length, bint packed) noexcept nogil
    cdef int add_any(self, Chain *chain, Descriptor *descriptor, bint writable) noexcept nogil
    cdef inline int add_buffer(self, Chain *chain, Descriptor *descriptor, bint writable) noexcept nogil:
        # A well-formed buffer in the region where the one before was; everything else, and every error, in add_any.
        # Compared by subtraction, so that no sum can wrap (V011, H78).
        cdef uint64_t offset = descriptor.address - self.near.guest_address
        if (
            offset >= self.near.size
            or descriptor.length - <uint64_t>1 >= self.near.size - offset
            or chain.count == chain.capacity
            or chain.descriptors >= self.most
            or (chain.writable_total > 0 and not writable)
        ):
            return self.add_any(chain, descriptor, writable)
        chain.descriptors += 1
        chain_push(chain, descriptor.address, self.near.data + offset, descriptor.length, writable)
        return 0
    cdef inline int admit(self, Chain *chain) noexcept nogil:
        # Account for a complete chain, before it is handed out. What speaks against it, and what few rings need, in admit_any.
        cdef uint8_t *byte = self.outstanding + (chain.head >> 3)
        cdef uint8_t bit = <uint8_t>(1 << (chain.head & 7))
        if (
            byte[0] & bit
            or self.slots_in_flight + chain.slots > self.size
            or (chain.readable_total + chain.writable_total) >> 32
            or self.accounts_more
        ):
            return self.admit_any(chain)
        byte[0] |= bit
        self.in_flight += 1
        self.slots_in_flight += chain.slots
        return 1
    cdef int admit_any(self, Chain *chain) noexcept nogil
    cdef inline void hand_back(self, uint16_t head, int slots, uint32_t length) noexcept nogil:
        if self.device_area != NULL:
            self.emit(head, slots, length)
        else:
            self.defer(head, slots, length)
    cdef void defer(self, uint16_t head, int slots, uint32_t length) noexcept nogil
    cdef object track(self, InflightArea area, int queue)
    cdef void track_anew(self) noexcept nogil
    cdef void untracked(self, uint16_t head) noexcept nogil
    cdef int next_again(self, Chain *chain) noexcept nogil
    cdef void put(self, Chain *chain, uint32_t length) noexcept nogil
    cdef bint waits_its_turn(self, int head) noexcept nogil
    cdef void note_order(self, Chain *chain) noexcept nogil
    cdef void put_in_order(self, int head, uint32_t length) noexcept nogil
    cdef bint is_last(self, Chain *chain) noexcept nogil
    cdef void take_back(self, Chain *chain) noexcept nogil
    cdef void forget(self) noexcept nogil
    cdef int give_back(self) noexcept nogil
    cdef bint untake(self, uint16_t head, int slots) noexcept nogil
