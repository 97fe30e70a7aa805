# C interface of vhost_user.engine.device.request.
from vhost_user.engine.device.request_files cimport RequestFiles

cdef class Request(RequestFiles):
    cdef object decoded(self)
    cdef object append(self, object data)
    cdef tuple split(self, object offset, bint writable)
