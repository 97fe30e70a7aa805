"""Open files of the other side: what they are and how they are closed without waiting for a server (types: file_system.pyi)."""

import os
import stat
import threading
from collections import namedtuple

import cython
from cython.cimports.libc.errno import errno
from cython.cimports.vhost_user.engine.memory.file_system import FileFacts, vu_close_elsewhere, vu_has_seals, vu_status

# An access to a page of these is answered by the kernel alone, or by a disk of this machine. Everything else is not known to be.
LOCAL = frozenset(
    "tmpfs devtmpfs ramfs hugetlbfs ext2 ext3 ext4 xfs btrfs overlay f2fs zfs bcachefs jfs reiserfs msdos vfat exfat ntfs3".split()
)

FileStatus = namedtuple("FileStatus", "mode device inode size block_size")


def status(fd: cython.int):
    """What the kernel knows of an open file by itself, as ``os.fstat`` but without asking its file system."""
    facts: FileFacts
    if vu_status(fd, cython.address(facts)) < 0:
        number = errno
        raise OSError(number, os.strerror(number))
    return FileStatus(facts.mode, facts.device, facts.inode, facts.size, facts.block_size)


def type_of(fd: cython.int):
    """The type of the file system that an open file lies on, such as ``"ext4"``, without asking it.

    None: it is not one of those that this process can see, but one of another mount namespace.
    """
    if vu_has_seals(fd):
        return "tmpfs"
    mount = None
    with open(f"/proc/self/fdinfo/{fd}") as lines:
        for line in lines:
            if line.startswith("mnt_id:"):
                mount = line.split()[1]
    device = status(fd).device
    number = f"{os.major(device)}:{os.minor(device)}"
    found = None
    with open("/proc/self/mountinfo", errors="replace") as lines:
        for line in lines:
            fields, _, kind = line.partition(" - ")
            fields = fields.split()
            if fields[0] == mount:
                return kind.split()[0]
            if fields[2] == number:
                found = kind.split()[0]
    return found


def is_local(fd: cython.int):
    """Whether nobody but the kernel and disks of this machine answers an access to this file. Never waits.

    Of another mount namespace's file systems those on a disk are: only an administrator can mount a disk in user space.
    """
    kind = type_of(fd)
    return os.major(status(fd).device) != 0 if kind is None else kind in LOCAL


def page_size(fd: cython.int):
    """Bytes of a page of memory that is a file: those of this machine, or of hugetlbfs.

    The block size of a status is not it: tmpfs tells that of a huge page where it may use some. Nor is it asked of files
    without seals, which are none of hugetlbfs, and whose file system might never answer.
    """
    return os.fstatvfs(fd).f_bsize if vu_has_seals(fd) else os.sysconf("SC_PAGESIZE")


def close_foreign(fd: cython.int):
    """Close a descriptor that the other side sent; never waits for its file system or device.

    A close tells both, and waits for the answer. Where one may not come, another process waits instead.
    """
    failed: cython.int
    if may_wait(fd):
        with cython.nogil:
            failed = vu_close_elsewhere(fd)
        if failed:
            # No process could be made: then a thread, although the program cannot end before that has.
            threading.Thread(target=os.close, args=(fd,), name="close", daemon=True).start()
        return
    os.close(fd)


@cython.cfunc
def may_wait(fd: cython.int) -> cython.bint:
    try:
        kind = stat.S_IFMT(status(fd).mode)
        # Sockets, pipes and anonymous files (eventfds) have nobody to ask.
        return kind in (stat.S_IFCHR, stat.S_IFBLK) or (kind == stat.S_IFREG and not is_local(fd))
    except OSError:
        # Closed already, which os.close reports; or not to be examined.
        return False
