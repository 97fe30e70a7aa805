from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t

from vhost_user.engine.driver.queue cimport DriverQueue

cdef struct SplitDescriptor:
    uint64_t address
    uint32_t length
    uint16_t flags
    uint16_t next

cdef class SplitDriverQueue(DriverQueue):
    cdef SplitDescriptor *descriptors
    cdef uint8_t *avail
    cdef uint8_t *used
    cdef uint16_t *links
    cdef SplitDescriptor *known  # what we wrote to each descriptor, not to be read back from shared memory
    cdef uint16_t first_base
    cdef uint16_t avail_next
    cdef uint16_t avail_published
    cdef uint16_t kick_checked
    cdef uint16_t used_next
    cdef uint16_t used_seen
    cdef int free_head
    cdef void describe_buffer(self, int at, uint64_t address, uint32_t length, uint16_t flags, uint16_t following) noexcept nogil
    cdef void release(self, uint32_t slot) noexcept nogil
    cdef int position(self, int i) except -1
    cdef int open_ring(self) except -1
