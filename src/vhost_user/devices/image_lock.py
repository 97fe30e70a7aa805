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

from vhost_user.spec.errors import VhostUserError

# Permissions of QEMU's block layer that a disk device takes: a reader wants consistent reads, a writer also
# writes and resizes. A holder read-locks byte USED + n for each one it uses and byte DENIED + n for each
# one it denies to others.
_USED = 100
_DENIED = 200
_CONSISTENT_READ, _WRITE, _RESIZE = 0, 1, 3
_FLOCK = struct.Struct("hhqqi4x")  # struct flock of 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid


class ImageInUseError(VhostUserError, OSError):
    """Another program holds the image in a way that does not go together with what was asked."""


def _read_lock(fd: int, byte: int) -> None:
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, byte, 1, 0))


def _held_by_others(fd: int, byte: int) -> bool:
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def lock_image(fd: int, path: str, *, read_only: bool) -> None:
    """Lock the image open at ``fd`` until that descriptor is closed.

    Raises ImageInUseError, which says how to find the other program. File systems that know no locks (some
    network ones) are let through: there the lock is the administrator's business.
    """
    if sys.maxsize < 1 << 32:  # struct flock differs there; a wrong lock is worse than none
        return
    used = (_CONSISTENT_READ,) if read_only else (_CONSISTENT_READ, _WRITE, _RESIZE)
    denied = (_WRITE, _RESIZE)
    try:
        # Lock first, look second: of two programs that start at the same moment at least one sees the other.
        for permission in used:
            _read_lock(fd, _USED + permission)
        for permission in denied:
            _read_lock(fd, _DENIED + permission)
        taken = any(_held_by_others(fd, _DENIED + permission) for permission in used) or any(
            _held_by_others(fd, _USED + permission) for permission in denied
        )
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            return
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        taken = True
    if taken:
        purpose = "reading" if read_only else "writing"
        raise ImageInUseError(
            errno.EBUSY,
            f"{path}: another program has this image open, so it cannot be opened for {purpose}; "
            f"end it first (find it with `lslocks` or `fuser -v {path}`), "
            "or open the image read-only on both sides",
        )
