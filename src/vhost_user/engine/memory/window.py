"""Pages of guest memory that lie apart, mapped a second time behind each other.

A guest's IOMMU maps what its driver sees in one piece to any pages. Buffers are cut where that happens; the areas of a ring
are not, because every access of theirs would have to look. They are few and small, and stay.
"""

# A window shows the pages of a region again, so that it must not outlive the region: whoever opens it keeps the snapshot's
# regions as for every other address. It is watched for pages that vanish like the region itself.

import cython
from cython.cimports.libc.stdint import uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.vhost_user.engine.memory.dirty_log import Bitmap
from cython.cimports.vhost_user.engine.memory.iotlb import Iotlb
from cython.cimports.vhost_user.engine.memory.mapping import MAP_FAILED, MAP_NORESERVE, guard, mmap, munmap, unguard
from cython.cimports.vhost_user.engine.memory.window import (
    MAP_ANONYMOUS,
    MAP_PRIVATE,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    PROT_NONE,
    Window,
    mremap,
)

PAGE = cython.declare(uint64_t, 4096)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def window_open(
    window: cython.pointer[Window],
    iotlb: Iotlb,
    iova: uint64_t,
    length: uint64_t,
    permission: cython.int,
    lost: cython.pointer[cython.int],
) -> cython.p_char:
    """Map the pages of a range of IOVAs behind each other; where the range begins, or NULL when that cannot be done.

    It cannot with huge pages, which are contiguous where it matters, and with regions that do not begin on a page.
    """
    start: uint64_t = iova - iova % PAGE
    size: uint64_t = (iova - start + length + PAGE - 1) // PAGE * PAGE
    offset: uint64_t = 0
    at: uint64_t
    run: uint64_t = 0
    guest: uint64_t = 0
    outcome: cython.int = 0
    page: cython.p_char
    base: cython.p_char
    place: cython.p_void = mmap(cython.NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    if place == MAP_FAILED:
        return cython.NULL
    window.base = place
    window.length = size
    window.guard_slot = -1
    window.offset = iova - start
    window.guests = cython.cast(cython.pointer[uint64_t], calloc(size // PAGE, cython.sizeof(uint64_t)))
    base = cython.cast(cython.p_char, place)
    while offset < size and window.guests != cython.NULL:
        at = start + offset if offset > 0 else iova
        page = iotlb.translate(at, 1, permission, cython.address(run), cython.address(guest), cython.address(outcome))
        if page == cython.NULL:
            break
        page -= at - (start + offset)
        window.guests[offset // PAGE] = guest - (at - (start + offset))
        # An old size of 0 leaves the page of a shared mapping where it is as well.
        if cython.cast(uint64_t, page) % PAGE or mremap(page, 0, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, base + offset) == MAP_FAILED:
            break
        offset += PAGE
    if offset == size:
        window.guard_slot = guard(window.base, window.length, lost)
    if window.guard_slot < 0:
        munmap(window.base, window.length)
        free(window.guests)
        window.guests = cython.NULL
        window.base = cython.NULL
        return cython.NULL
    return base + (iova - start)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def window_close(window: cython.pointer[Window]) -> cython.void:
    if window.base != cython.NULL:
        # As for regions: between munmap and unguard another mapping could take the addresses.
        unguard(window.guard_slot)
        munmap(window.base, window.length)
        free(window.guests)
        window.guests = cython.NULL
        window.base = cython.NULL


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def window_written(window: cython.pointer[Window], bitmap: Bitmap, offset: uint64_t, length: uint64_t) -> cython.void:
    """Log a write at an offset of what the window shows: its pages are anywhere."""
    run: uint64_t
    offset += window.offset
    while length > 0:
        run = PAGE - offset % PAGE
        if run > length:
            run = length
        bitmap.written(window.guests[offset // PAGE] + offset % PAGE, run)
        offset += run
        length -= run
