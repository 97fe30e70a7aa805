"""Doorbells of the other side: which descriptors may be one; ringing and draining them without ever waiting."""

# How each kind is accessed, and why that cannot wait, is in doorbell.h. No other module includes it.

import os
import stat
from errno import ENXIO

import cython
from cython.cimports.posix.fcntl import F_GETFL, fcntl
from cython.cimports.vhost_user.engine.doorbell import (
    EVENTFD,
    FIFO,
    NO_BELL,
    SOCKET,
    vu_bell_prepare,
    vu_bell_ring,
    vu_bell_socket,
    vu_bell_take,
)
from vhost_user.engine.errors import DoorbellError
from vhost_user.engine.memory.file_system import is_local, status


@cython.cfunc
@cython.exceptval(-1, check=False)
def adopt(fd: cython.int, reading: cython.bint) -> cython.int:
    """The kind of a descriptor that the other side handed over as a doorbell. ValueError when it cannot be one [C067].

    Afterwards the same number may stand for another open file, whose flags are ours alone. The descriptor stays the caller's.
    """
    try:
        kind: cython.int = examine(fd, reading)
    except OSError as error:
        raise DoorbellError(f"the file descriptor cannot be examined: {error.strerror}", rule="C067") from error
    if kind == EVENTFD:
        vu_bell_prepare()
    return kind


@cython.cfunc
@cython.exceptval(-1, check=False)
def examine(fd: cython.int, reading: cython.bint) -> cython.int:
    # Not fstat: a file system in user space is asked by that, and may never answer.
    mode = status(fd).mode
    if stat.S_ISFIFO(mode):
        return reopen(fd, reading)
    if stat.S_ISSOCK(mode):
        if vu_bell_socket(fd):
            return SOCKET
    elif os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[eventfd]" and not fcntl(fd, F_GETFL) & os.O_PATH:
        return EVENTFD
    raise DoorbellError("the file descriptor is neither an eventfd nor a pipe nor one end of a Unix socket pair", rule="C067")


@cython.cfunc
@cython.exceptval(-1, check=False)
def reopen(fd: cython.int, reading: cython.bint) -> cython.int:
    """Put an open file of our own in place of the one that is shared with the other side, which may change its flags."""
    flags = fcntl(fd, F_GETFL)
    access = flags & os.O_ACCMODE
    if flags & os.O_PATH or (access != os.O_RDWR and access != (os.O_RDONLY if reading else os.O_WRONLY)):
        raise DoorbellError(
            f"the file descriptor is the {'writing' if reading else 'reading'} end of a pipe, not the other one", rule="C067"
        )
    if not os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:[") and not is_local(fd):
        # Its file system is asked whether it may be opened.
        raise DoorbellError("the pipe has a name on a file system that is not known to be local; use an eventfd", rule="C067")
    try:
        own = os.open(f"/proc/self/fd/{fd}", (os.O_RDONLY if reading else os.O_WRONLY) | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == ENXIO:
            # Nobody reads any more, so there is nobody to tell.
            return NO_BELL
        raise DoorbellError(f"the pipe cannot be opened anew ({error.strerror}); use an eventfd", rule="C067") from error
    try:
        os.dup2(own, fd, inheritable=False)
    finally:
        os.close(own)
    return FIFO


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def ring_bell(fd: cython.int, kind: cython.int) -> cython.int:
    """1 when the other side was told; 0 when it cannot be. Never waits."""
    return 0 if kind == NO_BELL else vu_bell_ring(fd, kind)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def take_bell(fd: cython.int, kind: cython.int) -> cython.int:
    """Take what is pending: 1 when there was something, 2 when there may be more. Never waits."""
    return 0 if kind == NO_BELL else vu_bell_take(fd, kind)
