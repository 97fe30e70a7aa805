# C interface of vhost_user.engine.device.poll_set.
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
        EPOLLET

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned int initial, int flags)
    enum:
        EFD_CLOEXEC
        EFD_NONBLOCK

cdef extern from *:
    """
    #define VU_WAKE UINT64_MAX
    #define VU_EXIT (UINT64_MAX - 1)
    #define VU_LISTENER (UINT64_C(1) << 63)
    """
    # In the data of an event: a kick has its registration above its position, a listener that and LISTENER above its id.
    const uint64_t WAKE "VU_WAKE"
    const uint64_t EXIT "VU_EXIT"
    const uint64_t LISTENER "VU_LISTENER"

cdef struct Kick:
    int fd                          # in the epoll set, or -1
    int64_t registration            # 0: none; its events carry it, so that those of the one before are told apart
    int64_t pause                   # nanoseconds: how long the last failure put it off; 0: it did not fail
    int64_t due                     # when it is looked at again; 0: not put off

cdef class PollSet:
    cdef readonly tuple vrings
    cdef readonly int first_listener_id
    cdef dict listeners             # id -> fd -> registration
    cdef void **items               # their states, for C; `vrings` keeps them alive
    cdef Kick *kicks                # of each vring
    cdef uint64_t registrations     # the last number given
    cdef int count
    cdef int epoll
    cdef int wake
    cdef int exit_fd
    cdef int64_t stopping
    cdef int64_t kickless           # runnable rings without a kick fd
    cdef pthread_mutex_t mutex
    cdef int listener(self, fd, data) except? -1
    cdef uint64_t register(self)
    cdef object hear_again(self, int position, uint64_t data)
    cdef bint listens(self, uint64_t data)
    cdef object forget_listener(self, int number, data)
    cdef object control(self, int operation, int fd, uint32_t events, uint64_t data)

cdef int descriptor(fd) except? -1
