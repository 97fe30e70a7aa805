# C interface of vhost_user.engine.device.worker.
from libc.stdint cimport int64_t, uint32_t, uint64_t
from vhost_user.engine.barriers cimport pthread_mutex_t
from vhost_user.engine.device.placement cimport Placement

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
        EPOLLET

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned int initial, int flags)
    enum:
        EFD_CLOEXEC
        EFD_NONBLOCK

cdef struct Kick:
    int fd                          # in the epoll set, or -1
    int64_t registration            # 0: none; its events carry it, so that those of the one before are told apart
    int64_t pause                   # nanoseconds: how long the last failure put it off; 0: it did not fail
    int64_t due                     # when it is looked at again; 0: not put off

cdef class Worker:
    cdef readonly Placement placement   # None: the scheduler's choice stands
    cdef readonly tuple vrings
    cdef readonly int first_listener_id
    cdef dict listeners             # id -> fd -> registration
    cdef void **items               # the vrings again, for C; `vrings` keeps them alive
    cdef Kick *kicks                # of each vring
    cdef uint64_t registrations     # the last number given
    cdef int troubled               # rings whose handler raised when it was last called
    cdef bint failed                # look_again was called since the last dispatch
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
    cdef uint64_t register(self)
    cdef object hear_again(self, int position, uint64_t data)
    cdef bint listens(self, uint64_t data)
    cdef object forget_listener(self, int number, data)
    cdef bint holds_back(self, int position) noexcept nogil
    cdef object served_well(self, int position)
    cdef int patience(self) noexcept nogil
    cdef void adapt(self, bint found) noexcept nogil
    cdef object control(self, int operation, int fd, uint32_t events, uint64_t data)

cdef int descriptor(fd) except? -1
