from libc.stdint cimport uint32_t, uint64_t

from vhost_user.engine.driver.lent cimport Completion, LentBuffers, Segment

cdef class DriverQueue(LentBuffers):
    cdef object begin(self, object start)
    cdef int prepare(self) except -1
    cdef int lay_out(self, uint64_t descriptors, uint64_t driver, int driver_alignment, uint64_t device, int device_alignment) except -1
    cdef void setup(self, uint32_t start) noexcept
    cdef int next_slot(self) noexcept nogil
    cdef int put(self, Segment *segments, int count, int direct, uint64_t token, uint64_t writable) noexcept nogil
    cdef void make_visible(self) noexcept nogil
    cdef bint kick_wanted(self) noexcept nogil
    cdef bint has_used(self) noexcept nogil
    cdef int reap(self, Completion *completion) noexcept nogil
    cdef void arm(self) noexcept nogil
    cdef void disarm(self) noexcept nogil
    cdef void ring_doorbell(self) noexcept nogil
    cdef void arm_after(self, int count) noexcept nogil
