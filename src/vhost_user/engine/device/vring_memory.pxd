# C interface of vhost_user.engine.device.vring_memory.
from vhost_user.engine.device.ring cimport Ring
from vhost_user.engine.device.vring_state cimport VringState
from vhost_user.engine.memory.guest_memory cimport GuestMemory

cdef class VringMemory(VringState):
    cdef object reattach(self)
    cdef void settle_in(self) noexcept
    cdef object track(self, Ring ring)
    cdef GuestMemory snapshot(self)
