/* liburing where the build found it; without it the same names say ENOSYS, and the callers use preadv. */
#ifndef VHOST_USER_URING_H
#define VHOST_USER_URING_H

#include <errno.h>
#include <stdint.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifdef VHOST_USER_HAVE_LIBURING
#include <liburing.h>
#define VU_HAVE_URING 1

static int vu_uring_open(struct io_uring *ring, unsigned entries, int event)
{
    int result = io_uring_queue_init(entries, ring, IORING_SETUP_COOP_TASKRUN);
    if (result == -EINVAL)
        result = io_uring_queue_init(entries, ring, 0);
    if (result < 0)
        return result;
    /* The file is not registered, though that saves a reference count a request: the kernel lets go of registered files
     * some time after the process is gone, and until then the image stays locked for the next back-end. The eventfd speaks of every completion, not only of those of
     * the kernel's own workers: a read that waited for a page completes in the submitter's context. */
    result = io_uring_register_eventfd(ring, event);
    if (result < 0)
        io_uring_queue_exit(ring);
    return result;
}

/* The entry of the queue that the request has, NULL if there is no room. */
static struct io_uring_sqe *vu_uring_queue(struct io_uring *ring, int fd, int writing, int aside, const struct iovec *v, unsigned count,
                                           uint64_t offset, void *data)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
    if (!sqe)
        return sqe;
    if (writing)
        io_uring_prep_writev(sqe, fd, v, count, offset);
    else
        io_uring_prep_readv(sqe, fd, v, count, offset);
    if (aside)
        sqe->flags |= IOSQE_ASYNC;
    io_uring_sqe_set_data(sqe, data);
    return sqe;
}

/* Give the kernel what was queued; how many entries it has not taken. It takes them in order, and only in here. */
static unsigned vu_uring_submit(struct io_uring *ring)
{
    int result, turns = 0;
    do
        result = io_uring_submit(ring);
    while ((result == -EINTR || result > 0) && io_uring_sq_ready(ring) > 0 && ++turns < 64);
    return io_uring_sq_ready(ring);
}

/* An entry that the kernel has not taken is to do nothing: it goes with a later submission, if there is one. */
static void vu_uring_take_back(struct io_uring_sqe *sqe)
{
    io_uring_prep_nop(sqe);
    sqe->flags = 0;
    io_uring_sqe_set_data(sqe, NULL);
}

/* 1 and the next completion, or 0. `data` is NULL for an entry that was taken back. */
static int vu_uring_take(struct io_uring *ring, void **data, int *result)
{
    struct io_uring_cqe *cqe = NULL;
    if (io_uring_peek_cqe(ring, &cqe) != 0 || cqe == NULL)
        return 0;
    *data = io_uring_cqe_get_data(cqe);
    *result = cqe->res;
    io_uring_cqe_seen(ring, cqe);
    return 1;
}

static void vu_uring_bell(struct io_uring *ring, int on) { io_uring_cq_eventfd_toggle(ring, on != 0); }

/* Until there is a completion; a millisecond where waiting fails. */
static void vu_uring_wait(struct io_uring *ring)
{
    struct io_uring_cqe *cqe;
    if (io_uring_wait_cqe(ring, &cqe) < 0)
        usleep(1000);
}

static void vu_uring_ring(int event)
{
    uint64_t one = 1;
    ssize_t written = write(event, &one, sizeof(one)); /* not blocking; full is as loud */
    (void)written;
}
#else
#define VU_HAVE_URING 0
struct io_uring {
    int unused;
};
struct io_uring_sqe;
static int vu_uring_open(struct io_uring *r, unsigned e, int v) { (void)r; (void)e; (void)v; return -ENOSYS; }
static struct io_uring_sqe *vu_uring_queue(struct io_uring *r, int f, int w, int a, const struct iovec *v, unsigned c, uint64_t o, void *d) { (void)r; (void)f; (void)w; (void)a; (void)v; (void)c; (void)o; (void)d; return NULL; }
static unsigned vu_uring_submit(struct io_uring *r) { (void)r; return 0; }
static unsigned io_uring_sq_ready(const struct io_uring *r) { (void)r; return 0; }
static void vu_uring_take_back(struct io_uring_sqe *s) { (void)s; }
static void vu_uring_ring(int e) { (void)e; }
static int vu_uring_take(struct io_uring *r, void **d, int *s) { (void)r; (void)d; (void)s; return 0; }
static void vu_uring_bell(struct io_uring *r, int on) { (void)r; (void)on; }
static void vu_uring_wait(struct io_uring *r) { (void)r; }
static void io_uring_queue_exit(struct io_uring *r) { (void)r; }
#endif

/* A file in memory has nothing to wait for: direct calls are faster than any queue. */
static int vu_in_memory(int fd)
{
    struct statfs s;
    return fstatfs(fd, &s) == 0 && (s.f_type == 0x01021994 /* tmpfs, memfd */ || s.f_type == (__typeof__(s.f_type))0x858458f6 /* ramfs */);
}

#endif
