# C interface of vhost_user.engine.device.packed.
from libc.stdint cimport int64_t, uint16_t
from vhost_user.engine.device.chain cimport Chain
from vhost_user.engine.device.packed_inflight cimport TrackedPackedRing

cdef class PackedRing(TrackedPackedRing):
    cdef int pending                # first used descriptor whose flags are not written yet, or -1
    cdef uint16_t pending_flags
    cdef int64_t unsignalled        # descriptors used since
    cdef bint signalled_valid
    cdef int too_long(self, Chain *chain) noexcept nogil
    cdef void log_place(self, uint16_t index) noexcept nogil
    cdef void set_event(self, uint16_t flags) noexcept nogil
    cdef void note_emitted(self, uint16_t head, int slots) noexcept nogil
