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

cdef struct Job:
    Segment segments[3]
    uint8_t *header
    uint8_t *data
    uint8_t *status
    int64_t started
    uint64_t block
    uint32_t generation
    uint32_t writing

cdef class BlockLoad:
    cdef readonly DriverQueue queue
    cdef DriverMemory memory
    cdef readonly int depth
    cdef readonly uint32_t block_size
    cdef uint64_t first_block
    cdef uint64_t blocks
    cdef int batch
    cdef uint32_t read_share
    cdef bint random
    cdef bint polling
    cdef bint verify
    cdef bint use_indirect
    cdef int64_t duration
    cdef int64_t stall
    cdef uint64_t wanted
    cdef uint64_t random_state
    cdef uint64_t seed
    cdef uint64_t position
    cdef Job *jobs
    cdef int *free_jobs
    cdef int num_free
    cdef uint32_t *generations
    cdef uint64_t *histogram
    cdef list allocations
    cdef int64_t stop_requested
    cdef int64_t counter
    cdef readonly uint64_t submitted
    cdef readonly uint64_t reads
    cdef readonly uint64_t writes
    cdef readonly uint64_t errors
    cdef readonly uint64_t length_errors
    cdef readonly uint64_t mismatches
    cdef readonly uint64_t verified
    cdef readonly int64_t elapsed
    cdef readonly bint stalled
    cdef readonly int first_error_status
    cdef readonly uint64_t first_error_block
    cdef int loop(self) noexcept nogil
    cdef int submit_some(self, int64_t now) noexcept nogil
    cdef void show(self) noexcept nogil
    cdef bint choose(self, Job *job) noexcept nogil
    cdef void finished(self, Completion *completion, int64_t now) noexcept nogil
    cdef void idle(self, int spins) noexcept nogil
    cdef uint64_t next_random(self) noexcept nogil
    cdef uint64_t pattern(self, uint64_t block, uint32_t generation) noexcept nogil
