/* Takes a picture of watched memory after every single store to it, in program order, from inside of the process that stores.
 *
 * The pages are made read-only. A store faults; the handler opens them, has the processor stop after one instruction, and
 * returns. The second handler takes the picture and closes them again. What was compiled runs as it is: nothing of it knows.
 * x86-64 only: elsewhere a process cannot have itself stopped after an instruction. One thread. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#define RANGES 8
#define TRAP_FLAG 0x100

static struct { char *base; size_t length; } pages[RANGES], parts[RANGES];
static int page_count, part_count;
static char *log_at, *log_end;
static long pictures, lost;
static struct sigaction segv_before, trap_before;

static void protect(int protection)
{
    for (int i = 0; i < page_count; i++)
        mprotect(pages[i].base, pages[i].length, protection);
}

static void picture(void)
{
    char *at = log_at;
    for (int i = 0; i < part_count; i++) {
        if ((size_t)(log_end - at) < parts[i].length) {
            lost++;
            return;
        }
        memcpy(at, parts[i].base, parts[i].length);
        at += parts[i].length;
    }
    log_at = at;
    pictures++;
}

static void on_segv(int number, siginfo_t *info, void *context)
{
    char *address = info->si_addr;
    for (int i = 0; i < page_count; i++) {
        if (address < pages[i].base || address >= pages[i].base + pages[i].length)
            continue;
        protect(PROT_READ | PROT_WRITE);
        ((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL] |= TRAP_FLAG;
        return;
    }
    sigaction(number, &segv_before, NULL); /* not ours: it comes again, to whom it belongs */
}

static void on_trap(int number, siginfo_t *info, void *context)
{
    (void)number, (void)info;
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL] &= ~(greg_t)TRAP_FLAG;
    picture();
    protect(PROT_READ);
}

/* `watched`: pairs of page-aligned address and length; `wanted`: what a picture is made of. */
void recorder_start(const uint64_t *watched, int watched_count, const uint64_t *wanted, int wanted_count, char *log, size_t size)
{
    struct sigaction action;
    page_count = watched_count;
    part_count = wanted_count;
    for (int i = 0; i < watched_count; i++) {
        pages[i].base = (char *)watched[2 * i];
        pages[i].length = watched[2 * i + 1];
    }
    for (int i = 0; i < wanted_count; i++) {
        parts[i].base = (char *)wanted[2 * i];
        parts[i].length = wanted[2 * i + 1];
    }
    log_at = log;
    log_end = log + size;
    pictures = lost = 0;
    memset(&action, 0, sizeof action);
    action.sa_flags = SA_SIGINFO;
    action.sa_sigaction = on_segv;
    sigaction(SIGSEGV, &action, &segv_before);
    action.sa_sigaction = on_trap;
    sigaction(SIGTRAP, &action, &trap_before);
    protect(PROT_READ);
}

/* How many pictures there are, -1 when the log was too small. */
long recorder_stop(void)
{
    protect(PROT_READ | PROT_WRITE);
    sigaction(SIGSEGV, &segv_before, NULL);
    sigaction(SIGTRAP, &trap_before, NULL);
    return lost ? -1 : pictures;
}
