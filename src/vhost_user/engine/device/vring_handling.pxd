# C interface of vhost_user.engine.device.vring_handling.
from libc.stdint cimport int64_t
from vhost_user.engine.device.request cimport Request
from vhost_user.engine.device.vring_flow cimport VringFlow
from vhost_user.engine.memory.guest_memory cimport GuestMemory

cdef class VringHandling(VringFlow):
    cdef list batch                 # the request objects, used again from batch to batch
    cdef object on_outcome          # called with what a handler returned, unless it is None

    cdef Request spare(self)
    cdef object prepare(self)
    cdef object answer(self, int count, GuestMemory memory, object handler, object on_error, int together)
    cdef object answer_each(self, int count, GuestMemory memory, bint pinned, object handler, object on_error)
    cdef object answer_together(self, int count, GuestMemory memory, bint pinned, object handler, object on_error, int together)
    cdef object returned(self, object target, object outcome)
    cdef object ask_first(self, object handler, int together)
    cdef object redo(self, object handler, object on_error, int together)
    cdef Request hand_out(self, int position, GuestMemory memory, int64_t generation)
    cdef object settle(self, Request request)
    cdef int settled(self, Request request, int index) except -1
