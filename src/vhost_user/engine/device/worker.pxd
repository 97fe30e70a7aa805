# C interface of vhost_user.engine.device.worker.
from libc.stdint cimport int64_t
from vhost_user.engine.device.placement cimport Placement
from vhost_user.engine.device.poll_set cimport PollSet

cdef class Worker(PollSet):
    cdef readonly Placement placement   # None: the scheduler's choice stands
    cdef int troubled               # rings whose handler raised when it was last called
    cdef bint failed                # look_again was called since the last dispatch
    cdef int64_t poll_ns            # longest
    cdef int64_t poll_now           # at present: that, or 0; see adapt()
    cdef int credit                 # polls in vain until it is given up
    cdef int pause                  # sleeps without a poll, then
    cdef int sleeps_left
    cdef int turn                   # where the next look for work begins, so that a busy ring starves no other (H82)
    cdef int64_t wakeups
    cdef int64_t polls
    cdef int find_work(self) noexcept nogil
    cdef int arm_all(self) noexcept nogil
    cdef int spin(self) noexcept nogil
    cdef bint holds_back(self, int position) noexcept nogil
    cdef object served_well(self, int position)
    cdef int patience(self) noexcept nogil
    cdef void adapt(self, bint found) noexcept nogil
