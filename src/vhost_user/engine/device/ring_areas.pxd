# C interface of vhost_user.engine.device.ring_areas.
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from vhost_user.engine.device.chain cimport Chain
from vhost_user.engine.memory.guest_memory cimport GuestMemory, Slot
from vhost_user.engine.memory.iotlb cimport Iotlb
from vhost_user.engine.memory.window cimport Window

cdef enum:
    MISSES = 64             # translations that are asked for at a time

cdef struct Order:          # one request in the order it was made available (IN_ORDER)
    uint16_t head
    int slots
    uint32_t length
    int done

cdef struct Miss:           # a translation that somebody has to bring
    uint64_t iova
    int permission

cdef class RingAreas:
    cdef GuestMemory memory
    cdef Slot *near                 # where the last buffer was: in `memory`'s table, valid while the ring is attached
    cdef tuple regions              # of `memory`: what the area pointers point into stays mapped while the ring is attached
    cdef int index
    cdef int size
    cdef uint64_t descriptor_address
    cdef uint64_t driver_address
    cdef uint64_t device_address
    cdef uint64_t log_address
    cdef bint logged
    cdef char *descriptors
    cdef char *driver_area
    cdef char *device_area
    cdef bint event_idx
    cdef bint in_order
    cdef bint notify_on_empty
    cdef bint broken
    cdef const char *error_rule
    cdef const char *error_text
    cdef int64_t error_head
    cdef uint64_t error_value
    cdef Order *deferred            # completed while the ring's memory was away (C044)
    cdef int deferred_count
    cdef Iotlb iotlb                # with an IOMMU: all addresses of the driver pass through it
    cdef Miss *misses               # translations that the chain in hand, or the ring itself, lacks
    cdef int miss_count
    cdef uint64_t absent            # the walk came upon an entry of an indirect table, at this guest address, whose page is missing
    cdef bint is_absent
    cdef Window windows[3]          # areas whose pages lie apart are mapped here a second time, in one piece
    cdef bint scattered             # that was not possible
    cdef bint attach(self, GuestMemory memory, Iotlb iotlb)
    cdef bint locate(self, char **pointers)
    cdef char *span(self, int area, uint64_t iova, uint64_t length, uint64_t *guest, int *lost) noexcept nogil
    cdef bint miss(self, uint64_t iova, int permission) noexcept nogil
    cdef int area_permission(self, int area) noexcept nogil
    cdef void detach(self) noexcept nogil
    cdef int fail(self, const char *rule, const char *text, int64_t head, uint64_t value) noexcept nogil
    cdef void log_device(self, uint64_t offset, uint64_t length) noexcept nogil
    cdef int next_chain(self, Chain *chain) noexcept nogil
    cdef void emit(self, uint16_t head, int slots, uint32_t length) noexcept nogil
    cdef bint untake_last(self) noexcept nogil
    cdef int slots_of(self, uint16_t head) noexcept nogil
    cdef bint publish(self) noexcept nogil
    cdef bint wants_call(self) noexcept nogil
    cdef bint has_work(self) noexcept nogil
    cdef int driver_position(self) noexcept nogil
    cdef bint arm(self) noexcept nogil
    cdef void disarm(self) noexcept nogil
    cdef void begin(self)
    cdef uint64_t area_size(self, int area) noexcept nogil
    cdef bint never_used(self) noexcept nogil
    cdef void step_back(self, int slots) noexcept nogil
    cdef uint32_t get_base(self) noexcept nogil
    cdef void set_base(self, uint32_t value) noexcept nogil
