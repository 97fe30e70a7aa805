# C interface of vhost_user.engine.device.ring_areas.
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from vhost_user.engine.memory.guest_memory cimport GuestMemory, Slot
from vhost_user.engine.memory.iotlb cimport Iotlb
from vhost_user.engine.memory.window cimport Window

cdef enum:
    MISSES = 64             # translations that are asked for at a time

cdef struct Descriptor:     # both formats: 16 bytes, copied once (V051)
    uint64_t address
    uint32_t length
    uint16_t a              # split: flags, packed: id
    uint16_t b              # split: next, packed: flags

cdef struct Miss:           # a translation that somebody has to bring
    uint64_t iova
    int permission

cdef class RingAreas:
    cdef GuestMemory memory
    cdef Slot *near                 # where the last buffer was: in `memory`'s table, valid while the ring is attached
    cdef tuple regions              # of `memory`: what the area pointers point into stays mapped while the ring is attached
    cdef int size
    cdef uint64_t descriptor_address
    cdef uint64_t driver_address
    cdef uint64_t device_address
    cdef uint64_t log_address
    cdef bint logged
    cdef char *descriptors
    cdef char *driver_area
    cdef char *device_area
    cdef Iotlb iotlb                # with an IOMMU: all addresses of the driver pass through it
    cdef Miss *misses               # translations that the chain in hand, or the ring itself, lacks
    cdef int miss_count
    cdef Window windows[3]          # areas whose pages lie apart are mapped here a second time, in one piece
    cdef bint scattered             # that was not possible

    cdef bint attach_areas(self, GuestMemory memory, Iotlb iotlb)
    cdef bint locate(self, char **pointers)
    cdef char *span(self, int area, uint64_t iova, uint64_t length, uint64_t *guest, int *lost) noexcept nogil
    cdef bint miss(self, uint64_t iova, int permission) noexcept nogil
    cdef int fetch_entry(self, uint64_t address, Descriptor *descriptor) noexcept nogil
    cdef int area_permission(self, int area) noexcept nogil
    cdef void detach(self) noexcept nogil
    cdef void log_device(self, uint64_t offset, uint64_t length) noexcept nogil
    cdef uint64_t area_size(self, int area) noexcept nogil
