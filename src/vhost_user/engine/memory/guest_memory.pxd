# C interface of vhost_user.engine.memory.guest_memory, for the other modules of the engine.
from libc.stdint cimport int64_t, uint64_t
from vhost_user.engine.memory.dirty_log cimport Bitmap
from vhost_user.engine.memory.region cimport MemoryRegion

cdef struct Slot:
    uint64_t guest_address
    uint64_t size
    char *data

cdef class GuestMemory:
    cdef object __weakref__
    cdef tuple mapped_regions       # read with a pin, or as `regions`; emptied when closed and nobody has one
    cdef readonly Bitmap bitmap
    cdef Slot *table
    cdef int count
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
    cdef int copy_in(self, uint64_t address, void *source, uint64_t length) noexcept nogil
    cdef bint covers(self, uint64_t address, uint64_t length) noexcept nogil
    cdef bint any_lost(self) noexcept nogil
    cdef uint64_t element(self, object guest_address, object size)
    cdef inline bint closed_already(self) noexcept nogil:
        return self.ended != 0
