# C interface of vhost_user.engine.device.request.
from vhost_user.engine.device.request_files cimport RequestFiles

cdef class Request(RequestFiles):
    cdef tuple split(self, object offset, bint writable)
