# C interface of vhost_user.engine.memory.mapping.
from libc.stdint cimport int64_t, uint64_t

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
    size_t page         # bytes of a page of the memory behind it, which may be a huge one
    char *data          # first byte asked for
    int guard_slot
    int lost            # set by the SIGBUS handler

cdef Mapping *map_file(int fd, uint64_t size, uint64_t offset, str what, bint allow_remote)
cdef void unmap_file(Mapping *mapping) noexcept nogil
