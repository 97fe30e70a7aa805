/* Where a file lies. A page of a file on a network or user-space file system comes from somebody who may never send it: the
 * access to it then waits for ever, in the kernel, and no signal ends that (C036, H85). So what is known to be local is
 * allowed and everything else is not.
 */
#ifndef VHOST_USER_FILE_SYSTEM_H
#define VHOST_USER_FILE_SYSTEM_H

#include <stdint.h>
#include <sys/vfs.h>

/* Magic numbers of linux/magic.h and of the file systems' own sources. */
static const uint32_t vu_local_file_systems[] = {
    0x01021994, /* tmpfs, memfd, devtmpfs */
    0x858458f6, /* ramfs */
    0x958458f6, /* hugetlbfs */
    0x5345434d, /* memfd_secret */
    0x474d454d, /* guest_memfd */
    0x0000ef53, /* ext2, ext3, ext4 */
    0x58465342, /* xfs */
    0x9123683e, /* btrfs */
    0x794c7630, /* overlayfs */
    0xf2f52010, /* f2fs */
    0x2fc12fc1, /* zfs */
    0xca451a4e, /* bcachefs */
    0x3153464a, /* jfs */
    0x52654973, /* reiserfs */
    0x00004d44, /* fat */
    0x2011bab0, /* exfat */
    0x7366746e, /* ntfs3 */
};

/* 1: local; 0: `*type` is not known to be; -1: errno. */
static int vu_is_local(int fd, uint32_t *type)
{
    struct statfs s;
    if (fstatfs(fd, &s) != 0)
        return -1;
    *type = (uint32_t)s.f_type;
    for (unsigned i = 0; i < sizeof vu_local_file_systems / sizeof *vu_local_file_systems; i++)
        if (vu_local_file_systems[i] == *type)
            return 1;
    return 0;
}

#endif
