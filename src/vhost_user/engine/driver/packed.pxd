from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t

from vhost_user.engine.driver.queue cimport DriverQueue

cdef struct PackedDescriptor:
    uint64_t address
    uint32_t length
    uint16_t id
    uint16_t flags

cdef class PackedDriverQueue(DriverQueue):
    cdef PackedDescriptor *descriptors
    cdef uint8_t *driver_event
    cdef uint8_t *device_event_area
    cdef uint16_t *free_ids
    cdef int num_free_ids
    cdef uint32_t first_base
    cdef uint16_t avail_next
    cdef bint avail_wrap
    cdef uint16_t used_next
    cdef bint used_wrap
    cdef int pending_head
    cdef uint16_t pending_flags
    cdef uint32_t added_since_check
    cdef uint32_t added_unpublished
    cdef uint16_t published_next
    cdef bint published_wrap
    cdef void advance_used(self, int count) noexcept nogil
    cdef int position(self, int i) except -1
    cdef int open_ring(self) except -1
