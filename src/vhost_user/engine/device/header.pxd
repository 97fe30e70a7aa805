# C interface of vhost_user.engine.device.header.
from libc.stdint cimport uint8_t, uint64_t

cdef class Header:
    cdef readonly str format
    cdef readonly int size
    cdef readonly object into   # what the fields become; None: a tuple
    cdef int count
    cdef int offsets[32]
    cdef int widths[32]     # bytes; negative: signed
    cdef uint64_t value(self, uint8_t *data, int index) noexcept
    cdef object number(self, uint8_t *data, int index)
    cdef object decode(self, uint8_t *data)
