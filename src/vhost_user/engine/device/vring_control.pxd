# C interface of vhost_user.engine.device.vring_control.
from vhost_user.engine.device.ring cimport Ring
from vhost_user.engine.device.vring_memory cimport VringMemory
from vhost_user.engine.device.vring_state cimport Bell

cdef class VringControl(VringMemory):
    cdef object replace_bell(self, Bell *place, object fd, bint reading)
    cdef object shut(self)
