"""Locks on a disk image, so that two programs do not write the same one.

They are open-file-description locks on the byte ranges that QEMU's raw driver uses, so QEMU, qemu-img,
qemu-storage-daemon and our own back-ends keep out of each other's way. Two readers share an image; a writer
is alone.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
from contextlib import suppress

from vhost_user.spec.errors import VhostUserError

# Permissions of QEMU's block layer that a disk device takes: a reader wants consistent reads, a writer also
# writes and resizes. A holder read-locks byte USED + n for each one it uses and byte DENIED + n for each
# one it denies to others.
_USED = 100
_DENIED = 200
_END = 300
_CONSISTENT_READ, _WRITE, _RESIZE = 0, 1, 3
_DENIES = (_WRITE, _RESIZE)
_FLOCK = struct.Struct("hhqqi4x")  # struct flock of 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid
# struct flock differs elsewhere; a wrong lock is worse than none.
_HAS_LOCKS = sys.maxsize >= 1 << 32
# What a file system without locks says (some network ones): there they are the administrator's business.
_NO_LOCKS = (errno.EINVAL, errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


class ImageInUseError(VhostUserError, OSError):
    """Another program holds the image in a way that does not go together with what was asked."""


def _lock(fd: int, kind: int, first: int, length: int = 1) -> None:
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, first, length, 0))


def _held_by_others(fd: int, byte: int) -> bool:
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def _used(*, read_only: bool) -> tuple[int, ...]:
    return (_CONSISTENT_READ,) if read_only else (_CONSISTENT_READ, _WRITE, _RESIZE)


def _in_the_way(fd: int, *, read_only: bool) -> bool:
    """Whether somebody denies what we use, or uses what we deny."""
    return any(_held_by_others(fd, _DENIED + permission) for permission in _used(read_only=read_only)) or any(
        _held_by_others(fd, _USED + permission) for permission in _DENIES
    )


def image_in_use(fd: int, *, read_only: bool) -> bool:
    """Whether ``lock_image`` would fail now; nothing is locked by asking."""
    if not _HAS_LOCKS:
        return False
    try:
        return _in_the_way(fd, read_only=read_only)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise


def lock_image(fd: int, path: str, *, read_only: bool) -> None:
    """Lock the image open at ``fd`` until ``unlock_image``, or until that descriptor is closed.

    Raises ImageInUseError, with nothing locked, which says how to find the other program. File systems that
    know no locks are let through.
    """
    if not _HAS_LOCKS:
        return
    try:
        # Lock first, look second: of two programs that start at the same moment at least one sees the other.
        for permission in _used(read_only=read_only):
            _lock(fd, fcntl.F_RDLCK, _USED + permission)
        for permission in _DENIES:
            _lock(fd, fcntl.F_RDLCK, _DENIED + permission)
        taken = _in_the_way(fd, read_only=read_only)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return
        unlock_image(fd)
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        taken = True
    if taken:
        unlock_image(fd)
        raise ImageInUseError(errno.EBUSY, in_use(path, read_only=read_only))


def unlock_image(fd: int) -> None:
    """Give the lock up; twice does no harm."""
    if _HAS_LOCKS:
        with suppress(OSError):  # a file system without locks has none to give up
            _lock(fd, fcntl.F_UNLCK, _USED, _END - _USED)


def in_use(path: str, *, read_only: bool) -> str:
    """What is wrong with an image that somebody else has locked, and what to do, in words."""
    purpose = "reading" if read_only else "writing"
    return (
        f"{path}: another program has this image open, so it cannot be opened for {purpose}; "
        f"end it first (find it with `lslocks` or `fuser -v {path}`), "
        "or open the image read-only on both sides"
    )
