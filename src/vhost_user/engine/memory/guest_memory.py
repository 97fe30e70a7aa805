"""Guest memory: immutable snapshots of the memory table (types: guest_memory.pyi)."""

# The mapping rules, in one place:
# - A mapping lives as long as its MemoryRegion object: in a table, in a snapshot, or under an exported view.
# - C code that uses raw addresses pins the snapshot they came from. Closing a snapshot drops its regions once
#   nobody pins it, so an address never outlives its mapping (C134).
# - Whoever writes guest memory calls Bitmap.written afterwards: the only choke point of the dirty log (C078, C084).

import cython
from cython.cimports.cpython.buffer import PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cython.cimports.cpython.bytes import PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cython.cimports.libc.stdint import uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memcpy
from cython.cimports.vhost_user.engine.barriers import (
    counter_add,
    counter_exchange,
    counter_get,
    counter_set,
    load_acquire,
    store_release,
)
from cython.cimports.vhost_user.engine.memory.dirty_log import Bitmap
from cython.cimports.vhost_user.engine.memory.guest_memory import Slot
from cython.cimports.vhost_user.engine.memory.region import MemoryRegion
from cython.cimports.vhost_user.engine.memory.region_views import RegionViews

from vhost_user.engine.errors import MemoryFault, MemoryTableError
from vhost_user.engine.memory.region import by_guest_address, in_range, must_not_overlap

MAX_REGIONS = 509


@cython.final
@cython.cclass
class GuestMemory(RegionViews):
    """GuestMemory(regions=(), bitmap=None)\n--\n\n\
    An immutable snapshot of the memory table; requests and rings hold the one they were made from.

    Regions are sorted here; overlapping ones in guest or user addresses raise MemoryTableError (C037), more
    than MAX_REGIONS too (C043).
    """

    def __init__(self, regions=(), bitmap: Bitmap = None):
        if self.table != cython.NULL:
            raise MemoryTableError("a snapshot of guest memory is made once", rule="C035")
        ordered = sorted(regions, key=by_guest_address)
        if len(ordered) > MAX_REGIONS:
            raise MemoryTableError(f"{len(ordered)} memory regions; at most {MAX_REGIONS} are supported", rule="C043")
        must_not_overlap(ordered)
        self.table = cython.cast(cython.pointer[Slot], calloc(len(ordered) + 1, cython.sizeof(Slot)))
        if self.table == cython.NULL:
            raise MemoryError
        region_: MemoryRegion
        for index in range(len(ordered)):
            region_ = ordered[index]
            if region_.mapping == cython.NULL:
                raise MemoryTableError("a memory region that is not mapped", rule="C036")
            self.table[index].guest_address = region_.guest_address
            self.table[index].size = region_.size
            self.table[index].data = region_.mapping.data
            if region_.missing is not None and region_.missing.coming:
                self.table[index].arrivals = cython.address(region_.arrivals)
                self.missing = region_.missing
                self.sparse = True
        self.count = len(ordered)
        self.mapped_regions = tuple(ordered)
        # Never absent, so that writers need not ask: without a log it is simply off.
        self.bitmap = Bitmap() if bitmap is None else bitmap

    def __dealloc__(self):
        free(self.table)

    # ------------------------------------------------------------------ lifetime
    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def pin(self) -> cython.int:
        """Nonzero: the addresses of this snapshot stay valid until ``unpin``. Zero: it is closed, do not touch it."""
        counter_add(cython.address(self.pins), 1)
        if counter_get(cython.address(self.ended)):
            self.unpin()
            return 0
        return 1

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def unpin(self) -> cython.void:
        # Sequentially consistent counters: either the closer sees our pin, or we see that it closed.
        if counter_add(cython.address(self.pins), -1) == 0 and counter_get(cython.address(self.ended)):
            self.release()

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def release(self) -> cython.void:
        if counter_exchange(cython.address(self.released), 1) == 0:
            with cython.gil:
                self.let_go()

    @cython.cfunc
    def let_go(self):
        with cython.critical_section(self):
            old = self.mapped_regions
            self.mapped_regions = ()
        # Here, outside of it: what this unmaps may run Python code.
        del old

    def close(self):
        """End of the session.

        Later accesses through this snapshot raise, the mapping goes when the last user is out and the last
        view dies (C134).
        """
        counter_set(cython.address(self.ended), 1)
        if counter_get(cython.address(self.pins)) == 0:
            self.release()

    @property
    def closed(self):
        """Whether the session that this snapshot belonged to is over."""
        return counter_get(cython.address(self.ended)) != 0

    @property
    def lost(self):
        """True once any region lost its pages (see MemoryRegion.lost)."""
        if not self.pin():
            return False
        try:
            return self.any_lost()
        finally:
            self.unpin()

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def any_lost(self) -> cython.bint:
        # Reached rarely (once a batch after a fault was seen anywhere in the process).
        with cython.gil:
            region: MemoryRegion
            for region in self.mapped_regions:
                if region.mapping.lost:
                    return True
        return False

    # ------------------------------------------------------------------ translation and copies
    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def find(self, address: uint64_t) -> cython.pointer[Slot]:
        """The region that a guest address lies in, or NULL."""
        low: cython.int = 0
        high: cython.int = self.count
        middle: cython.int
        while low < high:
            middle = (low + high) >> 1
            if self.table[middle].guest_address <= address:
                low = middle + 1
            else:
                high = middle
        if low == 0 or address - self.table[low - 1].guest_address >= self.table[low - 1].size:
            return cython.NULL
        return self.table + (low - 1)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def translate(self, address: uint64_t, length: uint64_t, contiguous: cython.pointer[uint64_t]) -> cython.p_char:
        """Host address of a guest address and how many of ``length`` bytes follow it in the same region; NULL if it is not mapped.

        No sum is formed that could wrap: offsets are compared with what is left of the region (V011, H78).
        """
        slot: cython.pointer[Slot] = self.find(address)
        if slot == cython.NULL:
            return cython.NULL
        offset: uint64_t = address - slot.guest_address
        left: uint64_t = slot.size - offset
        contiguous[0] = length if length < left else left
        return slot.data + offset

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def covers(self, address: uint64_t, length: uint64_t) -> cython.bint:
        run: uint64_t = 0
        while length > 0:
            if self.translate(address, length, cython.address(run)) == cython.NULL:
                return False
            address += run
            length -= run
            if address == 0 and length > 0:
                # Guest addresses end at 2**64: no range goes on at 0.
                return False
        return True

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def here(self, address: uint64_t, length: uint64_t) -> cython.bint:
        """Whether no page of a range is missing; what is not mapped is not. The caller pins."""
        run: uint64_t = 0
        slot: cython.pointer[Slot]
        while self.sparse and length > 0:
            slot = self.find(address)
            if slot == cython.NULL or self.translate(address, length, cython.address(run)) == cython.NULL:
                return True
            if slot.arrivals != cython.NULL and not self.missing.present(slot.arrivals, address - slot.guest_address, run):
                return False
            address += run
            length -= run
        return True

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def bring(self, address: uint64_t, length: uint64_t) -> cython.bint:
        """Wait for the missing pages of a range; False if they never come. Without the GIL and without a mutex."""
        run: uint64_t = 0
        slot: cython.pointer[Slot]
        came: cython.bint = True
        if not self.sparse:
            return True
        if not self.pin():
            return False
        while came and length > 0:
            slot = self.find(address)
            if slot == cython.NULL or self.translate(address, length, cython.address(run)) == cython.NULL:
                # Nobody will access it: whoever wanted to finds out, and says so.
                break
            if slot.arrivals != cython.NULL:
                came = self.missing.bring(slot.arrivals, address - slot.guest_address, run)
            address += run
            length -= run
        self.unpin()
        return came

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def copy_out(self, address: uint64_t, target: cython.p_void, length: uint64_t) -> cython.int:
        """0, or -1 when the range is not wholly mapped (part of ``target`` may be filled then). The caller pins."""
        run: uint64_t = 0
        source: cython.p_char
        to: cython.p_char = cython.cast(cython.p_char, target)
        while length > 0:
            source = self.translate(address, length, cython.address(run))
            if source == cython.NULL:
                return -1
            memcpy(to, source, run)
            to += run
            address += run
            length -= run
            if address == 0 and length > 0:
                return -1
        return 0

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def copy_in(self, address: uint64_t, source: cython.p_void, length: uint64_t) -> cython.int:
        run: uint64_t = 0
        target: cython.p_char
        data: cython.p_char = cython.cast(cython.p_char, source)
        if not self.covers(address, length):
            return -1
        while length > 0:
            target = self.translate(address, length, cython.address(run))
            memcpy(target, data, run)
            self.bitmap.written(address, run)
            data += run
            address += run
            length -= run
        return 0

    # ------------------------------------------------------------------ Python side
    def with_region(self, region: MemoryRegion):
        """A snapshot with one region more (C042); MemoryTableError if it overlaps another."""
        return GuestMemory((*self.regions, region), self.bitmap)

    def without_region(self, guest_address, user_address, size):
        """The snapshot less one region, matched by all three (C042).

        Raises MemoryTableError if there is none.
        """
        rest = [
            region
            for region in self.regions
            if (region.guest_address, region.user_address, region.size) != (guest_address, user_address, size)
        ]
        if len(rest) == len(self.regions):
            raise MemoryTableError(
                f"no memory region at guest {guest_address:#x}, user {user_address:#x}, size {size:#x} to remove", rule="C042"
            )
        return GuestMemory(rest, self.bitmap)

    def is_mapped(self, guest_address, length):
        """Whether a whole range of guest addresses is mapped, in one region or across several."""
        return in_range(guest_address, length) and self.covers(guest_address, length)

    def read(self, guest_address, length):
        """Copy out; may cross regions (C048); raises MemoryFault."""
        if not in_range(guest_address, length) or not self.is_mapped(guest_address, length):
            raise MemoryFault(guest_address, length)
        self.await_pages(guest_address, length)
        result = PyBytes_FromStringAndSize(cython.NULL, length)
        if not self.pin():
            raise MemoryFault(guest_address, length, rule="C134", reason="belongs to a session that ended")
        self.copy_out(guest_address, PyBytes_AS_STRING(result), length)
        self.unpin()
        return result

    def write(self, guest_address, data):
        """Copy in, then mark dirty; raises MemoryFault before anything is written."""
        buffer: cython.Py_buffer
        if not self.pin():
            raise MemoryFault(guest_address, 0, rule="C134", reason="belongs to a session that ended")
        try:
            PyObject_GetBuffer(data, cython.address(buffer), PyBUF_SIMPLE)
            try:
                self.await_pages(guest_address, buffer.len)
                if not in_range(guest_address, buffer.len) or self.copy_in(guest_address, buffer.buf, buffer.len) < 0:
                    raise MemoryFault(guest_address, buffer.len)
            finally:
                PyBuffer_Release(cython.address(buffer))
        finally:
            self.unpin()

    def load(self, guest_address, size):
        """The little-endian number of ``size`` bytes (1, 2, 4 or 8) at an address that is aligned to them.

        One access that another thread or the guest cannot tear, with acquire order. Raises MemoryFault, or
        ValueError for another size or alignment.
        """
        value: uint64_t
        place: cython.p_char = cython.cast(cython.p_char, self.element(guest_address, size))
        width: cython.int = size
        value = load_acquire(place, width)
        self.unpin()
        return value

    def store(self, guest_address, value, size):
        """Store a number in one access with release order, then mark the page dirty. Raises as ``load``.

        OverflowError for a value that does not fit.
        """
        if size in (1, 2, 4, 8) and not 0 <= value < 1 << 8 * size:
            raise OverflowError(f"{value} does not fit {size} bytes")
        place: cython.p_char = cython.cast(cython.p_char, self.element(guest_address, size))
        width: cython.int = size
        store_release(place, value, width)
        self.bitmap.written(guest_address, width)
        self.unpin()

    @cython.cfunc
    def element(self, guest_address, size) -> uint64_t:
        """Where a number of that size lies; this snapshot is pinned then, and the caller unpins it."""
        run: uint64_t = 0
        if size not in (1, 2, 4, 8):
            raise ValueError(f"a number of {size} bytes; 1, 2, 4 and 8 are possible")
        if guest_address % size:
            raise ValueError(f"{guest_address:#x} is not aligned to {size} bytes")
        self.await_pages(guest_address, size)
        if not self.pin():
            raise MemoryFault(guest_address, size, rule="C134", reason="belongs to a session that ended")
        place: cython.p_char = cython.NULL
        if in_range(guest_address, size):
            place = self.translate(guest_address, size, cython.address(run))
        # A host address that is not aligned would make it two accesses, whatever the instruction.
        if place == cython.NULL or run < size or cython.cast(uint64_t, place) % cython.cast(uint64_t, size):
            self.unpin()
            raise MemoryFault(guest_address, size, reason="does not lie, aligned, in one mapped region")
        return cython.cast(uint64_t, place)

    def are_here(self, guest_address, length):
        """Whether no page of a range is missing, as far as is known."""
        if not self.sparse or not in_range(guest_address, length) or not self.pin():
            return True
        result: cython.bint = self.here(guest_address, length)
        self.unpin()
        return result

    def await_pages(self, guest_address, length):
        """Wait for the missing pages of a range, GIL released. MemoryFault if they never come (C121)."""
        if not self.sparse or not in_range(guest_address, length):
            return
        first: uint64_t = guest_address
        count: uint64_t = length
        came: cython.bint
        with cython.nogil:
            came = self.bring(first, count)
        if not came:
            raise MemoryFault(guest_address, length, rule="C121", reason="did not come before post-copy ended")

    def __repr__(self):
        return f"<GuestMemory {len(self.regions)} regions{' closed' if self.closed else ''}>"
