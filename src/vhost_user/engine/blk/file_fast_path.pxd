# C interface of vhost_user.engine.blk.file_fast_path.
from libc.stdint cimport int64_t, uint64_t
from vhost_user.engine.blk.fast_path cimport BlockFastPath, BlockRequest
from vhost_user.engine.barriers cimport iovec
from vhost_user.engine.device.chain cimport Chain
from vhost_user.engine.memory.guest_memory cimport GuestMemory

cdef extern from "blk/uring.h" nogil:
    struct io_uring:
        pass
    struct io_uring_sqe:
        pass
    int VU_HAVE_URING
    int vu_uring_open(io_uring *ring, unsigned int entries, int event)
    io_uring_sqe *vu_uring_queue(io_uring *ring, int fd, int writing, int aside, const iovec *v, unsigned int count, uint64_t offset, void *data)
    int vu_uring_take(io_uring *ring, void **data, int *result)
    void vu_uring_bell(io_uring *ring, int on)
    void vu_uring_wait(io_uring *ring)
    unsigned int vu_uring_submit(io_uring *ring)
    unsigned int io_uring_sq_ready(const io_uring *ring)
    void vu_uring_take_back(io_uring_sqe *sqe)
    void vu_uring_ring(int event)
    void io_uring_queue_exit(io_uring *ring)
    int vu_in_memory(int fd)

cdef struct Task:           # one request queued or in the kernel; nothing in it moves until its completion is taken
    Chain *chain
    void *memory            # GuestMemory, pinned; FileFastPath.kept holds a reference
    int64_t generation
    BlockRequest request
    iovec vectors[64]
    io_uring_sqe *entry     # valid until the kernel has taken it
    int outcome             # of one that was taken back and carried out here
    uint64_t used
    Task *next              # in one of the lists: spare, unsent, ended

cdef class FileFastPath(BlockFastPath):
    cdef int file
    cdef io_uring ring
    cdef bint queued            # the io_uring is open
    cdef bint only_large        # the file is in memory: nothing to wait for, but large copies are better made elsewhere
    cdef int helpers            # large requests that other threads may be at work on at a time; 0: there is no other CPU
    cdef int event
    cdef Task *tasks
    cdef Task *spare_tasks
    cdef Chain **spare_chains
    cdef int spare_count
    cdef Task *unsent           # queued and not given to the kernel yet, the last one first; empty between batches
    cdef unsigned int unsent_count
    cdef Task *ended            # taken back from the queue and carried out, for `finished`
    cdef list kept
    cdef int direct(self, Chain *chain, GuestMemory memory, int64_t generation, BlockRequest *request, uint64_t *used) noexcept nogil
    cdef void take_back(self) noexcept nogil
    cdef Chain *let_go(self, Task *task, int64_t *generation, void **memory) noexcept nogil
