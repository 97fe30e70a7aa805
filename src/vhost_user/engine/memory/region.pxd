# C interface of vhost_user.engine.memory.region.
from libc.stdint cimport uint64_t
from vhost_user.engine.memory.mapping cimport Mapping
from vhost_user.engine.memory.missing cimport Arrivals, MissingPages

cdef class MemoryRegion:
    cdef Mapping *mapping
    cdef MissingPages missing       # whose pages may have to be waited for, and this one's is among them; else None
    cdef Arrivals arrivals          # without `here`: it was never so
    cdef readonly uint64_t guest_address
    cdef readonly uint64_t user_address
    cdef readonly uint64_t size
    cdef readonly uint64_t file_offset
