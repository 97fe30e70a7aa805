from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from vhost_user.engine.driver.lent cimport Completion, Segment
from vhost_user.engine.driver.queue cimport DriverQueue
from vhost_user.engine.driver.memory cimport DriverMemory

cdef extern from "<poll.h>" nogil:
    cdef struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long count, int timeout)
    int POLLIN

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef struct Piece:
    Segment segments[3]
    uint8_t *header
    uint8_t *data
    uint8_t *status
    uint64_t offset

cdef class BlockTransfer:
    cdef readonly DriverQueue queue
    cdef DriverMemory memory
    cdef readonly int depth
    cdef readonly uint32_t block_size
    cdef readonly uint64_t size
    cdef uint64_t first_sector
    cdef bint comparing
    cdef bint polling
    cdef bint use_indirect
    cdef bint stopping
    cdef bint holds_queue
    cdef bint running
    cdef bint closed
    cdef Py_buffer view
    cdef bint holds_buffer
    cdef uint64_t position
    cdef Piece *pieces
    cdef int *free_pieces
    cdef int num_free
    cdef list allocations
    cdef readonly uint64_t completed
    cdef readonly int error_status
    cdef readonly uint64_t error_offset
    cdef readonly uint32_t error_length
    cdef readonly bint differs
    cdef readonly uint64_t difference
    cdef lay_out(self)
    cdef int loop(self, int64_t deadline) noexcept nogil
    cdef void submit_some(self) noexcept nogil
    cdef void finished(self, Completion *completion) noexcept nogil
    cdef void compare(self, Piece *piece, uint8_t *expected) noexcept nogil
    cdef void idle(self, int spins, int64_t left) noexcept nogil
