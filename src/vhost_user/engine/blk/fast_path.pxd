# C interface of vhost_user.engine.blk.fast_path.
from libc.stdint cimport int64_t, uint8_t, uint64_t
from vhost_user.engine.device.chain cimport Chain
from vhost_user.engine.device.fast_path cimport FastPath
from vhost_user.engine.memory.guest_memory cimport GuestMemory

cdef struct BlockRequest:
    uint64_t offset
    uint64_t length
    int writing

cdef class BlockFastPath(FastPath):
    cdef int64_t sectors            # read once by each request, changed by resize()
    cdef bint read_only
    cdef public bint write_through
    cdef public bint enabled
    cdef bint parse(self, Chain *chain, BlockRequest *request) noexcept nogil
    cdef uint64_t status(self, Chain *chain, GuestMemory memory, BlockRequest *request) noexcept nogil

cdef class MemoryFastPath(BlockFastPath):
    cdef Py_buffer view
    cdef bint held
    cdef int carry_out_long(self, Chain *chain, GuestMemory memory, BlockRequest *request, uint64_t *used) noexcept nogil
