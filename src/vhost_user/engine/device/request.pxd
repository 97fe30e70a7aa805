# C interface of vhost_user.engine.device.request.
from libc.stdint cimport int64_t, uint64_t
from vhost_user.engine.device.chain cimport Cursor
from vhost_user.engine.device.request_writer cimport RequestWriter

cdef extern from "<poll.h>" nogil:
    cdef struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long count, int timeout)
    enum:
        POLLIN

cdef class Request(RequestWriter):
    cdef object move_file(self, int fd, int64_t offset, int64_t length, bint writable)
    cdef list views(self, bint writable)
    cdef list views_from(self, Cursor cursor, bint writable, uint64_t length)
    cdef tuple split(self, object offset, bint writable)

cdef class RequestPart:
    cdef Request request
    cdef uint64_t first         # all three count from the beginning of the request's readable or writable part
    cdef uint64_t place
    cdef uint64_t last
    cdef bint writes(self)
    cdef uint64_t claim(self, object length)

cdef class ReadablePart(RequestPart):
    pass

cdef class WritablePart(RequestPart):
    pass
