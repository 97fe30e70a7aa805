/* What Python cannot say about shared memory: ordered accesses of one width, fences, doorbells, a lock that
 * gives up the GIL. Everything else of the engine is Cython in Python syntax.
 *
 * Invariant of every access below: the pointer was derived from a mapped region with its length checked, and
 * the region stays mapped while the caller holds (pins) the snapshot it came from.
 */
#ifndef VHOST_USER_BARRIERS_H
#define VHOST_USER_BARRIERS_H

#include <Python.h>
#include <errno.h>
#include <linux/membarrier.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* Single accesses that the compiler may neither tear, repeat nor leave out (V051, V052). */
static inline uint8_t vu_load_8(const void *p) { return __atomic_load_n((const uint8_t *)p, __ATOMIC_RELAXED); }
static inline uint16_t vu_load_16(const void *p) { return __atomic_load_n((const uint16_t *)p, __ATOMIC_RELAXED); }
static inline uint32_t vu_load_32(const void *p) { return __atomic_load_n((const uint32_t *)p, __ATOMIC_RELAXED); }
static inline uint64_t vu_load_64(const void *p) { return __atomic_load_n((const uint64_t *)p, __ATOMIC_RELAXED); }
static inline uint16_t vu_load_acquire_16(const void *p) { return __atomic_load_n((const uint16_t *)p, __ATOMIC_ACQUIRE); }
static inline uint32_t vu_load_acquire_32(const void *p) { return __atomic_load_n((const uint32_t *)p, __ATOMIC_ACQUIRE); }
static inline uint64_t vu_load_acquire_64(const void *p) { return __atomic_load_n((const uint64_t *)p, __ATOMIC_ACQUIRE); }
static inline void vu_store_8(void *p, uint8_t v) { __atomic_store_n((uint8_t *)p, v, __ATOMIC_RELAXED); }
static inline void vu_store_16(void *p, uint16_t v) { __atomic_store_n((uint16_t *)p, v, __ATOMIC_RELAXED); }
static inline void vu_store_32(void *p, uint32_t v) { __atomic_store_n((uint32_t *)p, v, __ATOMIC_RELAXED); }
static inline void vu_store_64(void *p, uint64_t v) { __atomic_store_n((uint64_t *)p, v, __ATOMIC_RELAXED); }
static inline void vu_store_release_8(void *p, uint8_t v) { __atomic_store_n((uint8_t *)p, v, __ATOMIC_RELEASE); }
static inline void vu_store_release_16(void *p, uint16_t v) { __atomic_store_n((uint16_t *)p, v, __ATOMIC_RELEASE); }
static inline void vu_store_release_32(void *p, uint32_t v) { __atomic_store_n((uint32_t *)p, v, __ATOMIC_RELEASE); }
static inline void vu_store_release_64(void *p, uint64_t v) { __atomic_store_n((uint64_t *)p, v, __ATOMIC_RELEASE); }
static inline void vu_fetch_or_8(void *p, uint8_t v) { (void)__atomic_fetch_or((uint8_t *)p, v, __ATOMIC_SEQ_CST); }

/* The store->load fence: the only reordering x86 does and the one Python has no word for (V018, V049). */
static inline void vu_full_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static inline void vu_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield" ::: "memory");
#endif
}

/* Ask for a cache line early; the address need not be mapped. */
static inline void vu_prefetch(const void *p) { __builtin_prefetch(p); }
/* The first lines of a run; of longer ones the processor sees by itself that they go on. */
static inline void vu_prefetch_run(const char *p, uint64_t length)
{
    for (uint64_t at = 0; at < length && at < 4096; at += 64)
        __builtin_prefetch(p + at);
}
/* A line that is going to be written, too: it comes in one step, not to be read first and owned later. */
static inline void vu_prefetch_write(const void *p)
{
#if defined(__x86_64__)
    __asm__ __volatile__("prefetchw %0" : : "m"(*(const char *)p));
#else
    __builtin_prefetch(p, 1);
#endif
}

/* Counters shared between threads of this process. */
static inline int64_t vu_counter_add(int64_t *p, int64_t v) { return __atomic_add_fetch(p, v, __ATOMIC_SEQ_CST); }
static inline int64_t vu_counter_get(const int64_t *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
static inline void vu_counter_set(int64_t *p, int64_t v) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }
static inline int64_t vu_counter_exchange(int64_t *p, int64_t v) { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); }

/* Makes every other running thread of this process pass a full fence: the expensive half of an asymmetric
 * fence, so that switching the dirty log on costs the control plane and not every write (C086). */
static inline void vu_fence_all_threads(void)
{
    static int registered = 0;
    if (!registered) {
        syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0);
        registered = 1;
    }
    if (syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) != 0)
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static inline int64_t vu_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* A clock that costs a few nanoseconds, of whatever unit the processor counts in (0.3 to 10 ns): for "not too long", never for times. */
static inline uint64_t vu_ticks(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
    uint64_t t;
    __asm__ __volatile__("mrs %0, cntvct_el0" : "=r"(t));
    return t * 40; /* counts at 24 to 100 MHz as a rule: about nanoseconds and a bit */
#else
    return (uint64_t)vu_now_ns();
#endif
}

/* A lock held only around C code, never around anything that could run Python code or wait for the GIL.
 * A thread that holds the GIL gives it up while the lock is taken, and takes the lock only once it has the GIL back:
 * were it to wait for the GIL with the lock in hand, a completion (which takes the lock with the GIL in hand) and
 * it would wait for each other. */
static inline void vu_lock_init(pthread_mutex_t *m) { pthread_mutex_init(m, NULL); }
static inline void vu_lock_destroy(pthread_mutex_t *m) { pthread_mutex_destroy(m); }
static inline void vu_lock(pthread_mutex_t *m)
{
    while (pthread_mutex_trylock(m) != 0) {
        Py_BEGIN_ALLOW_THREADS
        pthread_mutex_lock(m);
        pthread_mutex_unlock(m);
        Py_END_ALLOW_THREADS
    }
}
static inline void vu_lock_nogil(pthread_mutex_t *m) { pthread_mutex_lock(m); }
static inline void vu_unlock(pthread_mutex_t *m) { pthread_mutex_unlock(m); }

static inline void vu_condition_init(pthread_cond_t *c)
{
    pthread_condattr_t a;
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_cond_init(c, &a);
    pthread_condattr_destroy(&a);
}
static inline void vu_condition_destroy(pthread_cond_t *c) { pthread_cond_destroy(c); }
static inline void vu_condition_broadcast(pthread_cond_t *c) { pthread_cond_broadcast(c); }
/* Waits until signalled or until the monotonic deadline; nonzero when the deadline passed. The GIL must not be held. */
static inline int vu_condition_wait(pthread_cond_t *c, pthread_mutex_t *m, int64_t deadline_ns)
{
    struct timespec t = {.tv_sec = deadline_ns / 1000000000, .tv_nsec = deadline_ns % 1000000000};
    return pthread_cond_timedwait(c, m, &t);
}

/* A number for the calling thread that no other one has at the same time. */
static inline uint64_t vu_this_thread(void)
{
#if defined(__has_builtin) && __has_builtin(__builtin_thread_pointer)
    return (uint64_t)__builtin_thread_pointer();
#else
    return (uint64_t)pthread_self();
#endif
}

/* Only the caller refers to the object: it can be used again as if new. */
static inline int vu_only_reference(PyObject *o, Py_ssize_t ours)
{
#ifdef Py_GIL_DISABLED
    /* Of an object that another thread made the count is two numbers, which may change while they are added. */
    if (!_Py_IsOwnedByCurrentThread(o))
        return 0;
#endif
    return Py_REFCNT(o) == ours;
}

/* An eventfd of our own, made with EFD_NONBLOCK. Those of the other side are in doorbell.h. */
static inline void vu_own_bell_ring(int fd)
{
    uint64_t one = 1;
    while (write(fd, &one, 8) < 0 && errno == EINTR)
        ;
}

/* Takes what is pending on an eventfd of our own, whoever has a copy and changed its flags; 1 when there was something. */
static inline int vu_own_bell_take(int fd)
{
    char buffer[512];
    struct iovec v = {.iov_base = buffer, .iov_len = sizeof buffer};
    ssize_t n;
    do
        n = preadv2(fd, &v, 1, -1, RWF_NOWAIT);
    while (n < 0 && errno == EINTR);
    if (n < 0 && (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL || errno == ESPIPE)) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (poll(&p, 1, 0) <= 0 || !(p.revents & POLLIN))
            return 0;
        n = read(fd, buffer, sizeof buffer);
    }
    return n > 0;
}

#endif
