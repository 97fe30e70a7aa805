/* Doorbells that belong to the other side: kick, call, err and log descriptors (C067).
 *
 * The flags of an open file are shared with everybody who has a copy of it. O_NONBLOCK may be cleared at any moment, so
 * no access here relies on it (C068, H87):
 * - An eventfd is signalled by an asynchronous read of no bytes whose completion signals it (IOCB_FLAG_RESFD): the kernel
 *   adds to the counter as KVM does and never waits, not even at a full counter. It is drained with RWF_NOWAIT.
 * - A FIFO is opened anew when it is adopted: the new open file has flags of its own, which nobody shares.
 * - A socket gets its flag with each call: MSG_DONTWAIT.
 *
 * Included by one module only: the context is process-wide state.
 */
#ifndef VHOST_USER_DOORBELL_H
#define VHOST_USER_DOORBELL_H

#include <errno.h>
#include <linux/aio_abi.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { VU_BELL_NONE, VU_BELL_EVENTFD, VU_BELL_FIFO, VU_BELL_SOCKET };

#define VU_BELL_EVENTS 128 /* completions that fit in the context; they are thrown away by the half */
#define VU_BELL_READS 8    /* of 512 bytes, at one kick: a peer that writes without end holds nobody up */

static aio_context_t vu_bell_context; /* 0: none, the kernel has no AIO or no room for us */
static uint32_t vu_bell_count;

static void vu_bell_child(void)
{
    vu_bell_context = 0; /* a context belongs to the address space that made it */
}

/* Called when a doorbell is adopted. Makes no context where there is one. */
static void vu_bell_prepare(void)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static int watched = 0;
    pthread_mutex_lock(&lock);
    if (!watched && pthread_atfork(NULL, NULL, vu_bell_child) == 0)
        watched = 1;
    if (__atomic_load_n(&vu_bell_context, __ATOMIC_ACQUIRE) == 0) {
        aio_context_t fresh = 0;
        if (syscall(SYS_io_setup, VU_BELL_EVENTS, &fresh) == 0)
            __atomic_store_n(&vu_bell_context, fresh, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&lock);
}

/* A Unix socket that does not listen. (Others take locks that a peer can hold while it waits for a page.) */
static int vu_bell_socket(int fd)
{
    int domain = 0, listens = 1;
    socklen_t size = sizeof domain;
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) < 0)
        return 0;
    size = sizeof listens;
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) < 0)
        return 0;
    return domain == AF_UNIX && !listens;
}

static void vu_bell_reap(aio_context_t context)
{
    struct io_event events[VU_BELL_EVENTS];
    struct timespec now = {0, 0};
    syscall(SYS_io_getevents, context, 0L, (long)VU_BELL_EVENTS, events, &now);
}

static int vu_bell_signal(int fd)
{
    aio_context_t context = __atomic_load_n(&vu_bell_context, __ATOMIC_ACQUIRE);
    for (int attempt = 0; context != 0 && attempt < 3; attempt++) {
        struct iocb request = {.aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = (uint32_t)fd,
                               .aio_flags = IOCB_FLAG_RESFD, .aio_resfd = (uint32_t)fd};
        struct iocb *list = &request;
        if (syscall(SYS_io_submit, context, 1L, &list) == 1) {
            if (__atomic_add_fetch(&vu_bell_count, 1, __ATOMIC_RELAXED) % (VU_BELL_EVENTS / 2) == 0)
                vu_bell_reap(context);
            return 1;
        }
        if (errno != EAGAIN)
            break; /* EINVAL: before Linux 5.8 an eventfd had no such read */
        vu_bell_reap(context);
    }
    /* Without AIO: a full one is asked first. A peer that fills it between the two can hold us up. */
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    uint64_t one = 1;
    if (poll(&p, 1, 0) <= 0 || !(p.revents & POLLOUT))
        return 0;
    return write(fd, &one, 8) == 8;
}

/* 1 when the other side was told, or is to be told by what is pending there already. */
static int vu_bell_ring(int fd, int kind)
{
    static const uint64_t one = 1;
    ssize_t n;
    if (kind == VU_BELL_EVENTFD)
        return vu_bell_signal(fd);
    do
        n = kind == VU_BELL_SOCKET ? send(fd, &one, 8, MSG_DONTWAIT | MSG_NOSIGNAL) : write(fd, &one, 8);
    while (n < 0 && errno == EINTR);
    return n > 0;
}

/* Takes what is pending without ever waiting: 1 when there was something, 2 when there may be more. */
static int vu_bell_take(int fd, int kind)
{
    char buffer[512];
    struct iovec v = {.iov_base = buffer, .iov_len = sizeof buffer};
    int found = 0;
    for (int reads = 0; reads < VU_BELL_READS; reads++) {
        ssize_t n;
        if (kind == VU_BELL_SOCKET)
            n = recv(fd, buffer, sizeof buffer, MSG_DONTWAIT);
        else if (kind == VU_BELL_FIFO)
            n = read(fd, buffer, sizeof buffer);
        else
            n = preadv2(fd, &v, 1, -1, RWF_NOWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return found;
        found = 1;
        if (kind == VU_BELL_EVENTFD)
            return 1; /* one read takes all, but for a semaphore, which may hold more than anybody can take */
    }
    return found ? 2 : 0;
}

#endif
