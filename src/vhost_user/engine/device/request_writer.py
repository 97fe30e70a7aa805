"""The device-writable part of a request: what the driver gets, and how much of it was written (see request.pyi)."""

import cython
from cython.cimports.cpython.buffer import PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cython.cimports.cpython.bytes import PyBytes_AS_STRING
from cython.cimports.libc.stdint import INT64_MAX, int64_t, uint64_t
from cython.cimports.vhost_user.engine.device.chain import Cursor, chain_advance, chain_copy_long, chain_seek, chain_seek_end, chain_write
from cython.cimports.vhost_user.engine.device.request_reader import RequestReader
from cython.cimports.vhost_user.engine.device.request_state import LARGE, number_of_bytes

from vhost_user.engine.errors import RequestError


@cython.cclass
class RequestWriter(RequestReader):
    """The part of ``Request`` that writes."""

    @cython.cfunc
    def room(self, keep: uint64_t) -> uint64_t:
        """Writable bytes left but for the last ``keep``."""
        left: uint64_t = self.chain.writable_total - self.writing.position
        if keep > left:
            raise RequestError(f"{self.named()}: {left} writable bytes are left, {keep} were to be kept", rule="V014")
        return left - keep

    @cython.cfunc
    def no_room(self, length: uint64_t, left: uint64_t):
        raise RequestError(f"{self.named()}: {length} bytes do not fit, {left} writable bytes are left", rule="V014")

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def put(self, source: cython.p_void, length: uint64_t, fill: cython.int) -> cython.int:
        # Critical section and cursor as in `take`.
        with cython.critical_section(self):
            cursor: Cursor = self.writing
            if length > self.chain.writable_total - cursor.position:
                # It raises; with `return` the compiler knows that nothing follows.
                return self.no_room(length, self.chain.writable_total - cursor.position) is None
            if length < LARGE and self.at_home():
                chain_write(self.chain, self.snapshot, cython.address(cursor), source, length, fill)
                self.writing = cursor
                return 0
            self.store(cython.address(cursor), source, length, fill)
            self.writing = cursor
        return 0

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def store(self, cursor: cython.pointer[Cursor], source: cython.p_void, length: uint64_t, fill: cython.int) -> cython.int:
        """Copy to the writable part where ``cursor`` is, the caller's own, and move it. There is as much room."""
        pinned: cython.int = self.enter()
        self.check(cursor, True, length, pinned)
        if length >= LARGE:
            current: cython.pointer[int64_t] = cython.address(self.owner.generation)
            whole: cython.bint
            with cython.nogil:
                whole = chain_copy_long(self.chain, self.snapshot, cursor, source, length, fill, current, self.generation)
            if not whole:
                self.ended(pinned)
        else:
            chain_write(self.chain, self.snapshot, cursor, source, length, fill)
        if pinned:
            self.leave(pinned)
        return 0

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def put_last(self, source: cython.p_void, length: uint64_t) -> cython.int:
        cursor: Cursor
        if length > self.chain.writable_total:
            raise RequestError(
                f"{self.named()}: {length} bytes do not fit, {self.chain.writable_total} bytes are writable",
                rule="V014",
            )
        # The cursor is this call's own.
        chain_seek_end(self.chain, cython.address(cursor), length)
        if length < LARGE and self.at_home():
            chain_write(self.chain, self.snapshot, cython.address(cursor), source, length, -1)
        else:
            self.store(cython.address(cursor), source, length, -1)
        with cython.critical_section(self):
            if length > self.tail:
                self.tail = length
        return 0

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def account(self, start: int64_t, end: int64_t) -> cython.void:
        """Bytes were written outside of the order: what that makes of gaps, and of what is written in one piece from the beginning."""
        reached: int64_t = self.used_so_far()
        if end <= reached or start > reached:
            return
        if self.gap < 0:
            self.reach = end
        elif end < self.gap_end:
            self.gap = end
        else:
            # Closed. A third gap was not noted, so the second is never closed but for its beginning.
            self.gap = self.next_gap
            self.gap_end = INT64_MAX
            self.next_gap = -1
            if self.gap < 0 and cython.cast(uint64_t, end) > self.writing.position:
                self.reach = end

    @cython.cfunc
    def put_at(self, position, data):
        view: cython.Py_buffer
        cursor: Cursor
        PyObject_GetBuffer(data, cython.address(view), PyBUF_SIMPLE)
        try:
            if position < 0 or position + view.len > self.chain.writable_total:
                raise RequestError(
                    f"{self.named()}: {view.len} bytes at {position} are outside of the writable part of {self.chain.writable_total} bytes",
                    rule="V014",
                )
            start: uint64_t = position
            chain_seek(self.chain, cython.address(cursor), True, start)
            self.store(cython.address(cursor), view.buf, view.len, -1)
            with cython.critical_section(self):
                self.account(start, start + view.len)
            return view.len
        finally:
            PyBuffer_Release(cython.address(view))

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def leave_gap(self, length) -> cython.int:
        size: uint64_t = number_of_bytes(length)
        with cython.critical_section(self):
            # Asked here: of two threads that skip, the second has only what the first left.
            if size > self.room(0):
                raise RequestError(f"{self.named()}: cannot skip {length} of {self.room(0)} writable bytes", rule="V014")
            start: int64_t = self.writing.position
            chain_advance(self.chain, None, cython.address(self.writing), True, size)
            end: int64_t = self.writing.position
            if start < cython.cast(int64_t, self.reach):
                # As far as write_at has been there before, nothing is left out.
                start = self.reach
            if start >= end:
                pass
            elif self.gap < 0:
                self.gap = start
                self.gap_end = end
                self.next_gap = -1
            elif start == self.gap_end:
                self.gap_end = end
            elif self.next_gap < 0:
                self.next_gap = start
        return 0
