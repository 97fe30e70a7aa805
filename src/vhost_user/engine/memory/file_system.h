/* What a descriptor of the other side is, without asking anybody: an open file in user space (FUSE) or over a network may
 * have a server that never answers, and then fstat, fstatfs and close wait for ever, in the kernel, where not even SIGKILL
 * ends the wait (C036, H85).
 */
#ifndef VHOST_USER_FILE_SYSTEM_H
#define VHOST_USER_FILE_SYSTEM_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef F_GET_SEALS
#define F_GET_SEALS 1034
#endif
#ifndef STATX_MNT_ID
#define STATX_MNT_ID 0x1000U
#endif

struct vu_status {
    uint32_t mode;
    uint32_t block_size;
    uint64_t device;
    uint64_t inode;
    uint64_t size;
};

/* What the kernel knows of an open file by itself. 0, or -1 and errno. */
static int vu_status(int fd, struct vu_status *s)
{
    struct statx x;
    if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_BASIC_STATS, &x) != 0)
        return -1;
    s->mode = x.stx_mode;
    s->block_size = x.stx_blksize;
    s->device = makedev(x.stx_dev_major, x.stx_dev_minor);
    s->inode = x.stx_ino;
    s->size = x.stx_size;
    return 0;
}

/* memfd, tmpfs, hugetlbfs: only they have seals, and asking for them asks nobody else. */
static int vu_has_seals(int fd)
{
    return fcntl(fd, F_GET_SEALS) >= 0;
}

/* Close a descriptor in a process that shares our table of descriptors and may wait there for ever. 0, or -1 and errno.
 *
 * A thread would not do: a process does not end before all of its threads have. Two steps, so that the process is not our
 * child but init's, and leaves no zombie. Between clone and _exit it makes system calls only, as behooves the child of a
 * process with threads. It has a copy of our memory maps, which costs next to nothing, and is told apart by no signal.
 */
static int vu_close_elsewhere(int fd)
{
    long first = syscall(SYS_clone, (unsigned long)CLONE_FILES, 0UL, 0UL, 0UL, 0UL);
    if (first < 0)
        return -1;
    if (first == 0) {
        long second = syscall(SYS_clone, (unsigned long)CLONE_FILES, 0UL, 0UL, 0UL, 0UL);
        if (second == 0)
            syscall(SYS_close, fd);
        syscall(SYS_exit_group, second < 0 ? 1 : 0);
    }
    int status = 0;
    pid_t ended;
    do
        ended = waitpid((pid_t)first, &status, __WCLONE);
    while (ended < 0 && errno == EINTR);
    if (ended > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    errno = EAGAIN;
    return -1;
}

#endif
