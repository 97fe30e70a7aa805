# C interface of vhost_user.engine.device.vring_recovery.
from vhost_user.engine.device.vring_state cimport VringState

cdef class VringRecovery:
    cdef VringState state
