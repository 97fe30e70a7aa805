# C interface of vhost_user.engine.device.placement.
from libc.stdint cimport int64_t

cdef extern from "device/placement.h" nogil:
    int move_to_next_cpu "vu_move_to_next_cpu" ()

cdef class Placement:
    cdef int far            # turns after which the driver answered from another CPU, less those with no need to wait
    cdef int64_t moved      # when the last move was, in ns
    cdef int64_t rest       # ns until the next one
    cdef readonly int64_t moves
    cdef void after_turn(self, bint polled, int64_t calls, bint near) noexcept nogil
