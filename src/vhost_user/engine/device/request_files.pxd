# C interface of vhost_user.engine.device.request_files.
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

cdef class RequestFiles(RequestWriter):
    cdef object move_file(self, int fd, int64_t offset, int64_t length, bint writable)
    cdef list views(self, bint writable)
    cdef list views_from(self, Cursor cursor, bint writable, uint64_t length)
