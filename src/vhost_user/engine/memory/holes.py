"""Pages of guest memory that go back to the host (types: holes.pyi)."""

# The hole is made through our own mapping (MADV_REMOVE), not through a descriptor: what the mapping shows is what this session
# was given, the snapshot is pinned while the kernel works, so that the mapping is there, and a region that lost its file
# (see sigbus.h) is private memory of ours by then, which the kernel refuses. Only whole pages that lie inside of the region
# are touched: their neighbours may belong to somebody else.

import os

import cython
from cython.cimports.libc.errno import errno
from cython.cimports.libc.stdint import uint64_t
from cython.cimports.vhost_user.engine.memory.guest_memory import GuestMemory, Slot
from cython.cimports.vhost_user.engine.memory.holes import MADV_REMOVE, madvise
from cython.cimports.vhost_user.engine.memory.region import MemoryRegion

from vhost_user.engine.errors import MemoryFault
from vhost_user.engine.memory.region import in_range


def give_back(memory: GuestMemory, guest_address, length):
    """Punch a hole into the file behind a range of guest memory; the bytes that went back to the host.

    The range reads as zeroes afterwards, for everybody who maps the file, and counts as written (C078).
    Parts of host pages at its ends stay, and so do pages that are partly of another region: then it is
    fewer bytes. Raises MemoryFault, with nothing changed, if not all of the range is mapped or the session is
    over, and OSError where the memory is of a kind that has no holes.
    """
    if not in_range(guest_address, length):
        raise MemoryFault(guest_address, length)
    if not memory.pin():
        raise MemoryFault(guest_address, length, rule="C134", reason="belongs to a session that ended")
    try:
        return punch(memory, guest_address, length)
    finally:
        memory.unpin()


@cython.cfunc
def punch(memory: GuestMemory, guest_address: uint64_t, length: uint64_t):
    """With the snapshot pinned."""
    if not memory.covers(guest_address, length):
        raise MemoryFault(guest_address, length)
    regions: tuple = memory.mapped_regions
    region: MemoryRegion
    slot: cython.pointer[Slot]
    address: uint64_t = guest_address
    run: uint64_t
    start: uint64_t
    first: uint64_t
    end: uint64_t
    page: uint64_t
    done: uint64_t = 0
    number: cython.int
    while length > 0:
        slot = memory.find(address)
        region = regions[slot - memory.table]
        start = cython.cast(uint64_t, slot.data) + (address - slot.guest_address)
        run = slot.size - (address - slot.guest_address)
        if run > length:
            run = length
        page = region.mapping.page
        first = (start + page - 1) // page * page
        end = (start + run) // page * page
        if end > first:
            with cython.nogil:
                number = errno if madvise(cython.cast(cython.p_void, first), end - first, MADV_REMOVE) != 0 else 0
            # Whatever the kernel did before it gave up is a change as well.
            memory.bitmap.written(address + (first - start), end - first)
            if number:
                raise OSError(number, os.strerror(number))
            done += end - first
        address += run
        length -= run
    return done
