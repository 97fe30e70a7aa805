# C interface of vhost_user.engine.device.vring_translation.
from libc.stdint cimport uint64_t
from vhost_user.engine.device.vring_state cimport VringState

cdef class VringTranslation:
    cdef VringState state
    cdef bint areas_meet(self, uint64_t first, uint64_t last) noexcept nogil
