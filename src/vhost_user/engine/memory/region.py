"""One region of guest memory (types: region.pyi)."""

import cython
from cython.cimports.cpython.buffer import PyBuffer_FillInfo
from cython.cimports.vhost_user.engine.memory.mapping import map_file, unmap_file

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
