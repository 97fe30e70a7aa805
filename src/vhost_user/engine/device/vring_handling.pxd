# C interface of vhost_user.engine.device.vring_handling.
from libc.stdint cimport int64_t
from vhost_user.engine.device.fast_path cimport FastPath
from vhost_user.engine.device.request cimport Request
from vhost_user.engine.device.source cimport Source
from vhost_user.engine.device.vring_state cimport VringState
from vhost_user.engine.memory.guest_memory cimport GuestMemory

cdef class Handling:
    cdef Source source
    cdef VringState state           # the source's
    cdef list batch                 # the request objects, used again from batch to batch
    cdef int64_t processing         # a thread is inside of run()

    cdef object run(self, object vring, object handler, object on_error, int budget, int together, FastPath fast_path)
    cdef Request spare(self)
    cdef object answer(self, int count, GuestMemory memory, object handler, object on_error, int together)
    cdef object answer_each(self, int count, GuestMemory memory, bint pinned, object handler, object on_error)
    cdef object answer_together(self, int count, GuestMemory memory, bint pinned, object handler, object on_error, int together)
    cdef object returned(self, object target, object outcome)
    cdef object ask_first(self, object handler, int together)
    cdef object redo(self, object handler, object on_error, int together)
    cdef Request hand_out(self, int position, GuestMemory memory, int64_t generation)
    cdef object settle(self, Request request)
    cdef int settled(self, Request request, int index) except -1
