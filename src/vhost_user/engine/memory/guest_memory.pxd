# C interface of vhost_user.engine.memory.guest_memory, for the other modules of the engine.
from libc.stdint cimport int64_t, uint64_t
from vhost_user.engine.memory.dirty_log cimport Bitmap
from vhost_user.engine.memory.missing cimport Arrivals, MissingPages
from vhost_user.engine.memory.region cimport MemoryRegion
from vhost_user.engine.memory.region_views cimport RegionViews

cdef struct Slot:
    uint64_t guest_address
    uint64_t size
    char *data
    Arrivals *arrivals              # of the region, which outlives its place here; NULL: all of its pages are here

cdef class GuestMemory(RegionViews):
    cdef object __weakref__
    cdef readonly Bitmap bitmap
    cdef Slot *table
    cdef int count
    cdef readonly bint sparse       # pages may be missing, and are brought before they are used
    cdef MissingPages missing       # by whom; None unless `sparse`
    cdef int64_t pins
    cdef int64_t ended
    cdef int64_t released
    cdef int pin(self) noexcept nogil
    cdef void unpin(self) noexcept nogil
    cdef void release(self) noexcept nogil
    cdef object let_go(self)
    cdef Slot *find(self, uint64_t address) noexcept nogil
    cdef char *translate(self, uint64_t address, uint64_t length, uint64_t *contiguous) noexcept nogil
    cdef int copy_out(self, uint64_t address, void *target, uint64_t length) noexcept nogil
    cdef bint here(self, uint64_t address, uint64_t length) noexcept nogil
    cdef bint bring(self, uint64_t address, uint64_t length) noexcept nogil
    cdef int copy_in(self, uint64_t address, void *source, uint64_t length) noexcept nogil
    cdef bint covers(self, uint64_t address, uint64_t length) noexcept nogil
    cdef bint any_lost(self) noexcept nogil
    cdef uint64_t element(self, object guest_address, object size)
    cdef inline bint closed_already(self) noexcept nogil:
        return self.ended != 0
