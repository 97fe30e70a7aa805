"""One region of guest memory (types: region.pyi)."""

import os

import cython
from cython.cimports.cpython.buffer import PyBuffer_FillInfo
from cython.cimports.libc.errno import errno
from cython.cimports.libc.stdint import uint8_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.vhost_user.engine.memory.mapping import map_file, unmap_file
from cython.cimports.vhost_user.engine.memory.missing import PAGE_BITS, MissingPages, vu_unwatch, vu_watch

from vhost_user.engine.errors import MemoryTableError

TOP = 1 << 64


def in_range(address, length):
    """Both fit into 64 bits, and so does every address of the range."""
    return 0 <= address < TOP and 0 <= length <= TOP - address and length < TOP


def by_guest_address(region):
    """For sorting."""
    return region.guest_address


def by_user_address(region):
    """For sorting."""
    return region.user_address


def must_not_overlap(regions):
    """Raise MemoryTableError for two regions that overlap in guest or user addresses (C037)."""
    for name, key in (("guest", by_guest_address), ("user", by_user_address)):
        before = None
        for region in sorted(regions, key=key):
            if before is not None and key(before) + before.size > key(region):
                raise MemoryTableError(
                    f"memory regions at {before.guest_address:#x}+{before.size:#x} and {region.guest_address:#x}+{region.size:#x} "
                    f"overlap in {name} addresses",
                    rule="C037",
                )
            before = region


@cython.final
@cython.cclass
class MemoryRegion:
    """MemoryRegion(fd, *, guest_address, size, user_address=None, file_offset=0, allow_remote=False)\n--\n\n\
    One region of guest memory, mapped shared for as long as this object or a view of it lives.

    ``fd`` is not kept: the caller closes it. ``file_offset`` (mmap_offset of the message) need not be page
    aligned (C036). Raises MemoryTableError when a sum wraps 2**64 or size is 0 (C038), when the file is
    shorter than ``file_offset + size`` (C039), or when the kernel refuses the mapping (not a file, not
    writable …), and for a file on a file system that is not known to be local unless ``allow_remote``: an
    access to one in user space (FUSE) or over a network can wait for ever, and nothing ends that wait.
    """

    def __init__(self, fd, *, guest_address, size, user_address=None, file_offset=0, allow_remote=False):
        if self.mapping != cython.NULL:
            raise MemoryTableError("this region is mapped already", rule="C036")
        what = f"memory region at {guest_address:#x}"
        if user_address is None:
            user_address = guest_address
        for name, start in (("guest address", guest_address), ("user address", user_address), ("file offset", file_offset)):
            if start < 0 or size < 0 or start + size > TOP:
                raise MemoryTableError(f"{what}: {name} {start:#x} + size {size:#x} exceeds 2**64", rule="C038")
        self.mapping = map_file(fd, size, file_offset, what, allow_remote)
        self.guest_address = guest_address
        self.user_address = user_address
        self.size = size
        self.file_offset = file_offset

    def __dealloc__(self):
        unmap_file(self.mapping)
        free(self.arrivals.here)

    @property
    def file_span(self):
        """Where in its file the mapping begins, and how long it is: whole pages around the region."""
        if self.mapping == cython.NULL:
            return 0, 0
        ahead: uint64_t = self.mapping.data - cython.cast(cython.p_char, self.mapping.base)
        return self.file_offset - ahead, self.mapping.length

    def expect(self, missing: MissingPages, number):
        """Its pages may not be here yet: from now on they are waited for before they are used, and never by an access (C119).

        To be called before anything accesses it, once. ``number`` is what the pager calls it. MemoryTableError when the
        kernel cannot watch such a file.
        """
        if self.mapping == cython.NULL or missing is None or self.missing is not None:
            raise MemoryTableError("its pages are awaited already", rule="C119")
        self.arrivals.here = cython.cast(cython.pointer[uint8_t], calloc((self.mapping.length >> PAGE_BITS) // 8 + 1, 1))
        if self.arrivals.here == cython.NULL:
            raise MemoryError
        self.arrivals.number = number
        self.arrivals.ahead = self.mapping.data - cython.cast(cython.p_char, self.mapping.base)
        if vu_watch(missing.watch, self.mapping.base, self.mapping.length) < 0:
            raise MemoryTableError(
                f"memory region at {self.guest_address:#x}: missing pages of such a file cannot be watched: {os.strerror(errno)} "
                "(post-copy takes a memfd, /dev/shm or hugetlbfs)",
                rule="C119",
            )
        self.missing = missing

    def settle(self):
        """All of its pages are here, or count as here: an access to one that is not makes a page of zeros (C120)."""
        if self.missing is not None and self.mapping != cython.NULL:
            vu_unwatch(self.missing.watch, self.mapping.base, self.mapping.length)

    @property
    def lost(self):
        """True once an access found its pages gone (the file was truncated).

        The region then reads as zeros.
        """
        return self.mapping != cython.NULL and self.mapping.lost != 0

    def __getbuffer__(self, buffer: cython.pointer[cython.Py_buffer], flags: cython.int):
        if self.mapping == cython.NULL:
            raise BufferError("this region is not mapped")
        PyBuffer_FillInfo(buffer, self, self.mapping.data, self.size, 0, flags)

    def __releasebuffer__(self, buffer: cython.pointer[cython.Py_buffer]):
        pass

    def __repr__(self):
        return f"<MemoryRegion guest {self.guest_address:#x}+{self.size:#x} user {self.user_address:#x}{' lost' if self.lost else ''}>"
