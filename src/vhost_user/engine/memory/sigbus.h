/* Pages of guest memory can vanish: the front-end owns the file and may truncate it, and the next access of any
 * thread is a SIGBUS (C039, H85). This handler recognises faults inside registered regions, puts zero pages in
 * place of the whole region and marks it lost; the access is then repeated and reads zeros. The session looks at
 * the mark and ends. Unlike a jump out of the faulting copy this also saves code that is not ours: memoryviews,
 * numpy arrays over guest memory. A fault anywhere else goes to whatever handler was installed before
 * (faulthandler), by restoring it and letting the access fault again.
 *
 * Included by one module only: the registry is process-wide state.
 */
#ifndef VHOST_USER_SIGBUS_H
#define VHOST_USER_SIGBUS_H

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>

#define VU_GUARDED_REGIONS 16384

struct vu_guarded {
    uint32_t sequence; /* odd while the rest changes: the handler must not take the base of one region and the length of another */
    uintptr_t base;    /* 0: free slot */
    uintptr_t length;
    int *lost;
};

static struct vu_guarded vu_guarded[VU_GUARDED_REGIONS];
static int vu_guarded_high; /* slots ever used, so that the handler's walk is short */
static pthread_mutex_t vu_guard_lock = PTHREAD_MUTEX_INITIALIZER;
static struct sigaction vu_sigbus_before;

/* One slot, whole. 0: it is free, or changes just now; the region of a fault does neither, because who faults in it holds it. */
static int vu_guarded_read(int slot, struct vu_guarded *copy)
{
    const struct vu_guarded *g = vu_guarded + slot;
    copy->sequence = __atomic_load_n(&g->sequence, __ATOMIC_ACQUIRE);
    copy->base = __atomic_load_n(&g->base, __ATOMIC_RELAXED);
    copy->length = __atomic_load_n(&g->length, __ATOMIC_RELAXED);
    copy->lost = __atomic_load_n(&g->lost, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    return !(copy->sequence & 1) && copy->base != 0 && __atomic_load_n(&g->sequence, __ATOMIC_RELAXED) == copy->sequence;
}

/* With vu_guard_lock. */
static void vu_guarded_write(int slot, uintptr_t base, uintptr_t length, int *lost)
{
    struct vu_guarded *g = vu_guarded + slot;
    uint32_t sequence = g->sequence;
    __atomic_store_n(&g->sequence, sequence + 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    __atomic_store_n(&g->base, base, __ATOMIC_RELAXED);
    __atomic_store_n(&g->length, length, __ATOMIC_RELAXED);
    __atomic_store_n(&g->lost, lost, __ATOMIC_RELAXED);
    __atomic_store_n(&g->sequence, sequence + 2, __ATOMIC_RELEASE);
}

static void vu_sigbus(int number, siginfo_t *info, void *context)
{
    (void)context;
    /* A damaged page somewhere, nobody's access: the access, if it comes, is a signal of its own. */
    if (info->si_code == BUS_MCEERR_AO)
        return;
    if (info->si_code == BUS_ADRERR || info->si_code == BUS_MCEERR_AR) {
        uintptr_t address = (uintptr_t)info->si_addr;
        int high = __atomic_load_n(&vu_guarded_high, __ATOMIC_ACQUIRE);
        for (int i = 0; i < high; i++) {
            struct vu_guarded region;
            if (!vu_guarded_read(i, &region) || address < region.base || address - region.base >= region.length)
                continue;
            /* Two threads may come here for one region: the second mapping replaces zeros by zeros. */
            int number_before = errno;
            if (mmap((void *)region.base, region.length, PROT_READ | PROT_WRITE,
                     MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) == MAP_FAILED)
                break;
            errno = number_before;
            __atomic_store_n(region.lost, 1, __ATOMIC_SEQ_CST);
            return;
        }
    }
    /* faulthandler, enabled after us, prints its report, puts us back and raises the signal again; then the access is
     * repeated and comes here with its address. Only then is it known whose it is. */
    if (info->si_code == SI_TKILL && info->si_pid == getpid())
        return;
    /* Not ours. Back to the handler before us; if that is ourselves again (somebody chained to us), to the default. */
    if (vu_sigbus_before.sa_flags & SA_SIGINFO && vu_sigbus_before.sa_sigaction == vu_sigbus)
        signal(number, SIG_DFL);
    else
        sigaction(number, &vu_sigbus_before, NULL);
    vu_sigbus_before.sa_flags = 0;
    vu_sigbus_before.sa_handler = SIG_DFL;
    if (info->si_code <= 0)
        raise(number); /* sent by somebody, would not come again by itself */
}

/* Called for each region: another library may have put its handler over ours meanwhile. */
static int vu_guard(void *base, size_t length, int *lost)
{
    struct sigaction now, ours;
    int slot = -1;
    pthread_mutex_lock(&vu_guard_lock);
    if (sigaction(SIGBUS, NULL, &now) == 0 && !((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == vu_sigbus)) {
        vu_sigbus_before = now;
        memset(&ours, 0, sizeof ours);
        ours.sa_sigaction = vu_sigbus;
        ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
        sigemptyset(&ours.sa_mask);
        sigaction(SIGBUS, &ours, NULL);
    }
    for (int i = 0; i < VU_GUARDED_REGIONS; i++) {
        if (vu_guarded[i].base == 0) {
            vu_guarded_write(i, (uintptr_t)base, length, lost);
            if (i >= vu_guarded_high)
                __atomic_store_n(&vu_guarded_high, i + 1, __ATOMIC_RELEASE);
            slot = i;
            break;
        }
    }
    pthread_mutex_unlock(&vu_guard_lock);
    return slot;
}

static void vu_unguard(int slot)
{
    pthread_mutex_lock(&vu_guard_lock);
    vu_guarded_write(slot, 0, 0, NULL);
    while (vu_guarded_high > 0 && vu_guarded[vu_guarded_high - 1].base == 0)
        vu_guarded_high--;
    pthread_mutex_unlock(&vu_guard_lock);
}

#endif
