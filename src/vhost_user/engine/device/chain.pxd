# C interface of vhost_user.engine.device.chain.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from vhost_user.engine.barriers cimport iovec
from vhost_user.engine.memory.guest_memory cimport GuestMemory

cdef struct Chain:
    iovec *segments         # device-readable ones first; iov_base NULL: not mapped
    uint64_t *addresses     # guest address of each segment
    uint64_t *iovas         # with an IOMMU: what the driver called it
    int capacity
    int iova_capacity
    int count
    int readable_count
    int faults              # segments that are not mapped
    int descriptors         # buffers of the driver, for V005
    int slots               # ring slots it occupies
    uint64_t serial         # of the one that the ring handed out last: how many those were (see Ring.taken)
    uint16_t head           # head index (split) or buffer id (packed)
    bint again              # it was in flight when a process before this one ended (see inflight.py)
    uint64_t readable_total
    uint64_t writable_total

cdef enum:
    KEPT_SEGMENTS = 256     # a chain that goes back to the batch keeps room for so many, 6 KiB
    CROSSINGS = 512         # so often its buffers may pass from one region into the next
    PIECES = 8192           # with an IOMMU: from one translation into the next; 32 MiB of single pages
    PIECE = 1048576         # long copies look after so many bytes whether their session still lives

cdef enum:
    # How bytes go between a buffer and a chain. A number from 0 on instead: that byte is stored everywhere.
    INTO = -1               # from the buffer into the writable part
    OUT = -2                # out of the readable part

cdef struct Cursor:
    int segment
    uint64_t offset         # within the segment
    uint64_t position       # within the stream

cdef Chain *chain_new() noexcept nogil
cdef void chain_free(Chain *chain) noexcept nogil
cdef void chain_trim(Chain *chain) noexcept nogil
cdef int chain_grow(Chain *chain) noexcept nogil
cdef int chain_note_iova(Chain *chain, uint64_t iova) noexcept nogil
cdef bint chain_uses(Chain *chain, uint64_t first, uint64_t last) noexcept nogil
cdef int chain_append(Chain *chain, GuestMemory memory, uint64_t address, uint64_t length, bint writable) noexcept nogil
cdef int64_t chain_copy_across(Chain *chain, GuestMemory memory, Cursor *cursor, void *buffer, uint64_t length, int how) noexcept nogil
cdef bint chain_copy_long(Chain *chain, GuestMemory memory, Cursor *cursor, void *buffer, uint64_t length, int how, int64_t *current, int64_t generation) noexcept nogil
cdef int chain_vectors(Chain *chain, Cursor *cursor, bint writable, uint64_t length, iovec *vectors, int most, uint64_t *total) noexcept nogil
cdef void chain_advance(Chain *chain, GuestMemory memory, Cursor *cursor, bint writable, uint64_t length) noexcept nogil
cdef void chain_seek(Chain *chain, Cursor *cursor, bint writable, uint64_t position) noexcept nogil
cdef bint chains_bring(Chain **chains, int count, GuestMemory memory) noexcept nogil
cdef int chain_fault_at(Chain *chain, Cursor *cursor, bint writable, uint64_t length) noexcept nogil

# In line what every request passes through, as far as the usual case goes: bytes within one segment.

cdef inline void chain_reset(Chain *chain) noexcept nogil:
    # Empty it for the next request; the arrays stay, so that steady state allocates nothing.
    chain.count = 0
    chain.readable_count = 0
    chain.faults = 0
    chain.descriptors = 0
    chain.slots = 0
    chain.head = 0
    chain.again = False
    chain.readable_total = 0
    chain.writable_total = 0

cdef inline void chain_push(Chain *chain, uint64_t address, char *base, uint64_t length, bint writable) noexcept nogil:
    # One more segment; the caller made sure of the capacity.
    chain.segments[chain.count].iov_base = base
    chain.segments[chain.count].iov_len = length
    chain.addresses[chain.count] = address
    chain.count += 1
    if writable:
        chain.writable_total += length
    else:
        chain.readable_count += 1
        chain.readable_total += length

cdef inline int chain_fault(Chain *chain, Cursor *cursor, bint writable, uint64_t length) noexcept nogil:
    # Index of the first unmapped segment among the next bytes, or -1. Asked before anything is copied.
    return -1 if chain.faults == 0 else chain_fault_at(chain, cursor, writable, length)

cdef inline void chain_pass(Cursor *cursor, uint64_t done, uint64_t length) noexcept nogil:
    # The cursor moves over bytes of its own segment, which has that length.
    cursor.position += done
    cursor.offset += done
    if cursor.offset == length:
        cursor.segment += 1
        cursor.offset = 0

cdef inline int64_t chain_read(Chain *chain, Cursor *cursor, void *target, uint64_t length) noexcept nogil:
    # Copy up to that many readable bytes out and move the cursor; the number copied. No unmapped segment may lie in the way.
    cdef iovec *segment = chain.segments + cursor.segment
    # One less than 0 is more than any segment has: nothing to copy goes the longer way, too.
    if cursor.segment >= chain.readable_count or length - 1 >= segment.iov_len - cursor.offset:
        return chain_copy_across(chain, None, cursor, target, length, OUT)
    memcpy(target, <char *>segment.iov_base + cursor.offset, length)
    chain_pass(cursor, length, segment.iov_len)
    return length

cdef inline int64_t chain_write(Chain *chain, GuestMemory memory, Cursor *cursor, void *source, uint64_t length, int fill) noexcept nogil:
    # Copy up to that many bytes into the writable part (or store `fill` when it is not negative), mark them dirty, move the cursor.
    cdef int index = cursor.segment + chain.readable_count
    cdef iovec *segment = chain.segments + index
    if index >= chain.count or length - 1 >= segment.iov_len - cursor.offset:
        return chain_copy_across(chain, memory, cursor, source, length, fill)
    if fill >= 0:
        memset(<char *>segment.iov_base + cursor.offset, fill, length)
    else:
        memcpy(<char *>segment.iov_base + cursor.offset, source, length)
    memory.bitmap.written(chain.addresses[index] + cursor.offset, length)
    chain_pass(cursor, length, segment.iov_len)
    return length

cdef inline void chain_seek_end(Chain *chain, Cursor *cursor, uint64_t length) noexcept nogil:
    # To the last `length` bytes of the writable part, which has as many.
    if length == 0 or length > chain.segments[chain.count - 1].iov_len:
        chain_seek(chain, cursor, True, chain.writable_total - length)
        return
    cursor.segment = chain.count - 1 - chain.readable_count
    cursor.offset = chain.segments[chain.count - 1].iov_len - length
    cursor.position = chain.writable_total - length
