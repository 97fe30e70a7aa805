# C interface of vhost_user.engine.device.batch.
from libc.stdint cimport int64_t, uint64_t
from vhost_user.engine.device.request cimport Request

cdef class Batch(list):
    cdef object each(self, int operation, list arguments, char *data, Py_ssize_t size, uint64_t unit, uint64_t keep, int number)
    cdef object expect(self, int index, list arguments, int field, char *data, uint64_t size, uint64_t unit)
    cdef object stranger(self, object item)
    cdef list places(self, object offsets, int at_field)
    cdef object sift(self)
    cdef list parallel(self, object arguments, str what)
