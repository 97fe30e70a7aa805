# C interface of vhost_user.engine.memory.region.
from libc.stdint cimport uint64_t
from vhost_user.engine.memory.mapping cimport Mapping

cdef class MemoryRegion:
    cdef Mapping *mapping
    cdef readonly uint64_t guest_address
    cdef readonly uint64_t user_address
    cdef readonly uint64_t size
    cdef readonly uint64_t file_offset
