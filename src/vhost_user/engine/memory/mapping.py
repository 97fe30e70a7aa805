"""Files of a front-end mapped into this process, guarded against being truncated (types: mapping.pyi)."""

import os
import stat

import cython
from cython.cimports.libc.errno import errno
from cython.cimports.libc.stdint import int64_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.vhost_user.engine.barriers import counter_add, counter_get
from cython.cimports.vhost_user.engine.memory.mapping import (
    MAP_FAILED,
    MAP_NORESERVE,
    MAP_SHARED,
    PROT_READ,
    PROT_WRITE,
    Mapping,
    guard,
    is_local,
    mmap,
    munmap,
    unguard,
)

from vhost_user.engine.errors import MemoryTableError

REMOTE = {
    0x65735546: "in user space (FUSE)", 0x6969: "over a network (NFS)", 0xFF534D42: "over a network (CIFS)", 0xFE534D42: "over a network (SMB)",
    0x517B: "over a network (SMB)", 0x01021997: "over a network (9p)", 0x5346414F: "over a network (AFS)", 0x6B414653: "over a network (AFS)",
    0x00C36400: "over a network (Ceph)", 0x0BD00BD0: "over a network (Lustre)",
}  # fmt: skip

_mappings = cython.declare(int64_t, 0)


def live_mappings():
    """Number of mappings the engine holds in this process, for leak checks."""
    return counter_get(cython.address(_mappings))


@cython.cfunc
def map_file(fd: cython.int, size: uint64_t, offset: uint64_t, what: str, allow_remote: cython.bint) -> cython.pointer[Mapping]:
    if size == 0:
        raise MemoryTableError(f"{what}: its size is 0", rule="C038")
    if int(size) + int(offset) >= (1 << 63):
        raise MemoryTableError(f"{what}: file offset {offset:#x} + size {size:#x} is out of range", rule="C038")
    try:
        status = os.fstat(fd)
    except OSError as error:
        raise MemoryTableError(f"{what}: its file descriptor cannot be examined: {error.strerror}", rule="C036") from error
    if stat.S_ISREG(status.st_mode) and status.st_size < size + offset:
        raise MemoryTableError(f"{what}: needs {size + offset} bytes of its file, which has {status.st_size}", rule="C039")
    if stat.S_ISREG(status.st_mode) and not allow_remote:
        must_be_local(fd, what)
    # st_blksize is the huge page size on hugetlbfs, where offset and length must be multiples of it (C036).
    page = os.sysconf("SC_PAGESIZE")
    if status.st_blksize > page and status.st_blksize & (status.st_blksize - 1) == 0 and status.st_blksize <= 1 << 30:
        page = status.st_blksize
    start: uint64_t = offset - offset % page
    length: uint64_t = (offset - start + size + page - 1) // page * page
    mapping: cython.pointer[Mapping] = cython.cast(cython.pointer[Mapping], calloc(1, cython.sizeof(Mapping)))
    if mapping == cython.NULL:
        raise MemoryError
    base: cython.p_void = mmap(cython.NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, start)
    if base == MAP_FAILED:
        number = errno
        free(mapping)
        raise MemoryTableError(
            f"{what}: cannot be mapped shared and writable: {os.strerror(number)} (is the memory shared, share=on?)", rule="C036"
        )
    mapping.base = base
    mapping.length = length
    mapping.data = cython.cast(cython.p_char, base) + (offset - start)
    mapping.guard_slot = guard(base, length, cython.address(mapping.lost))
    if mapping.guard_slot < 0:
        munmap(base, length)
        free(mapping)
        raise MemoryTableError(f"{what}: too many regions are mapped in this process", rule="C043")
    counter_add(cython.address(_mappings), 1)
    return mapping


@cython.cfunc
def must_be_local(fd: cython.int, what: str):
    kind: uint32_t = 0
    found: cython.int
    # A file system of user space is asked as well, and may never answer: then it is this thread alone that waits.
    with cython.nogil:
        found = is_local(fd, cython.address(kind))
    if found < 0:
        raise MemoryTableError(f"{what}: its file system cannot be examined: {os.strerror(errno)}", rule="C036")
    if not found:
        name = REMOTE.get(kind, f"of type {kind:#x}")
        raise MemoryTableError(
            f"{what}: its file lies on a file system {name}, which is not known to be local: an access could wait for ever. "
            "Use a memfd, /dev/shm, hugetlbfs or a local disk, or allow it (allow_remote_memory=True, --allow-remote-memory)",
            rule="C036",
        )


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def unmap_file(mapping: cython.pointer[Mapping]) -> cython.void:
    if mapping == cython.NULL:
        return
    # Unguard first: between munmap and unguard another mapping could take the addresses.
    unguard(mapping.guard_slot)
    munmap(mapping.base, mapping.length)
    free(mapping)
    counter_add(cython.address(_mappings), -1)
