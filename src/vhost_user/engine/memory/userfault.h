/* Pages of guest memory that have not come yet (C118 to C121): our own watch over them, and the question for them.
 *
 * Nobody but this process has the userfaultfd that is made here. The one that a front-end gets belongs to the pager, another
 * process: whoever has a userfaultfd can stop every thread of the process that made it, and choose what its new pages contain.
 */
#ifndef VHOST_USER_USERFAULT_H
#define VHOST_USER_USERFAULT_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#ifndef UFFD_FEATURE_SIGBUS
#define UFFD_FEATURE_SIGBUS (1 << 7)
#endif

/* A userfaultfd with which an access to a missing page is a SIGBUS, and waits for nobody. Or -1 and errno: EPERM where it is
 * forbidden, ENOSYS and EOPNOTSUPP where the kernel has none that can watch shared memory. */
static int vu_userfaultfd(void)
{
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_SIGBUS};
    int number;
    /* Faults of user mode only need no rights (Linux 5.11). A system call that comes upon a missing page fails either way. */
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
    if (fd < 0 && errno == EINVAL)
        fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return -1;
    if (ioctl(fd, UFFDIO_API, &api) == 0 && api.features & UFFD_FEATURE_MISSING_SHMEM)
        return fd;
    number = errno == EINVAL || errno == 0 ? EOPNOTSUPP : errno;
    close(fd);
    errno = number;
    return -1;
}

/* 0, or -1 and errno. */
static int vu_watch(int fd, void *base, size_t length)
{
    struct uffdio_register range = {.range = {.start = (uintptr_t)base, .len = length}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    /* A huge page would be made of what is there and zeros in place of what is not. */
    madvise(base, length, MADV_NOHUGEPAGE);
    return ioctl(fd, UFFDIO_REGISTER, &range);
}

static void vu_unwatch(int fd, void *base, size_t length)
{
    struct uffdio_range range = {.start = (uintptr_t)base, .len = length};
    ioctl(fd, UFFDIO_UNREGISTER, &range);
}

struct vu_question {
    uint64_t region;
    uint64_t offset;
    uint64_t length;
};

/* Have the pager touch these pages of one of its regions. Nonzero: they are here. Waits for that, or until the socket is shut
 * down; the caller sees to it that one thread asks at a time. */
static int vu_ask(int channel, uint64_t region, uint64_t offset, uint64_t length)
{
    struct vu_question question = {region, offset, length};
    unsigned char answer = 0;
    ssize_t count;
    do
        count = send(channel, &question, sizeof question, MSG_NOSIGNAL);
    while (count < 0 && errno == EINTR);
    if (count != (ssize_t)sizeof question)
        return 0;
    do
        count = recv(channel, &answer, 1, 0);
    while (count < 0 && errno == EINTR);
    return count == 1 && answer == 1;
}

#endif
