# C interface of vhost_user.engine.device.request_part.
from libc.stdint cimport uint64_t
from vhost_user.engine.device.request_files cimport RequestFiles

cdef class RequestPart:
    cdef RequestFiles request
    cdef uint64_t first         # all three count from the beginning of the request's readable or writable part
    cdef uint64_t place
    cdef uint64_t last
    cdef bint made
    cdef bint writes(self)
    cdef uint64_t claim(self, object length)

cdef class ReadablePart(RequestPart):
    pass

cdef class WritablePart(RequestPart):
    pass
