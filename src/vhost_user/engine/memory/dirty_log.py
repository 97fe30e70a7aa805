"""The dirty log: which pages of guest memory were written (types: dirty_log.pyi)."""

# Whoever writes guest memory calls Bitmap.written afterwards: the only choke point of the dirty log (C078, C084).

import cython
from cython.cimports.libc.stdint import int64_t, uint8_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.posix.unistd import close
from cython.cimports.vhost_user.engine.barriers import (
    counter_add,
    counter_exchange,
    counter_get,
    counter_set,
    fence_all_threads,
    fetch_or_8,
    load_8,
    lock as take_lock,
    lock_destroy,
    lock_init,
    pause,
    unlock,
)
from cython.cimports.vhost_user.engine.doorbell import adopt, ring_bell
from cython.cimports.vhost_user.engine.memory.dirty_log import Log
from cython.cimports.vhost_user.engine.memory.mapping import map_file, unmap_file

from vhost_user.engine.errors import MemoryTableError

LOG_PAGE = cython.declare(uint64_t, 4096)
TOP = 1 << 64
# In Bitmap.notify: there is a descriptor.
BELL = cython.declare(int64_t, 1 << 40)


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
