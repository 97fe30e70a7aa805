# C interface of vhost_user.engine.device.request_writer.
from libc.stdint cimport int64_t, uint64_t
from vhost_user.engine.device.chain cimport Cursor
from vhost_user.engine.device.request_reader cimport RequestReader

cdef class RequestWriter(RequestReader):
    cdef uint64_t room(self, uint64_t keep)
    cdef int put(self, void *source, uint64_t length, int fill) except -1
    cdef object no_room(self, uint64_t length, uint64_t left)
    cdef int put_last(self, void *source, uint64_t length) except -1
    cdef int store(self, Cursor *cursor, void *source, uint64_t length, int fill) except -1
    cdef void account(self, int64_t start, int64_t end) noexcept nogil
    cdef object put_at(self, object position, object data)
    cdef int leave_gap(self, object length) except -1
