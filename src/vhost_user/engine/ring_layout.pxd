# Where things are in a ring and what their bits mean (virtio 1.4, 2.7 and 2.8), for both sides of it. spec/ring.py has the
# same as data; tests/engine/test_ring_layout.py holds the two against each other, and nobody declares them again.
from libc.stdint cimport uint64_t

cdef enum:
    # flags of a descriptor
    F_NEXT = 0x0001
    F_WRITE = 0x0002
    F_INDIRECT = 0x0004
    F_AVAIL = 0x0080        # of a packed one
    F_USED = 0x8000
    # flags of a split ring's two halves
    NO_INTERRUPT = 1
    NO_NOTIFY = 1
    # what an event suppression structure asks for
    EVENT_ENABLE = 0
    EVENT_DISABLE = 1
    EVENT_DESCRIPTOR = 2
    # positions of a packed ring; the bit above is the wrap counter
    POSITION = 0x7FFF
    # sizes in bytes, and places
    DESCRIPTOR_SIZE = 16
    EVENT_SIZE = 4
    INDEX_AT = 2            # of either half of a split ring
    ID_AT = 12              # of a packed descriptor
    FLAGS_AT = 14

cdef inline uint64_t descriptor_at(uint64_t index) noexcept nogil:
    return 16 * index

cdef inline uint64_t avail_entry_at(uint64_t slot) noexcept nogil:
    return 4 + 2 * slot

cdef inline uint64_t used_entry_at(uint64_t slot) noexcept nogil:
    return 4 + 8 * slot

cdef inline uint64_t used_event_at(uint64_t size) noexcept nogil:
    return 4 + 2 * size

cdef inline uint64_t avail_event_at(uint64_t size) noexcept nogil:
    return 4 + 8 * size

cdef inline uint64_t avail_size(uint64_t size) noexcept nogil:
    return 6 + 2 * size

cdef inline uint64_t used_size(uint64_t size) noexcept nogil:
    return 6 + 8 * size
