# C interface of vhost_user.engine.device.inflight_recovery.
from libc.stdint cimport uint16_t
from vhost_user.engine.device.inflight cimport Tracking

cdef tuple recover_split(Tracking *t, uint16_t used, uint16_t available, int ring_size)
cdef tuple recover_packed(Tracking *t, char *descriptors, int ring_size, bint never_used)
