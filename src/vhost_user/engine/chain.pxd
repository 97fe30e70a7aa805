# C interface of vhost_user.engine.chain.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from vhost_user.engine.barriers cimport iovec
from vhost_user.engine.memory cimport GuestMemory

cdef struct Chain:
    iovec *segments         # device-readable ones first; iov_base NULL: not mapped
    uint64_t *addresses     # guest address of each segment
    int capacity
    int count
    int readable_count
    int faults              # segments that are not mapped
    int descriptors         # buffers of the driver, for V005
    int slots               # ring slots it occupies (packed)
    uint16_t head           # head index (split) or buffer id (packed)
    uint64_t readable_total
    uint64_t writable_total

cdef struct Cursor:
    int segment
    uint64_t offset         # within the segment
    uint64_t position       # within the stream

cdef Chain *chain_new() noexcept nogil
cdef void chain_free(Chain *chain) noexcept nogil
cdef void chain_reset(Chain *chain) noexcept nogil
cdef int chain_append(Chain *chain, GuestMemory memory, uint64_t address, uint64_t length, bint writable) noexcept nogil
cdef int64_t chain_read(Chain *chain, Cursor *cursor, void *target, uint64_t length) noexcept nogil
cdef int64_t chain_write(Chain *chain, GuestMemory memory, Cursor *cursor, void *source, uint64_t length, int fill) noexcept nogil
cdef int chain_vectors(Chain *chain, Cursor *cursor, bint writable, uint64_t length, iovec *vectors, int most, uint64_t *total) noexcept nogil
cdef void chain_advance(Chain *chain, GuestMemory memory, Cursor *cursor, bint writable, uint64_t length) noexcept nogil
cdef void chain_seek(Chain *chain, Cursor *cursor, bint writable, uint64_t position) noexcept nogil
cdef int chain_fault(Chain *chain, Cursor *cursor, bint writable, uint64_t length) noexcept nogil
