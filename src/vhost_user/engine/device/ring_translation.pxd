# C interface of vhost_user.engine.device.ring_translation.
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from vhost_user.engine.device.chain cimport Chain
from vhost_user.engine.device.ring_areas cimport RingAreas

cdef struct Descriptor:     # both formats: 16 bytes, copied once (V051)
    uint64_t address
    uint32_t length
    uint16_t a              # split: flags, packed: id
    uint16_t b              # split: next, packed: flags

cdef class RingTranslation(RingAreas):
    cdef int walked                 # about so many descriptors, but for those that cost next to nothing, since it was looked at last
    cdef Chain **flying             # with an IOMMU: by head, the chains in flight, so that INVALIDATE finds who uses what
    cdef int add_translated(self, Chain *chain, Descriptor *descriptor, bint writable) noexcept nogil
    cdef int fetch_entry(self, uint64_t address, Descriptor *descriptor) noexcept nogil
    cdef void forgive(self, Chain *chain) noexcept nogil
    cdef int users(self, uint64_t first, uint64_t last, int in_flight) noexcept nogil
