"""The fast paths of block devices: plain reads and writes of a disk (types: fast_path.pyi)."""

import cython
from cython.cimports.cpython.buffer import PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cython.cimports.libc.stdint import int64_t, uint8_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy
from cython.cimports.vhost_user.engine.barriers import counter_get, counter_set, prefetch_run
from cython.cimports.vhost_user.engine.blk.fast_path import BlockRequest
from cython.cimports.vhost_user.engine.device.chain import (
    INTO,
    OUT,
    PIECE,
    Chain,
    Cursor,
    chain_copy_long,
    chain_read,
    chain_seek,
    chain_seek_end,
    chain_write,
)
from cython.cimports.vhost_user.engine.device.fast_path import DECLINED, DONE, FAR, SETTLED, FastPath
from cython.cimports.vhost_user.engine.memory.guest_memory import GuestMemory

HEADER = cython.declare(uint64_t, 16)
TYPE_IN = cython.declare(uint32_t, 0)
TYPE_OUT = cython.declare(uint32_t, 1)


@cython.cclass
class BlockFastPath(FastPath):
    """virtio-blk IN and OUT (virtio 1.x, 5.2.6).

    Sector ranges inside of the disk, whole sectors, a status byte.
    """

    def resize(self, size):
        """The disk has ``size`` bytes now; requests that are checked later go by it. Any thread."""
        counter_set(cython.address(self.sectors), size // 512)

    def close(self):
        """Take no more requests, wait for the calls that are inside, and let the storage go.

        From any thread but a handler's.
        """
        self.enabled = False
        self.leave_alone()

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def parse(self, chain: cython.pointer[Chain], request: cython.pointer[BlockRequest]) -> cython.bint:
        """Copy the header once and check everything that is used of it; False: not plain."""
        header: uint8_t[16]
        kind: uint32_t
        sector: uint64_t
        # Read once: a disk may be resized meanwhile, and what is checked must be what is subtracted from.
        sectors: uint64_t = cython.cast(uint64_t, counter_get(cython.address(self.sectors)))
        cursor: Cursor
        if not self.enabled or chain.faults or chain.readable_total < HEADER or chain.writable_total == 0:
            return False
        cursor.segment = 0
        cursor.offset = 0
        cursor.position = 0
        chain_read(chain, cython.address(cursor), header, HEADER)
        memcpy(cython.address(kind), cython.cast(cython.p_char, header), 4)
        memcpy(cython.address(sector), cython.cast(cython.p_char, header) + 8, 8)
        if kind == TYPE_IN:
            request.length = chain.writable_total - 1
        elif kind == TYPE_OUT and not self.read_only and not self.write_through:
            request.length = chain.readable_total - HEADER
        else:
            return False
        # Compared as counts of sectors and by subtraction: nothing here can wrap (H76).
        if request.length & 511 or sector > sectors or request.length >> 9 > sectors - sector:
            return False
        request.offset = sector << 9
        request.writing = kind == TYPE_OUT
        return True

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def status(self, chain: cython.pointer[Chain], memory: GuestMemory, request: cython.pointer[BlockRequest]) -> uint64_t:
        """Write status OK into the last byte; what used.len says then (V014)."""
        cursor: Cursor
        ok: uint8_t = 0
        chain_seek_end(chain, cython.address(cursor), 1)
        chain_write(chain, memory, cython.address(cursor), cython.address(ok), 1, -1)
        if not request.writing or chain.writable_total == 1:
            return chain.writable_total
        return 0


@cython.final
@cython.cclass
class MemoryFastPath(BlockFastPath):
    """MemoryFastPath(buffer, *, read_only=False)\n--\n\n\
    A disk in a buffer of this process: copies between it and guest memory.

    The buffer stays exported until ``close``.
    """

    def __init__(self, buffer, *, read_only=False):
        if self.held:
            raise RuntimeError("a fast path is made once")
        PyObject_GetBuffer(buffer, cython.address(self.view), PyBUF_SIMPLE if read_only else PyBUF_SIMPLE | PyBUF_WRITABLE)
        self.held = True
        self.sectors = self.view.len // 512
        self.read_only = read_only
        self.enabled = True

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(cython.address(self.view))

    def resize(self, size):
        """The disk has ``size`` bytes now, never more than the buffer has. Any thread."""
        # Never more than the buffer has: what is copied is checked against this alone.
        counter_set(cython.address(self.sectors), min(size, self.view.len) // 512)

    def close(self):
        """Take no more requests, wait for the calls that are inside, and let the buffer go.

        From any thread but a handler's.
        """
        if self.held:
            self.enabled = False
            self.leave_alone()
            self.held = False
            PyBuffer_Release(cython.address(self.view))

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def prepare(self, chain: cython.pointer[Chain]) -> cython.void:
        request: BlockRequest
        # A disk larger than the caches: its lines come while the request before is copied.
        if self.view.len > FAR and self.parse(chain, cython.address(request)) and not request.writing:
            prefetch_run(cython.cast(cython.p_char, self.view.buf) + request.offset, request.length)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def carry_out(
        self, chain: cython.pointer[Chain], memory: GuestMemory, generation: int64_t, used: cython.pointer[uint64_t]
    ) -> cython.int:
        request: BlockRequest
        cursor: Cursor
        disk: cython.p_char
        if not self.parse(chain, cython.address(request)):
            self.declined += 1
            return DECLINED
        disk = cython.cast(cython.p_char, self.view.buf) + request.offset
        if request.length > PIECE:
            return self.carry_out_long(chain, memory, cython.address(request), used)
        if request.writing:
            chain_seek(chain, cython.address(cursor), False, HEADER)
            chain_read(chain, cython.address(cursor), disk, request.length)
        else:
            chain_seek(chain, cython.address(cursor), True, 0)
            chain_write(chain, memory, cython.address(cursor), disk, request.length, -1)
        used[0] = self.status(chain, memory, cython.address(request))
        self.accepted += 1
        return DONE

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def carry_out_long(
        self, chain: cython.pointer[Chain], memory: GuestMemory, request: cython.pointer[BlockRequest], used: cython.pointer[uint64_t]
    ) -> cython.int:
        """The same for what takes long; SETTLED when its session ended meanwhile."""
        cursor: Cursor
        whole: cython.bint
        disk: cython.p_char = cython.cast(cython.p_char, self.view.buf) + request.offset
        if request.writing:
            chain_seek(chain, cython.address(cursor), False, HEADER)
            whole = chain_copy_long(chain, None, cython.address(cursor), disk, request.length, OUT, self.current, self.expected)
        else:
            chain_seek(chain, cython.address(cursor), True, 0)
            whole = chain_copy_long(chain, memory, cython.address(cursor), disk, request.length, INTO, self.current, self.expected)
        if not whole:
            return SETTLED
        used[0] = self.status(chain, memory, request)
        self.accepted += 1
        return DONE
