# C interface of vhost_user.engine.worker.
from libc.stdint cimport int64_t, uint32_t, uint64_t
from vhost_user.engine.barriers cimport pthread_mutex_t

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int operation, int fd, epoll_event *event)
    int epoll_wait(int epoll, epoll_event *events, int most, int timeout)
    enum:
        EPOLL_CLOEXEC
        EPOLL_CTL_ADD
        EPOLL_CTL_DEL
        EPOLL_CTL_MOD
        EPOLLIN
        EPOLLHUP
        EPOLLERR

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned int initial, int flags)
    enum:
        EFD_CLOEXEC
        EFD_NONBLOCK

cdef class Worker:
    cdef readonly tuple vrings
    cdef readonly int first_listener_id
    cdef dict listeners             # id -> set of fds
    cdef void **items               # the vrings again, for C; `vrings` keeps them alive
    cdef int *registered            # kick fd in the epoll set for each, or -1
    cdef int count
    cdef int epoll
    cdef int wake
    cdef int exit_fd
    cdef int64_t stopping
    cdef int64_t kickless           # runnable rings without a kick fd
    cdef int64_t poll_ns            # longest
    cdef int64_t poll_now           # at present: that, or 0; see adapt()
    cdef int credit                 # polls in vain until it is given up
    cdef int pause                  # sleeps without a poll, then
    cdef int sleeps_left
    cdef int turn                   # where the next look for work begins, so that a busy ring starves no other (H82)
    cdef int64_t wakeups
    cdef int64_t polls
    cdef pthread_mutex_t mutex
    cdef int listener(self, fd, data) except? -1
    cdef int find_work(self) noexcept nogil
    cdef int arm_all(self) noexcept nogil
    cdef int spin(self) noexcept nogil
    cdef void adapt(self, bint found) noexcept nogil
    cdef object control(self, int operation, int fd, uint32_t events, uint64_t data)

cdef int descriptor(fd) except? -1
