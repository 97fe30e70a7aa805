# C interface of vhost_user.engine.device.packed_inflight.
from libc.stdint cimport uint16_t
from vhost_user.engine.device.ring cimport Ring

cdef class TrackedPackedRing(Ring):
    cdef int next_avail
    cdef int avail_wrap
    cdef int next_used
    cdef int used_wrap
    cdef int signalled              # next_used at the last decision about a call
    cdef uint16_t *taken_slots      # buffer id -> ring slots of the chain taken last under it
