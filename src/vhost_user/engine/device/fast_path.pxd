# C interface of vhost_user.engine.device.fast_path.
from libc.stdint cimport int64_t, uint64_t
from vhost_user.engine.device.chain cimport Chain
from vhost_user.engine.memory.guest_memory cimport GuestMemory

cdef enum:
    DECLINED = 0        # to the device's handler
    DONE = 1            # give it back, `used` bytes were written
    UNDER_WAY = 2       # the fast path keeps the chain and gives it back itself
    SETTLED = 3         # was DONE, and is back in the ring

cdef enum:
    FAR = 8388608       # a buffer of more bytes is not wholly in the caches

cdef class FastPath:
    cdef readonly int64_t accepted
    cdef readonly int64_t declined
    cdef int under_way
    cdef int64_t *current           # the generation of the vring that calls,
    cdef int64_t expected           # and that of its batch: another one, and nobody waits for the batch any more
    cdef int64_t users              # process() calls that are inside
    cdef int following              # chains of the batch that are still to come after this one
    # Called with the snapshot pinned; `memory` outlives requests under way because the fast path is told to keep it.
    cdef int carry_out(self, Chain *chain, GuestMemory memory, int64_t generation, uint64_t *used) noexcept nogil
    cdef void prepare(self, Chain *chain) noexcept nogil
    cdef void submit(self) noexcept nogil
    cdef void bell(self, bint on) noexcept nogil
    cdef Chain *finished(self, int *outcome, int64_t *generation, uint64_t *used, void **memory) noexcept nogil
    cdef void recycle(self, Chain *chain) noexcept nogil
    cdef Chain *replacement(self) noexcept nogil
    cdef object keep(self, GuestMemory memory)
    cdef object leave_alone(self)
