# C interface of vhost_user.engine.device.vring.
from libc.stdint cimport uint64_t
from vhost_user.engine.device.chain cimport Chain
from vhost_user.engine.device.fast_path cimport FastPath
from vhost_user.engine.device.request cimport Request
from vhost_user.engine.device.vring_handling cimport VringHandling

cdef class Vring(VringHandling):
    cdef void *popped               # those that pop gave out and that still exist, a list under the mutex; see Request
    cdef object add_used_head(self, object head, object written)
    cdef void put_quietly(self, Chain *chain, uint64_t length) noexcept nogil
    cdef object list_popped(self, Request request)
    cdef object run(self, object handler, object on_error, int budget, int together, FastPath fast_path)
