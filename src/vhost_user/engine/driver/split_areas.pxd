from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from vhost_user.engine.driver.queue cimport DriverQueue

cdef struct SplitDescriptor:
    uint64_t address
    uint32_t length
    uint16_t flags
    uint16_t next

cdef class SplitAreas(DriverQueue):
    cdef SplitDescriptor *descriptors
    cdef uint8_t *avail
    cdef uint8_t *used
    cdef uint16_t *links
    cdef SplitDescriptor *known  # what we wrote to each descriptor, not to be read back from shared memory
    cdef int position(self, int i) except -1
    cdef int open_ring(self) except -1
