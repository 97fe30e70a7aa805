# C interface of vhost_user.engine.memory.window.
from libc.stdint cimport uint64_t
from vhost_user.engine.memory.dirty_log cimport Bitmap
from vhost_user.engine.memory.iotlb cimport Iotlb

cdef extern from "<sys/mman.h>" nogil:
    void *mremap(void *old, size_t old_size, size_t new_size, int flags, ...)
    enum:
        PROT_NONE
        MAP_PRIVATE
        MAP_ANONYMOUS
        MREMAP_MAYMOVE
        MREMAP_FIXED

cdef struct Window:
    void *base          # NULL: there is none
    size_t length
    uint64_t offset     # of what was asked for, in the first page
    uint64_t *guests    # guest address of each page, for the dirty log
    int guard_slot

cdef char *window_open(Window *window, Iotlb iotlb, uint64_t iova, uint64_t length, int permission, int *lost) noexcept nogil
cdef void window_close(Window *window) noexcept nogil
cdef void window_written(Window *window, Bitmap bitmap, uint64_t offset, uint64_t length) noexcept nogil
