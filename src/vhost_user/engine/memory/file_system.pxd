# C interface of vhost_user.engine.memory.file_system.
from libc.stdint cimport uint32_t, uint64_t

cdef extern from "memory/file_system.h" nogil:
    ctypedef struct FileFacts "struct vu_status":
        uint32_t mode
        uint32_t block_size
        uint64_t device
        uint64_t inode
        uint64_t size
    int vu_status(int fd, FileFacts *s)
    int vu_has_seals(int fd)
    int vu_close_elsewhere(int fd)
