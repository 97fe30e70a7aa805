# C interface of vhost_user.engine.memory.atomic.
from vhost_user.engine.memory.guest_memory cimport GuestMemory

cdef class GuestMemoryAtomic:
    cdef GuestMemory current
