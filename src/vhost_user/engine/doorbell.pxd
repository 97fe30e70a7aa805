# C interface of vhost_user.engine.doorbell.
cdef extern from "doorbell.h" nogil:
    enum:
        NO_BELL "VU_BELL_NONE"
        EVENTFD "VU_BELL_EVENTFD"
        FIFO "VU_BELL_FIFO"
        SOCKET "VU_BELL_SOCKET"
    void vu_bell_prepare()
    int vu_bell_socket(int fd)
    int vu_bell_ring(int fd, int kind)
    int vu_bell_take(int fd, int kind)

cdef int adopt(int fd, bint reading) except -1
cdef int ring_bell(int fd, int kind) noexcept nogil
cdef int take_bell(int fd, int kind) noexcept nogil
