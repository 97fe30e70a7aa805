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

#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>

#define VU_GUARDED_REGIONS 16384

struct vu_guarded {
    uintptr_t base; /* 0: free slot */
    uintptr_t length;
    int *lost;
};

static struct vu_guarded vu_guarded[VU_GUARDED_REGIONS];
static int vu_guarded_high; /* slots ever used, so that the handler's walk is short */
static pthread_mutex_t vu_guard_lock = PTHREAD_MUTEX_INITIALIZER;
static struct sigaction vu_sigbus_before;

static void vu_sigbus(int number, siginfo_t *info, void *context)
{
    (void)context;
    if (info->si_code > 0) {
        uintptr_t address = (uintptr_t)info->si_addr;
        int high = __atomic_load_n(&vu_guarded_high, __ATOMIC_ACQUIRE);
        for (int i = 0; i < high; i++) {
            uintptr_t base = __atomic_load_n(&vu_guarded[i].base, __ATOMIC_ACQUIRE);
            if (base == 0 || address < base || address - base >= vu_guarded[i].length)
                continue;
            /* Two threads may come here for one region: the second mapping replaces zeros by zeros. */
            if (mmap((void *)base, vu_guarded[i].length, PROT_READ | PROT_WRITE,
                     MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) == MAP_FAILED)
                break;
            __atomic_store_n(vu_guarded[i].lost, 1, __ATOMIC_SEQ_CST);
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
            vu_guarded[i].length = length;
            vu_guarded[i].lost = lost;
            __atomic_store_n(&vu_guarded[i].base, (uintptr_t)base, __ATOMIC_RELEASE);
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
    __atomic_store_n(&vu_guarded[slot].base, 0, __ATOMIC_RELEASE);
    while (vu_guarded_high > 0 && vu_guarded[vu_guarded_high - 1].base == 0)
        vu_guarded_high--;
    pthread_mutex_unlock(&vu_guard_lock);
}

#endif
