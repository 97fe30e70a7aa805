from libc.stdint cimport uint8_t, uint64_t

cdef struct Window:
    uint64_t guest_address
    uint64_t size
    uint8_t *base

cdef class DriverRegion:
    cdef uint8_t *map_base
    cdef size_t map_length
    cdef uint8_t *base
    cdef int pins
    cdef readonly int fd
    cdef readonly uint64_t size
    cdef readonly uint64_t guest_address
    cdef readonly uint64_t user_address
    cdef readonly uint64_t file_offset
    cdef readonly bint closed
    cdef void pin(self) noexcept
    cdef void unpin(self) noexcept
    cdef void unmap_if_unused(self) noexcept

cdef class DriverMemory:
    cdef Window *windows
    cdef int count
    cdef list _regions
    cdef list tips
    cdef dict blocks
    cdef dict free_blocks
    cdef list spans
    cdef uint8_t *translate(self, uint64_t address, uint64_t length) noexcept nogil
    cdef DriverRegion region_of(self, uint64_t address)
    cdef object from_tips(self, object rounded, object step)
    cdef object from_spans(self, object rounded, object step)
    cdef object merge_free_blocks(self)
    cdef object release(self, object address)
