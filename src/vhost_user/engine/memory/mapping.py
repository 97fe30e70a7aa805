"""Files of a front-end mapped into this process, guarded against being truncated (types: mapping.pyi)."""

import os
import stat

import cython
from cython.cimports.libc.errno import errno
from cython.cimports.libc.stdint import int64_t, uint64_t
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
    mmap,
    munmap,
    unguard,
)

from vhost_user.engine.errors import MemoryTableError
from vhost_user.engine.memory.file_system import is_local, page_size, type_of
from vhost_user.engine.memory.file_system import status as file_status

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
        # Not fstat: a file system in user space is asked by that, and may never answer.
        status = file_status(fd)
    except OSError as error:
        raise MemoryTableError(f"{what}: its file descriptor cannot be examined: {error.strerror}", rule="C036") from error
    if stat.S_ISREG(status.mode) and status.size < size + offset:
        raise MemoryTableError(f"{what}: needs {size + offset} bytes of its file, which has {status.size}", rule="C039")
    if stat.S_ISREG(status.mode) and not allow_remote:
        must_be_local(fd, what)
    # The block size is the huge page size on hugetlbfs, where offset and length must be multiples of it (C036).
    page = os.sysconf("SC_PAGESIZE")
    if status.block_size > page and status.block_size & (status.block_size - 1) == 0 and status.block_size <= 1 << 30:
        page = status.block_size
    memory_page: uint64_t = page_size(fd)
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
    mapping.page = memory_page
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
    try:
        if is_local(fd):
            return
        kind = type_of(fd)
    except OSError as error:
        raise MemoryTableError(f"{what}: its file system cannot be examined: {error.strerror}", rule="C036") from error
    name = "of another mount namespace" if kind is None else f"of type {kind}"
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
