"""Guest memory: mapped regions, immutable snapshots of the table, the dirty log (types and docstrings: memory.pyi)."""

# The mapping rules, in one place:
# - A mapping lives as long as its MemoryRegion object: in a table, in a snapshot, or under an exported view.
# - C code that uses raw addresses pins the snapshot they came from. Closing a snapshot drops its regions once
#   nobody pins it, so an address never outlives its mapping (C134).
# - Whoever writes guest memory calls Bitmap.written afterwards: the only choke point of the dirty log (C078, C084).

import os
import stat

import cython
from cython.cimports.cpython.buffer import PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cython.cimports.cpython.bytes import PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cython.cimports.libc.errno import errno
from cython.cimports.libc.stdint import int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memcpy
from cython.cimports.posix.unistd import close
from cython.cimports.vhost_user.engine.barriers import (
    counter_add,
    counter_exchange,
    counter_get,
    counter_set,
    fence_all_threads,
    fetch_or_8,
    full_fence,
    load_8,
    load_acquire_16,
    load_acquire_32,
    load_acquire_64,
    lock as take_lock,
    lock_destroy,
    lock_init,
    pause,
    store_8,
    store_release_16,
    store_release_32,
    store_release_64,
    unlock,
)
from cython.cimports.vhost_user.engine.doorbell import adopt, ring_bell
from cython.cimports.vhost_user.engine.memory.guest_memory import (
    MAP_FAILED,
    MAP_NORESERVE,
    MAP_SHARED,
    PROT_READ,
    PROT_WRITE,
    Log,
    Mapping,
    Slot,
    guard,
    mmap,
    munmap,
    unguard,
)

from vhost_user.engine.errors import MemoryFault, MemoryTableError
from vhost_user.engine.memory.file_system import is_local, type_of
from vhost_user.engine.memory.file_system import status as file_status

MAX_REGIONS = 509
LOG_PAGE = cython.declare(uint64_t, 4096)
TOP = 1 << 64
# In Bitmap.notify: there is a descriptor.
BELL = cython.declare(int64_t, 1 << 40)

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


def in_range(address, length):
    """Both fit into 64 bits, and so does every address of the range."""
    return 0 <= address < TOP and 0 <= length <= TOP - address and length < TOP


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


@cython.final
@cython.cclass
class Bitmap:
    """Bitmap()\n--\n\n\
    The dirty log of one session.

    SET_LOG_BASE maps it, SET_FEATURES(VHOST_F_LOG_ALL) turns it on and off (C077 to C086).

    One bit for each 4096-byte page of guest-physical space, set by atomic OR after the write it stands for.
    Every write of the engine to guest memory passes here; code that writes through a view must call
    ``mark``.
    """

    def __cinit__(self):
        lock_init(cython.address(self.lock))

    def __dealloc__(self):
        if self.log != cython.NULL:
            unmap_file(self.log.mapping)
            free(self.log)
        if self.notify != 0:
            close(cython.cast(cython.int, self.notify & 0x7FFFFFFF))
        lock_destroy(cython.address(self.lock))

    def map(self, fd, size, offset=0, *, allow_remote=False):
        """Replace the log by ``size`` bytes of ``fd`` at ``offset`` (any alignment).

        Raises MemoryTableError (C082). ``fd`` is not kept. ``allow_remote``: see MemoryRegion.
        """
        if size < 0 or offset < 0 or size + offset >= TOP:
            raise MemoryTableError(f"dirty log: size {size:#x} + offset {offset:#x} exceeds 2**64", rule="C082")
        if size == 0:
            raise MemoryTableError("dirty log: its size is 0", rule="C082")
        log: cython.pointer[Log] = cython.cast(cython.pointer[Log], calloc(1, cython.sizeof(Log)))
        if log == cython.NULL:
            raise MemoryError
        try:
            log.mapping = map_file(fd, size, offset, "dirty log", allow_remote)
        except MemoryTableError as error:
            free(log)
            raise MemoryTableError(error.reason, rule="C082") from error
        log.bits = cython.cast(cython.pointer[uint8_t], log.mapping.data)
        log.pages = size * 8
        self._swap(log)

    def unmap(self):
        """Let the log's memory go; writes are not logged until the next ``map``."""
        self._swap(cython.NULL)

    @cython.cfunc
    def _swap(self, log: cython.pointer[Log]):
        take_lock(cython.address(self.lock))
        old: cython.pointer[Log] = self.log
        self.log = log
        unlock(cython.address(self.lock))
        with cython.nogil:
            # A writer pins, then loads self.log: after the fence it either sees the new log or is counted here.
            fence_all_threads()
            while counter_get(cython.address(self.pins)) != 0:
                pause()
        if old != cython.NULL:
            unmap_file(old.mapping)
            free(old)

    @property
    def mapped(self):
        """Whether there is memory to log into."""
        return self.log != cython.NULL

    @property
    def enabled(self):
        """Whether writes are logged (C077); the memory stays mapped while they are not.

        Set, later writes of any thread are logged when the assignment is over, and every earlier one is visible (C086).
        """
        return self.on != 0

    @enabled.setter
    def enabled(self, value):
        counter_set(cython.address(self.on), 1 if value else 0)
        # Writers look at `on` after their store and without a fence of their own: this one stands for theirs.
        with cython.nogil:
            fence_all_threads()

    def set_notify(self, fd):
        """Take ownership of the eventfd of SET_LOG_FD, written after the log changed (C083).

        ValueError, with ``fd`` still the caller's, when it cannot be a doorbell (C067).
        """
        bell: int64_t = 0
        if fd is not None:
            # Kind and descriptor in one word: writers look without the lock, and never see the one without the other.
            bell = BELL | cython.cast(int64_t, adopt(fd, False)) << 32 | cython.cast(int64_t, fd)
        take_lock(cython.address(self.lock))
        old: int64_t = counter_exchange(cython.address(self.notify), bell)
        unlock(cython.address(self.lock))
        with cython.nogil:
            fence_all_threads()
            while counter_get(cython.address(self.pins)) != 0:
                pause()
        if old != 0:
            close(cython.cast(cython.int, old & 0x7FFFFFFF))

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def mark_range(self, address: uint64_t, length: uint64_t) -> cython.void:
        if length == 0:
            return
        counter_add(cython.address(self.pins), 1)
        log: cython.pointer[Log] = self.log
        if log != cython.NULL:
            page: uint64_t = address // LOG_PAGE
            last: uint64_t = (address + length - 1) // LOG_PAGE
            if address + length - 1 < address:
                last = page
            # Pages beyond the log are ignored, never written (C082).
            if log.pages > 0 and last >= log.pages:
                last = log.pages - 1
            changed: cython.int = 0
            bit: uint8_t
            while page <= last:
                bit = cython.cast(uint8_t, 1 << (page & 7))
                if not load_8(log.bits + (page >> 3)) & bit:
                    fetch_or_8(log.bits + (page >> 3), bit)
                    changed = 1
                page += 1
            if changed:
                bell: int64_t = counter_get(cython.address(self.notify))
                ring_bell(cython.cast(cython.int, bell & 0x7FFFFFFF), cython.cast(cython.int, bell >> 32 & 7))
        counter_add(cython.address(self.pins), -1)

    def mark(self, guest_address: uint64_t, length: uint64_t):
        """Mark the pages of a range written by other means than the engine.

        Pages beyond the log are ignored.
        """
        self.written(guest_address, length)

    def is_dirty(self, guest_address: uint64_t):
        """Whether the page of a guest address is marked."""
        page: uint64_t = guest_address // LOG_PAGE
        result: cython.bint = False
        counter_add(cython.address(self.pins), 1)
        if self.log != cython.NULL and page < self.log.pages:
            result = load_8(self.log.bits + (page >> 3)) >> (page & 7) & 1
        counter_add(cython.address(self.pins), -1)
        return result


def _guest_address(region):
    return region.guest_address


def _user_address(region):
    return region.user_address


@cython.final
@cython.cclass
class GuestMemory:
    """GuestMemory(regions=(), bitmap=None)\n--\n\n\
    An immutable snapshot of the memory table; requests and rings hold the one they were made from.

    Regions are sorted here; overlapping ones in guest or user addresses raise MemoryTableError (C037), more
    than MAX_REGIONS too (C043).
    """

    def __init__(self, regions=(), bitmap: Bitmap = None):
        if self.table != cython.NULL:
            raise MemoryTableError("a snapshot of guest memory is made once", rule="C035")
        ordered = sorted(regions, key=_guest_address)
        if len(ordered) > MAX_REGIONS:
            raise MemoryTableError(f"{len(ordered)} memory regions; at most {MAX_REGIONS} are supported", rule="C043")
        for name, key in (("guest", _guest_address), ("user", _user_address)):
            before = None
            for region in sorted(ordered, key=key):
                if before is not None and key(before) + before.size > key(region):
                    raise MemoryTableError(
                        f"memory regions at {before.guest_address:#x}+{before.size:#x} and {region.guest_address:#x}+{region.size:#x} "
                        f"overlap in {name} addresses",
                        rule="C037",
                    )
                before = region
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
    def regions(self):
        """The regions, by guest address; none after ``close``."""
        # The end of the session empties it on whichever thread is last. Without a GIL a tuple could be freed between the load
        # of its pointer and the reference to it; the critical sections here and in `release` keep the two apart.
        with cython.critical_section(self):
            return self.mapped_regions

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

    def user_to_guest(self, user_address, length=1):
        """Guest address of a range of front-end addresses.

        Raises MemoryFault unless it lies in one region.
        """
        for region in self.regions:
            offset = user_address - region.user_address
            if 0 <= offset < region.size:
                if length > region.size - offset:
                    raise MemoryFault(
                        user_address,
                        length,
                        rule="C071",
                        reason=f"(a front-end address) passes the end of its region after {region.size - offset:#x} bytes",
                    )
                return region.guest_address + offset
        raise MemoryFault(user_address, length, rule="C045", reason="(a front-end address) lies in no memory region")

    def is_mapped(self, guest_address, length):
        """Whether a whole range of guest addresses is mapped, in one region or across several."""
        return in_range(guest_address, length) and self.covers(guest_address, length)

    def read(self, guest_address, length):
        """Copy out; may cross regions (C048); raises MemoryFault."""
        if not in_range(guest_address, length) or not self.is_mapped(guest_address, length):
            raise MemoryFault(guest_address, length)
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
        value = atomic_load(place, width)
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
        atomic_store(place, value, width)
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

    def find_region(self, guest_address):
        """The region that the address lies in."""
        for region in self.regions:
            if 0 <= guest_address - region.guest_address < region.size:
                return region
        return None

    def checked_offset(self, guest_address, offset):
        """``guest_address + offset`` if that lies in a region."""
        return guest_address + offset if self.find_region(guest_address + offset) is not None else None

    def get_slices(self, guest_address, length):
        """Writable views of a range that may cross regions, one for each of them.

        They keep their mapping alive; writes through them are not logged: call ``bitmap.mark``. Raises
        MemoryFault unless all of it is mapped.
        """
        if not self.is_mapped(guest_address, length):
            raise MemoryFault(guest_address, length)
        slices = []
        while length > 0:
            region = self.find_region(guest_address)
            if region is None:
                raise MemoryFault(guest_address, length, rule="C134", reason="belongs to a session that ended")
            offset = guest_address - region.guest_address
            run = min(length, region.size - offset)
            slices.append(memoryview(region)[offset : offset + run])
            guest_address += run
            length -= run
        return slices

    def view(self, guest_address, length):
        """A writable view of a range inside one region.

        Keeps the mapping alive; writes through it are not logged: call ``bitmap.mark``.
        """
        for region in self.regions:
            offset = guest_address - region.guest_address
            if 0 <= offset < region.size and 0 <= length <= region.size - offset:
                return memoryview(region)[offset : offset + length]
        raise MemoryFault(guest_address, length, reason="does not lie in one mapped region")

    def __repr__(self):
        return f"<GuestMemory {len(self.regions)} regions{' closed' if self.closed else ''}>"


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def atomic_load(place: cython.p_char, width: cython.int) -> uint64_t:
    byte: uint8_t
    if width == 1:
        # There is no ordered load of one byte: the fence orders it.
        byte = load_8(place)
        full_fence()
        return byte
    if width == 2:
        return load_acquire_16(place)
    if width == 4:
        return load_acquire_32(place)
    return load_acquire_64(place)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def atomic_store(place: cython.p_char, value: uint64_t, width: cython.int) -> cython.void:
    if width == 1:
        # There is no ordered store of one byte: the fence orders it.
        full_fence()
        store_8(place, cython.cast(uint8_t, value))
    elif width == 2:
        store_release_16(place, cython.cast(uint16_t, value))
    elif width == 4:
        store_release_32(place, cython.cast(uint32_t, value))
    else:
        store_release_64(place, value)


@cython.final
@cython.cclass
class GuestMemoryAtomic:
    """GuestMemoryAtomic(memory=None)\n--\n\n\
    The cell that holds the current snapshot.

    Readers take it without a lock, the control plane replaces it whole.
    """

    def __init__(self, memory: GuestMemory = None):
        self.current = GuestMemory() if memory is None else memory

    def memory(self):
        """The snapshot of this moment; it stays usable when another takes its place."""
        # As in GuestMemory.regions: taken and referred to in one step.
        with cython.critical_section(self):
            return self.current

    def replace(self, memory: GuestMemory):
        """Put another snapshot in its place."""
        if memory is None:
            raise TypeError("a snapshot is needed; use GuestMemory() for an empty one")
        with cython.critical_section(self):
            old = self.current
            self.current = memory
        del old
