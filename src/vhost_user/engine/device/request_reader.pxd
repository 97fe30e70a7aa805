# C interface of vhost_user.engine.device.request_reader.
from libc.stdint cimport int64_t, uint64_t
from vhost_user.engine.device.request_state cimport RequestState

cdef class RequestReader(RequestState):
    cdef int copy_header(self) except -1
    cdef object field(self, int index)
    cdef int check_field(self, int index) except -1
    cdef bytes rest(self)
    cdef bytes next_bytes(self, uint64_t size)
    cdef int64_t take(self, char *to, uint64_t size) except -1
    cdef object check_limit(self, uint64_t size)
    cdef uint64_t left(self) noexcept nogil
    cdef bytes bytes_at(self, object position, object length)
