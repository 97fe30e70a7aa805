# C interface of vhost_user.engine.memory.missing.
from libc.stdint cimport int64_t, uint8_t, uint64_t
from vhost_user.engine.barriers cimport pthread_mutex_t

cdef extern from "memory/userfault.h" nogil:
    int vu_userfaultfd()
    int vu_watch(int fd, void *base, size_t length)
    void vu_unwatch(int fd, void *base, size_t length)
    int vu_ask(int channel, uint64_t region, uint64_t offset, uint64_t length)

cdef extern from "<sys/socket.h>" nogil:
    int shutdown(int fd, int how)
    enum:
        SHUT_RDWR

cdef enum:
    PAGE_BITS = 12

cdef enum:                  # how far it is
    COMING = 0
    COMPLETE = 1            # all of them are here, or count as here
    GIVEN_UP = 2            # nobody brings any more

cdef struct Arrivals:       # the pages of one region
    uint8_t *here           # one bit a page of 4 KiB of the mapping; only ever set, by whoever saw the page come
    uint64_t ahead          # bytes of the mapping before the first of the region
    uint64_t number         # of the region, for the pager

cdef class MissingPages:
    cdef pthread_mutex_t asking     # one question at a time; the control thread never takes it
    cdef int channel
    cdef int watch
    cdef int64_t stage
    cdef int64_t asked_for
    cdef object end_waits(self)
    cdef bint present(self, Arrivals *arrivals, uint64_t offset, uint64_t length) noexcept nogil
    cdef bint bring(self, Arrivals *arrivals, uint64_t offset, uint64_t length) noexcept nogil
