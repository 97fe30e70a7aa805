from libc.stdint cimport uint16_t, uint32_t, uint64_t

from vhost_user.engine.driver.split_areas cimport SplitAreas

cdef class SplitDriverQueue(SplitAreas):
    cdef uint16_t first_base
    cdef uint16_t avail_next
    cdef uint16_t avail_published
    cdef uint16_t kick_checked
    cdef uint16_t used_next
    cdef uint16_t used_seen
    cdef int free_head
    cdef void describe_buffer(self, int at, uint64_t address, uint32_t length, uint16_t flags, uint16_t following) noexcept nogil
    cdef void release(self, uint32_t slot) noexcept nogil
