# C interface of vhost_user.engine.memory.dirty_log.
from libc.stdint cimport int64_t, uint8_t, uint64_t
from vhost_user.engine.barriers cimport pthread_mutex_t
from vhost_user.engine.memory.mapping cimport Mapping

cdef struct Log:
    Mapping *mapping
    uint8_t *bits
    uint64_t pages

cdef class Bitmap:
    cdef Log *log
    cdef int64_t pins
    cdef int64_t on
    cdef int64_t notify             # descriptor, and above it the kind of doorbell; 0: none
    cdef pthread_mutex_t lock
    cdef object _swap(self, Log *log)
    cdef void mark_range(self, uint64_t address, uint64_t length) noexcept nogil
    cdef inline void written(self, uint64_t address, uint64_t length) noexcept nogil:
        # The one place every write to guest memory passes after the bytes are there (C084).
        if self.on:
            self.mark_range(address, length)
