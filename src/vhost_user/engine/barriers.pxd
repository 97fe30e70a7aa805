# The C header, named for Cython modules: `from cython.cimports.vhost_user.engine.barriers import …`.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass

cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void *iov_base
        size_t iov_len
    ssize_t preadv(int fd, const iovec *iov, int count, int64_t offset)
    ssize_t pwritev(int fd, const iovec *iov, int count, int64_t offset)
    ssize_t readv(int fd, const iovec *iov, int count)
    ssize_t writev(int fd, const iovec *iov, int count)

cdef extern from "barriers.h" nogil:
    uint8_t load_8 "vu_load_8"(const void *p)
    uint16_t load_16 "vu_load_16"(const void *p)
    uint32_t load_32 "vu_load_32"(const void *p)
    uint64_t load_64 "vu_load_64"(const void *p)
    uint16_t load_acquire_16 "vu_load_acquire_16"(const void *p)
    uint32_t load_acquire_32 "vu_load_acquire_32"(const void *p)
    uint64_t load_acquire_64 "vu_load_acquire_64"(const void *p)
    void store_8 "vu_store_8"(void *p, uint8_t v)
    void store_16 "vu_store_16"(void *p, uint16_t v)
    void store_32 "vu_store_32"(void *p, uint32_t v)
    void store_64 "vu_store_64"(void *p, uint64_t v)
    void store_release_8 "vu_store_release_8"(void *p, uint8_t v)
    void store_release_16 "vu_store_release_16"(void *p, uint16_t v)
    void store_release_32 "vu_store_release_32"(void *p, uint32_t v)
    void store_release_64 "vu_store_release_64"(void *p, uint64_t v)
    void fetch_or_8 "vu_fetch_or_8"(void *p, uint8_t v)
    void prefetch "vu_prefetch"(const void *p)
    void prefetch_run "vu_prefetch_run"(const char *p, uint64_t length)
    void prefetch_write "vu_prefetch_write"(const void *p)
    void full_fence "vu_full_fence"()
    void pause "vu_pause"()
    int64_t counter_add "vu_counter_add"(int64_t *p, int64_t v)
    int64_t counter_get "vu_counter_get"(const int64_t *p)
    void counter_set "vu_counter_set"(int64_t *p, int64_t v)
    int64_t counter_exchange "vu_counter_exchange"(int64_t *p, int64_t v)
    void fence_all_threads "vu_fence_all_threads"()
    int64_t now_ns "vu_now_ns"()
    uint64_t ticks "vu_ticks"()
    void lock_init "vu_lock_init"(pthread_mutex_t *m)
    void lock_destroy "vu_lock_destroy"(pthread_mutex_t *m)
    void lock_nogil "vu_lock_nogil"(pthread_mutex_t *m)
    void unlock "vu_unlock"(pthread_mutex_t *m)
    void condition_init "vu_condition_init"(pthread_cond_t *c)
    void condition_destroy "vu_condition_destroy"(pthread_cond_t *c)
    void condition_broadcast "vu_condition_broadcast"(pthread_cond_t *c)
    int condition_wait "vu_condition_wait"(pthread_cond_t *c, pthread_mutex_t *m, int64_t deadline_ns)
    uint64_t this_thread "vu_this_thread"()
    void own_bell_ring "vu_own_bell_ring"(int fd)
    int own_bell_take "vu_own_bell_take"(int fd)

cdef extern from "barriers.h":
    void lock "vu_lock"(pthread_mutex_t *m)
    bint only_reference "vu_only_reference"(object o, Py_ssize_t ours)

cdef inline uint64_t load_acquire(const char *place, int width) noexcept nogil:
    # A number of 1, 2, 4 or 8 bytes, aligned to them, in one access.
    cdef uint8_t byte
    if width == 1:
        # There is no ordered load of one byte: the fence orders it.
        byte = load_8(place)
        full_fence()
        return byte
    if width == 2:
        return load_acquire_16(place)
    if width == 4:
        return load_acquire_32(place)
    return load_acquire_64(place)

cdef inline void store_release(char *place, uint64_t value, int width) noexcept nogil:
    if width == 1:
        # There is no ordered store of one byte: the fence orders it.
        full_fence()
        store_8(place, <uint8_t>value)
    elif width == 2:
        store_release_16(place, <uint16_t>value)
    elif width == 4:
        store_release_32(place, <uint32_t>value)
    else:
        store_release_64(place, value)
