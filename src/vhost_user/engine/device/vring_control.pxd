# C interface of vhost_user.engine.device.vring_control.
from vhost_user.engine.device.vring_state cimport Bell, VringState

cdef bint replace_bell(VringState state, Bell *place, object fd, bint reading) except -1
cdef object start(VringState state)
cdef object set_enabled(VringState state, object enabled)
cdef object set_suspended(VringState state, object suspended)
cdef object stop(VringState state)
cdef object refuse(VringState state, object error)
cdef object drain(VringState state, object timeout)
cdef object abandon(VringState state)
cdef object give_back(VringState state)
cdef object reset(VringState state)
cdef object shut(VringState state)
