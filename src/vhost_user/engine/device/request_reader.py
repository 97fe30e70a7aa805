"""The device-readable part of a request: what the driver sent (see request.pyi)."""

import cython
from cython.cimports.cpython.buffer import PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cython.cimports.cpython.bytes import PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cython.cimports.libc.stdint import int64_t, uint64_t
from cython.cimports.vhost_user.engine.barriers import counter_get, load_acquire_32, store_release_32
from cython.cimports.vhost_user.engine.device.chain import OUT, Cursor, chain_copy_long, chain_read, chain_seek
from cython.cimports.vhost_user.engine.device.request_state import LARGE, RequestState

from vhost_user.engine.errors import RequestError


@cython.cclass
class RequestReader(RequestState):
    """The part of ``Request`` that reads."""

    @cython.cfunc
    def field(self, index: cython.int) -> object:
        self.check_field(index)
        return self.layout.number(self.head_bytes, index)

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def check_field(self, index: cython.int) -> cython.int:
        # Asked without the critical section; whoever finds it copied finds the bytes as well.
        if load_acquire_32(cython.address(self.copied)) == 0:
            with cython.critical_section(self):
                self.copy_header()
        if not 0 <= index < self.layout.count:
            raise IndexError(f"the header {self.layout.format!r} has no field {index}")
        return 0

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def copy_header(self) -> cython.int:
        cursor: Cursor
        if self.copied:
            return 0
        if self.layout is None:
            raise RequestError("no header was declared for this queue", rule="V009")
        size: uint64_t = self.layout.size
        if self.chain.readable_total < size:
            raise RequestError(f"{self.named()}: {self.chain.readable_total} readable bytes, the header has {size}", rule="V009")
        cursor.segment = 0
        cursor.offset = 0
        cursor.position = 0
        pinned: cython.int = 0
        if not self.at_home():
            pinned = self.enter()
            self.check(cython.address(cursor), False, size, pinned)
        # Read once; only this copy is decoded and used (V051).
        chain_read(self.chain, cython.address(cursor), self.head_bytes, size)
        if pinned:
            self.leave(pinned)
        if self.reading.position < size:
            self.reading = cursor
        store_release_32(cython.address(self.copied), 1)
        return 0

    @cython.cfunc
    def check_limit(self, size: uint64_t):
        """How long a request is, the guest decides; how much memory that may cost, the device does."""
        most: uint64_t = counter_get(cython.address(self.owner.read_limit)) if self.owner is not None else 0
        if size > most:
            raise RequestError(
                f"{self.named()}: read() without a length gives at most {most} bytes, and {size} are left: "
                "read a length of your own, use read_to or readable_views, or raise max_read of the vring",
                rule="V012",
            )

    @cython.cfunc
    def rest(self) -> bytes:
        size: uint64_t = self.left()
        if size > LARGE:
            self.check_limit(size)
        return self.next_bytes(size)

    @cython.cfunc
    def next_bytes(self, size: uint64_t) -> bytes:
        """So many of those that are left."""
        cursor: Cursor
        if not self.at_home():
            # Nothing is allocated for what cannot be read.
            with cython.critical_section(self):
                cursor = self.reading
            pinned: cython.int = self.enter()
            self.check(cython.address(cursor), False, size, pinned)
            self.leave(pinned)
        result: bytes = PyBytes_FromStringAndSize(cython.NULL, size)
        done: uint64_t = self.take(PyBytes_AS_STRING(result), size)
        # Less only if another thread reads the same request.
        return result if done == size else result[:done]

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def take(self, to: cython.p_char, size: uint64_t) -> int64_t:
        """Copy the next ``size`` readable bytes to ``to``, or as many as are left; how many that were."""
        # The critical section keeps other threads from seeing half a cursor, where there is no GIL. A copy that gives the GIL
        # up lets others in: it has a cursor of its own, so that they cannot make it leave its segment.
        with cython.critical_section(self):
            cursor: Cursor = self.reading
            if size > self.chain.readable_total - cursor.position:
                size = self.chain.readable_total - cursor.position
            if size < LARGE and self.at_home():
                chain_read(self.chain, cython.address(cursor), to, size)
                self.reading = cursor
                return size
            pinned: cython.int = self.enter()
            self.check(cython.address(cursor), False, size, pinned)
            if size >= LARGE:
                current: cython.pointer[int64_t] = cython.address(self.owner.generation)
                whole: cython.bint
                with cython.nogil:
                    whole = chain_copy_long(self.chain, None, cython.address(cursor), to, size, OUT, current, self.generation)
                if not whole:
                    self.ended(pinned)
            else:
                chain_read(self.chain, cython.address(cursor), to, size)
            self.reading = cursor
            if pinned:
                self.leave(pinned)
        return size

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def left(self) -> uint64_t:
        return self.chain.readable_total - self.reading.position

    @cython.cfunc
    def bytes_at(self, position, length) -> bytes:
        cursor: Cursor
        if position < 0 or length < 0 or position + length > self.chain.readable_total:
            raise RequestError(
                f"{self.named()}: {length} bytes at {position} are outside of the readable part of {self.chain.readable_total} bytes",
                rule="V009",
            )
        size: uint64_t = length
        chain_seek(self.chain, cython.address(cursor), False, position)
        pinned: cython.int = self.enter()
        self.check(cython.address(cursor), False, size, pinned)
        if pinned:
            self.leave(pinned)
        result = PyBytes_FromStringAndSize(cython.NULL, size)
        to: cython.p_char = PyBytes_AS_STRING(result)
        pinned = self.enter()
        current: cython.pointer[int64_t] = cython.address(self.owner.generation)
        whole: cython.bint
        with cython.nogil:
            whole = chain_copy_long(self.chain, None, cython.address(cursor), to, size, OUT, current, self.generation)
        if not whole:
            self.ended(pinned)
        if pinned:
            self.leave(pinned)
        return result
