# C interface of vhost_user.engine.memory.guest_memory, for the other modules of the engine.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from vhost_user.engine.barriers cimport pthread_mutex_t

cdef extern from "memory/sigbus.h" nogil:
    int guard "vu_guard"(void *base, size_t length, int *lost)
    void unguard "vu_unguard"(int slot)

cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *address, size_t length, int protection, int flags, int fd, int64_t offset)
    int munmap(void *address, size_t length)
    enum:
        PROT_READ
        PROT_WRITE
        MAP_SHARED
        MAP_NORESERVE
    void *MAP_FAILED

cdef struct Mapping:
    void *base          # page-aligned start, as munmap wants it
    size_t length       # whole length of the mapping
    char *data          # first byte asked for
    int guard_slot
    int lost            # set by the SIGBUS handler

cdef struct Slot:
    uint64_t guest_address
    uint64_t size
    char *data

cdef class MemoryRegion:
    cdef Mapping *mapping
    cdef readonly uint64_t guest_address
    cdef readonly uint64_t user_address
    cdef readonly uint64_t size
    cdef readonly uint64_t file_offset

cdef struct Log:
    Mapping *mapping
    uint8_t *bits
    uint64_t pages

cdef class Bitmap:
    cdef Log *log
    cdef int64_t pins
    cdef int64_t on
    cdef int64_t notify             # descriptor, and above it the kind of doorbell; 0: none
    cdef pthread_mutex_t lock
    cdef object _swap(self, Log *log)
    cdef void mark_range(self, uint64_t address, uint64_t length) noexcept nogil
    cdef inline void written(self, uint64_t address, uint64_t length) noexcept nogil:
        # The one place every write to guest memory passes after the bytes are there (C084).
        if self.on:
            self.mark_range(address, length)

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

cdef class GuestMemoryAtomic:
    cdef GuestMemory current

cdef Mapping *map_file(int fd, uint64_t size, uint64_t offset, str what, bint allow_remote)
cdef void unmap_file(Mapping *mapping) noexcept nogil
