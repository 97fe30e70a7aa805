"""The area that tracks requests in flight, so that a back-end which is killed can be followed by one that loses none (C106 to C117).

Its layout and the order of the stores are the specification's (vhost-user, "Inflight I/O tracking"). The front-end owns the
area as much as we do, so nothing in it is trusted: a ring reads it once, when it starts (inflight_recovery.py), and works with
private copies from then on.
"""

import fcntl
import os

import cython
from cython.cimports.libc.stdint import uint16_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memset
from cython.cimports.posix.unistd import close
from cython.cimports.vhost_user.engine.barriers import full_fence, store_16, store_release_16, store_release_32, store_release_64
from cython.cimports.vhost_user.engine.device.inflight import (
    AT_COUNT,
    AT_VERSION,
    PACKED_FREE,
    PACKED_POSITION,
    PACKED_STATE,
    PACKED_STATES,
    SPLIT_LAST,
    SPLIT_STATE,
    SPLIT_STATES,
    SPLIT_USED,
    VERSION,
    Saved,
    Tracking,
    packed_position,
)
from cython.cimports.vhost_user.engine.memory.mapping import map_file, unmap_file

from vhost_user.engine.errors import MemoryTableError
from vhost_user.spec.inflight import ALIGNMENT, region_size

LARGEST = 32768
IDS = cython.declare(cython.int, 65536)
# Words of a header and of a state are written in one access each.
WORD = 8


@cython.final
@cython.cclass
class InflightArea:
    """InflightArea(fd, *, size, offset=0, num_queues, queue_size, allow_remote=False)\n--\n\n\
    A tracking area, mapped: what SET_INFLIGHT_FD hands over (C107).

    One region for each of ``num_queues`` queues of up to ``queue_size`` descriptors, at ``offset`` of the file ``fd``,
    ``size`` bytes in all. A duplicate of ``fd`` is kept until ``close``; the memory stays mapped as long as a ring uses
    it. Raises MemoryTableError when the file does not have what the numbers say.
    """

    def __cinit__(self):
        self.descriptor = -1

    def __init__(self, fd, *, size, offset=0, num_queues, queue_size, allow_remote=False):
        if self.mapping != cython.NULL:
            raise RuntimeError("an area is made once")
        if not 1 <= num_queues <= 65535 or not 1 <= queue_size <= LARGEST:
            raise MemoryTableError(f"in-flight area: {num_queues} queues of {queue_size} descriptors", rule="C107")
        least = num_queues * region_size(queue_size, packed=False)
        if size < least:
            raise MemoryTableError(f"in-flight area: its {num_queues} queues take {least} bytes, it has {size}", rule="C107")
        if offset % WORD:
            raise MemoryTableError(f"in-flight area: its file offset {offset:#x} is not a multiple of {WORD}", rule="C107")
        try:
            self.mapping = map_file(fd, size, offset, "in-flight area", allow_remote)
        except MemoryTableError as error:
            raise MemoryTableError(error.reason, rule="C107") from error
        self.size = size
        self.offset = offset
        self.num_queues = num_queues
        self.queue_size = queue_size
        self.descriptor = os.dup(fd)

    def __dealloc__(self):
        if self.descriptor >= 0:
            close(self.descriptor)
        unmap_file(self.mapping)

    def close(self):
        """Close the file. The memory goes when no ring uses it any more."""
        with cython.critical_section(self):
            fd = self.descriptor
            self.descriptor = -1
        if fd >= 0:
            os.close(fd)

    def fileno(self):
        """The file, or -1 after ``close``."""
        return self.descriptor

    @property
    def lost(self):
        """The front-end truncated the file: nothing is tracked any more, and rings do not notice (H85)."""
        return self.mapping != cython.NULL and self.mapping.lost != 0

    def has_room(self, queue, packed):
        """Whether the region of this queue lies in the area, in that layout; the packed one is larger."""
        return queue < self.num_queues and (queue + 1) * region_size(self.queue_size, packed=packed) <= self.size

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def track(self, queue: cython.int, packed: cython.bint, place: cython.pointer(cython.pointer(Tracking))) -> cython.int:
        """The record of one ring; NULL if the area has no room for it. For ``tracking_free``, before the area goes."""
        t: cython.pointer(Tracking)
        count: cython.int = self.queue_size
        whole: cython.bint
        place[0] = cython.NULL
        if not self.has_room(queue, packed):
            return 0
        t = cython.cast(cython.pointer(Tracking), calloc(1, cython.sizeof(Tracking)))
        if t == cython.NULL:
            raise MemoryError
        # The regions lie in the mapping: `has_room` has just said so, and `queue_size` never changes.
        t.header = self.mapping.data + cython.cast(uint64_t, queue) * cython.cast(uint64_t, region_size(count, packed=packed))
        t.states = t.header + (PACKED_STATES if packed else SPLIT_STATES)
        t.size = count
        t.batch = cython.cast(cython.pointer(uint16_t), calloc(count, 2))
        t.again = cython.cast(cython.pointer(uint16_t), calloc(count, 2))
        whole = t.batch != cython.NULL and t.again != cython.NULL
        if packed:
            t.following = cython.cast(cython.pointer(uint16_t), calloc(count, 2))
            t.last = cython.cast(cython.pointer(uint16_t), calloc(count, 2))
            t.num = cython.cast(cython.pointer(uint16_t), calloc(count, 2))
            t.entry_of = cython.cast(cython.pointer(uint16_t), calloc(IDS, 2))
            t.saved = cython.cast(cython.pointer(Saved), calloc(count, cython.sizeof(Saved)))
            whole = whole and t.following != cython.NULL and t.last != cython.NULL and t.num != cython.NULL
            whole = whole and t.entry_of != cython.NULL and t.saved != cython.NULL
        if not whole:
            tracking_free(t)
            raise MemoryError
        place[0] = t
        return 0

    def __repr__(self):
        return f"<InflightArea of {self.num_queues} queues of {self.queue_size}, {self.size} bytes{', lost' if self.lost else ''}>"


def make_area_file(num_queues, queue_size, *, packed):
    """A new file for ``num_queues`` regions, zeroed, and its size: what GET_INFLIGHT_FD answers (C106).

    It is sealed: nobody can shrink it under those who map it. Raises OSError when there is no memory.
    """
    size = num_queues * region_size(queue_size, packed=packed)
    fd = os.memfd_create("vhost-user-inflight", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        _seal(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd, size


def _seal(fd):
    """Nobody shrinks or grows this memfd from here on."""
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def tracking_free(t: cython.pointer(Tracking)) -> cython.void:
    if t == cython.NULL:
        return
    free(t.batch)
    free(t.again)
    free(t.following)
    free(t.last)
    free(t.num)
    free(t.entry_of)
    free(t.saved)
    free(t)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def tracking_begin_split(t: cython.pointer(Tracking), used: uint16_t) -> cython.void:
    """A new region: nothing is in flight. The version is written last: before it the region counts as never used (C108)."""
    store_16(t.header + AT_VERSION, 0)
    full_fence()
    memset(t.states, 0, cython.cast(uint64_t, t.size) * SPLIT_STATE)
    store_release_64(t.header, 0)
    store_release_16(t.header + AT_COUNT, cython.cast(uint16_t, t.size))
    store_release_16(t.header + SPLIT_LAST, 0)
    # Not 0: it is compared with the ring's own when the first batch was cut off.
    store_release_16(t.header + SPLIT_USED, used)
    store_release_16(t.header + AT_VERSION, VERSION)
    t.counter = 0
    t.last_batch_head = 0
    t.batched = 0
    t.again_count = 0
    t.again_next = 0
    t.again_open = 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def tracking_begin_packed(t: cython.pointer(Tracking), used: cython.int, wrap: cython.int) -> cython.void:
    entry: cython.int
    store_16(t.header + AT_VERSION, 0)
    full_fence()
    memset(t.states, 0, cython.cast(uint64_t, t.size) * PACKED_STATE)
    for entry in range(t.size):
        # The last one leads to `size`, which is where the list ends.
        t.following[entry] = cython.cast(uint16_t, entry + 1)
        store_16(t.states + cython.cast(uint64_t, entry) * PACKED_STATE + 2, cython.cast(uint16_t, entry + 1))
    store_release_64(t.header, 0)
    store_release_16(t.header + AT_COUNT, cython.cast(uint16_t, t.size))
    store_release_32(t.header + PACKED_FREE, 0)
    store_release_64(t.header + PACKED_POSITION, packed_position(used, wrap, used, wrap))
    store_release_64(t.header + PACKED_POSITION + 8, 0)
    store_release_16(t.header + AT_VERSION, VERSION)
    t.counter = 0
    t.free_head = 0
    t.free_count = t.size
    t.used = used
    t.wrap = wrap
    t.old_used = used
    t.old_wrap = wrap
    t.batched = 0
    t.batched_slots = 0
    t.again_count = 0
    t.again_next = 0
    t.again_open = 0
    t.dirty = False
