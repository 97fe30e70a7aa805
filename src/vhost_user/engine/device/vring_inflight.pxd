# C interface of vhost_user.engine.device.vring_inflight.
from vhost_user.engine.device.inflight cimport InflightArea
from vhost_user.engine.device.vring_control cimport VringControl

cdef class VringInflight(VringControl):
    cdef InflightArea area
    cdef object problem             # why the area of this ring is not used, or not as it was found
    cdef bint only_new              # requests of a process before us go to on_interrupted, not to the handler
    cdef object on_interrupted
