# C interface of vhost_user.engine.device.split.
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from vhost_user.engine.device.chain cimport Chain
from vhost_user.engine.device.ring cimport Ring

cdef class SplitRing(Ring):
    cdef uint16_t last_avail        # next available entry to take, free running
    cdef uint16_t seen_avail        # avail.idx as last read
    cdef uint16_t next_used         # next used entry to write, free running
    cdef uint16_t published         # used.idx as the driver sees it
    cdef uint16_t signalled         # `published` at the last decision about a call
    cdef bint signalled_valid
    cdef int walk(self, Chain *chain, uint32_t index) noexcept nogil
    cdef void note_emitted(self, uint16_t head, uint64_t offset) noexcept nogil
