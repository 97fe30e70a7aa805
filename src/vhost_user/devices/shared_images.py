"""Images that another host may write too: what this host's page cache needs when the disk changes hands."""

from __future__ import annotations

import os
import stat
from pathlib import Path

# File systems whose pages only this host has: what another program of it wrote is what we read.
_LOCAL = frozenset(
    {"bcachefs", "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "jfs", "ntfs3", "overlay", "ramfs"}
    | {"reiserfs", "rootfs", "tmpfs", "vfat", "xfs", "zfs"}
)


def seen_by_other_hosts(fd: int) -> bool:
    """Whether another host may write the file or block device: unless it is known to be local, it may."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        return True
    device = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2] == device:
            return after.split()[0] not in _LOCAL
    # btrfs gives its files other devices than its mount has. To be careful costs time and loses nothing.
    return True


def forget_cached(fd: int) -> None:
    """Drop the clean pages of the file, so that the next reads see what another host wrote."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
