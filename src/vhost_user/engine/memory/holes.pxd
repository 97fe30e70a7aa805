# C interface of vhost_user.engine.memory.holes: none but for what it takes from the kernel.
cdef extern from "<sys/mman.h>" nogil:
    int madvise(void *address, size_t length, int advice)
    enum:
        MADV_REMOVE
