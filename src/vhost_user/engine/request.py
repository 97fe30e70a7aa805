"""One request: a descriptor chain with the copies in and out and its completion (types and docstrings: request.pyi)."""

# Every access enters (the session lives, the request is in flight), pins the snapshot, checks the whole range for unmapped
# segments, copies, and unpins. Lengths were bounded by the totals before, so no copy can pass the end of a segment.

import os
import struct

import cython
from cython.cimports.cpython.buffer import PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cython.cimports.cpython.bytes import PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cython.cimports.cpython.memoryview import PyMemoryView_FromObject
from cython.cimports.cpython.ref import Py_INCREF
from cython.cimports.cpython.tuple import PyTuple_New, PyTuple_SET_ITEM
from cython.cimports.libc.errno import EFAULT, EINTR, errno
from cython.cimports.libc.stdint import int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy
from cython.cimports.vhost_user.engine.barriers import counter_exchange, counter_get, iovec, preadv, pwritev, readv, writev
from cython.cimports.vhost_user.engine.chain import (
    Chain,
    Cursor,
    chain_advance,
    chain_fault,
    chain_free,
    chain_new,
    chain_read,
    chain_seek_end,
    chain_vectors,
    chain_write,
)
from cython.cimports.vhost_user.engine.memory import GuestMemory, MemoryRegion
from cython.cimports.vhost_user.engine.request import COMPLETED, IDLE, IN_FLIGHT

from vhost_user.engine.errors import MemoryFault, RequestError

# Copies from this size on are made without the GIL: below it, giving it up costs more than the copy.
LARGE = cython.declare(uint64_t, 65536)
VECTORS = cython.declare(cython.int, 64)

_Struct = struct.Struct
_WIDTHS = {"b": -1, "B": 1, "h": -2, "H": 2, "i": -4, "I": 4, "l": -4, "L": 4, "q": -8, "Q": 8}


@cython.final
@cython.cclass
class Header:
    def __init__(self, format):
        layout = format[1:] if format[:1] in ("<", "=") else format
        if format[:1] in (">", "!", "@"):
            raise ValueError(f"header {format!r}: virtio headers are little-endian, write '<…'")
        offset = 0
        count = 0
        repeat = ""
        for letter in layout:
            if letter.isdigit():
                repeat += letter
                continue
            times = int(repeat or 1)
            repeat = ""
            if letter == "x":
                offset += times
                continue
            width = _WIDTHS.get(letter)
            if width is None:
                raise ValueError(f"header {format!r}: field type {letter!r} is not an integer (b B h H i I q Q) or pad (x)")
            for _ in range(times):
                if count == 32:
                    raise ValueError(f"header {format!r}: more than 32 fields")
                self.offsets[count] = offset
                self.widths[count] = width
                offset += abs(width)
                count += 1
        if not 0 < offset <= 256:
            raise ValueError(f"header {format!r}: {offset} bytes; 1 to 256 are supported")
        self.format = format
        self.size = offset
        self.count = count

    @cython.cfunc
    @cython.exceptval(check=False)
    def value(self, data: cython.pointer[uint8_t], index: cython.int) -> uint64_t:
        """Field ``index`` of a header that was copied to ``data``; a signed one with its sign in the highest bits."""
        place: cython.pointer[uint8_t] = data + self.offsets[index]
        width: cython.int = self.widths[index]
        u16: uint16_t
        u32: uint32_t
        u64: uint64_t
        # memcpy: fields of a header need not be aligned in the private copy.
        if width == 4 or width == -4:
            memcpy(cython.address(u32), place, 4)
            return u32 if width > 0 else cython.cast(int64_t, cython.cast(cython.int, u32))
        if width == 8 or width == -8:
            memcpy(cython.address(u64), place, 8)
            return u64
        if width == 2 or width == -2:
            memcpy(cython.address(u16), place, 2)
            return u16 if width > 0 else cython.cast(int64_t, cython.cast(cython.short, u16))
        return place[0] if width > 0 else cython.cast(int64_t, cython.cast(cython.schar, place[0]))

    @cython.cfunc
    def number(self, data: cython.pointer[uint8_t], index: cython.int) -> object:
        """The same as Python has it."""
        value: uint64_t = self.value(data, index)
        return value if self.widths[index] > 0 else cython.cast(int64_t, value)

    @cython.cfunc
    def decode(self, data: cython.pointer[uint8_t]) -> tuple:
        values: tuple = PyTuple_New(self.count)
        index: cython.int
        for index in range(self.count):
            value = self.number(data, index)
            Py_INCREF(value)
            PyTuple_SET_ITEM(values, index, value)
        return values

    def __repr__(self):
        return f"Header({self.format!r})"


@cython.cclass
class RequestOwner:
    """What a request goes back to when it is complete: the vring (see vring.py)."""

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def finish(self, chain: cython.pointer[Chain], generation: int64_t, written: uint64_t) -> cython.void:
        pass

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def lose(self, chain: cython.pointer[Chain], generation: int64_t) -> cython.void:
        pass


@cython.final
@cython.cclass
class Request:
    def __cinit__(self):
        self.chain = chain_new()
        if self.chain == cython.NULL:
            raise MemoryError

    def __dealloc__(self):
        # Dropped by the device without completing it: give the chain back, or the driver and GET_VRING_BASE wait for ever (H49).
        if self.state == IN_FLIGHT and self.owner is not None:
            self.owner.lose(self.chain, self.generation)
        chain_free(self.chain)

    @cython.cfunc
    @cython.exceptval(check=False)
    def begin(self, memory: GuestMemory, generation: int64_t) -> cython.void:
        self.memory = memory
        self.generation = generation
        self.reading.segment = 0
        self.reading.offset = 0
        self.reading.position = 0
        self.writing = self.reading
        self.gap = -1
        self.tail = 0
        self.taken = False
        self.copied = False
        self.fields = None
        self.state = IN_FLIGHT

    # ------------------------------------------------------------------ state
    @property
    def queue(self):
        return self.owner.index if self.owner is not None else -1

    @property
    def head(self):
        return self.chain.head

    @property
    def readable(self):
        return self.chain.readable_total - self.reading.position

    @property
    def writable(self):
        return self.chain.writable_total - self.writing.position

    @property
    def readable_total(self):
        return self.chain.readable_total

    @property
    def writable_total(self):
        return self.chain.writable_total

    @property
    def written(self):
        return self.used_length()

    @property
    def held(self):
        return self.taken

    @property
    def completed(self):
        return self.state == COMPLETED

    @property
    def alive(self):
        return self.state == IN_FLIGHT and self.generation == self.owner.generation

    @property
    def error(self):
        return self.problem

    def hold(self):
        self.taken = True

    def complete(self, written=-1):
        if self.state != IN_FLIGHT or counter_exchange(cython.address(self.state), COMPLETED) != IN_FLIGHT:
            raise RequestError(f"queue {self.queue}, head {self.head}: this request is complete already", rule="V021")
        length: uint64_t
        if written < 0:
            length = self.used_length()
        else:
            # Never more than the driver made writable (V014).
            length = min(int(written), int(self.chain.writable_total))
        self.owner.finish(self.chain, self.generation, length)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def used_length(self) -> uint64_t:
        total: uint64_t = self.chain.writable_total
        length: uint64_t = self.writing.position if self.gap < 0 else cython.cast(uint64_t, self.gap)
        if self.tail and length + self.tail >= total:
            length = total
        return length

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def enter(self) -> cython.int:
        if self.at_home():
            return 0
        if self.state != IN_FLIGHT:
            raise RequestError(f"queue {self.queue}, head {self.head}: used after it was completed", rule="V036")
        if not self.memory.pin():
            raise RequestError(f"queue {self.queue}, head {self.head}: used after its session ended", rule="C134")
        if self.generation != self.owner.generation:
            self.memory.unpin()
            raise RequestError(f"queue {self.queue}, head {self.head}: used after its session ended", rule="C134")
        return 1

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def leave(self, pinned: cython.int) -> cython.void:
        if pinned:
            self.memory.unpin()

    @cython.cfunc
    def fault(self, segment: cython.int):
        return MemoryFault(self.chain.addresses[segment], self.chain.segments[segment].iov_len, queue=self.queue, head=self.chain.head)

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def check(self, cursor: cython.pointer[Cursor], writable: cython.bint, length: uint64_t, pinned: cython.int) -> cython.int:
        """Entered caller: raises MemoryFault (and leaves) when an unmapped segment lies in the range."""
        segment: cython.int = chain_fault(self.chain, cursor, writable, length)
        if segment >= 0:
            self.leave(pinned)
            raise self.fault(segment)
        return 0

    # ------------------------------------------------------------------ readable part
    @property
    def header(self):
        if self.fields is None:
            self.copy_header()
            self.fields = self.layout.decode(self.head_bytes)
        return self.fields

    @cython.cfunc
    def field(self, index: cython.int) -> object:
        self.check_field(index)
        return self.layout.number(self.head_bytes, index)

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def check_field(self, index: cython.int) -> cython.int:
        if not self.copied:
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
            raise RequestError(
                f"queue {self.queue}, head {self.head}: {self.chain.readable_total} readable bytes, the header has {size}", rule="V009"
            )
        cursor.segment = 0
        cursor.offset = 0
        cursor.position = 0
        pinned: cython.int = 0
        if not self.at_home():
            pinned = self.enter()
            self.check(cython.address(cursor), False, size, pinned)
        # Read once; only this copy is decoded and used (V051).
        chain_read(self.chain, cython.address(cursor), self.head_bytes, size)
        self.leave(pinned)
        if self.reading.position < size:
            self.reading = cursor
        self.copied = True
        return 0

    def read(self, length=-1):
        left: uint64_t = self.chain.readable_total - self.reading.position
        size: uint64_t = left if length < 0 or length > left else length
        pinned: cython.int = self.enter()
        self.check(cython.address(self.reading), False, size, pinned)
        try:
            result = PyBytes_FromStringAndSize(cython.NULL, size)
            chain_read(self.chain, cython.address(self.reading), PyBytes_AS_STRING(result), size)
        finally:
            self.leave(pinned)
        return result

    def read_into(self, buffer):
        return self.read_to(buffer)

    def unpack(self, format):
        layout = format if isinstance(format, _Struct) else _Struct(format)
        if self.readable < layout.size:
            raise RequestError(
                f"queue {self.queue}, head {self.head}: {self.readable} readable bytes left, {layout.format!r} needs {layout.size}",
                rule="V009",
            )
        return layout.unpack(self.read(layout.size))

    def read_to(self, target, offset: int64_t = 0, length: int64_t = -1):
        view: cython.Py_buffer
        PyObject_GetBuffer(target, cython.address(view), PyBUF_SIMPLE | PyBUF_WRITABLE)
        try:
            if offset < 0 or offset > view.len:
                raise ValueError(f"offset {offset} is outside of the target of {view.len} bytes")
            size: uint64_t = self.chain.readable_total - self.reading.position
            if length >= 0 and cython.cast(uint64_t, length) < size:
                size = length
            if size > cython.cast(uint64_t, view.len - offset):
                size = view.len - offset
            self.take(cython.cast(cython.p_char, view.buf) + offset, size)
        finally:
            PyBuffer_Release(cython.address(view))
        return size

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def take(self, to: cython.p_char, size: uint64_t) -> cython.int:
        """Copy the next ``size`` readable bytes, of which there are as many, to ``to``."""
        pinned: cython.int = self.enter()
        self.check(cython.address(self.reading), False, size, pinned)
        # On a copy: a second thread on the same request cannot make this one leave its segment.
        cursor: Cursor = self.reading
        if size >= LARGE:
            with cython.nogil:
                chain_read(self.chain, cython.address(cursor), to, size)
        else:
            chain_read(self.chain, cython.address(cursor), to, size)
        self.reading = cursor
        self.leave(pinned)
        return 0

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def left(self) -> uint64_t:
        return self.chain.readable_total - self.reading.position

    def skip_readable(self, length):
        if length < 0 or length > self.readable:
            raise RequestError(f"queue {self.queue}, head {self.head}: cannot skip {length} of {self.readable} readable bytes", rule="V009")
        chain_advance(self.chain, None, cython.address(self.reading), False, length)

    # ------------------------------------------------------------------ writable part
    @cython.cfunc
    def room(self, keep: uint64_t) -> uint64_t:
        """Writable bytes left but for the last ``keep``."""
        left: uint64_t = self.chain.writable_total - self.writing.position
        if keep > left:
            raise RequestError(f"queue {self.queue}, head {self.head}: {left} writable bytes are left, {keep} were to be kept", rule="V014")
        return left - keep

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def put(self, source: cython.p_void, length: uint64_t, fill: cython.int) -> cython.int:
        if length > self.chain.writable_total - self.writing.position:
            raise RequestError(
                f"queue {self.queue}, head {self.head}: {length} bytes do not fit, {self.writable} writable bytes are left", rule="V014"
            )
        # On a copy: a second thread on the same request cannot make this one leave its segment.
        cursor: Cursor = self.writing
        if length < LARGE and self.at_home():
            chain_write(self.chain, self.memory, cython.address(cursor), source, length, fill)
            self.writing = cursor
            return 0
        pinned: cython.int = self.enter()
        self.check(cython.address(cursor), True, length, pinned)
        if length >= LARGE:
            with cython.nogil:
                chain_write(self.chain, self.memory, cython.address(cursor), source, length, fill)
        else:
            chain_write(self.chain, self.memory, cython.address(cursor), source, length, fill)
        self.writing = cursor
        self.leave(pinned)
        return 0

    def write(self, data):
        view: cython.Py_buffer
        if type(data) is bytes:
            self.put(PyBytes_AS_STRING(data), len(cython.cast(bytes, data)), -1)
            return len(data)
        PyObject_GetBuffer(data, cython.address(view), PyBUF_SIMPLE)
        try:
            self.put(view.buf, view.len, -1)
            return view.len
        finally:
            PyBuffer_Release(cython.address(view))

    def pack(self, format, *values):
        layout = format if isinstance(format, _Struct) else _Struct(format)
        return self.write(layout.pack(*values))

    def fill(self, byte: cython.int, length: int64_t = -1, *, keep: int64_t = 0):
        if not 0 <= byte <= 255 or keep < 0:
            raise ValueError(f"byte {byte}, {keep} bytes to keep")
        size: uint64_t = self.room(keep) if length < 0 else length
        self.put(cython.NULL, size, byte)
        return size

    def write_from(self, source, offset: int64_t = 0, length: int64_t = -1, *, keep: int64_t = -1):
        view: cython.Py_buffer
        if keep >= 0:
            length = self.room(keep)
        PyObject_GetBuffer(source, cython.address(view), PyBUF_SIMPLE)
        try:
            if offset < 0 or offset > view.len or (length >= 0 and length > view.len - offset):
                raise ValueError(f"bytes {offset}+{length} are outside of the source of {view.len} bytes")
            if length < 0:
                length = view.len - offset
            self.put(cython.cast(cython.p_char, view.buf) + offset, length, -1)
        finally:
            PyBuffer_Release(cython.address(view))
        return length

    def write_last(self, data):
        view: cython.Py_buffer
        if type(data) is bytes:
            self.put_last(PyBytes_AS_STRING(data), len(cython.cast(bytes, data)))
            return
        PyObject_GetBuffer(data, cython.address(view), PyBUF_SIMPLE)
        try:
            self.put_last(view.buf, view.len)
        finally:
            PyBuffer_Release(cython.address(view))

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def put_last(self, source: cython.p_void, length: uint64_t) -> cython.int:
        cursor: Cursor
        if length > self.chain.writable_total:
            raise RequestError(
                f"queue {self.queue}, head {self.head}: {length} bytes do not fit, {self.chain.writable_total} bytes are writable",
                rule="V014",
            )
        chain_seek_end(self.chain, cython.address(cursor), length)
        pinned: cython.int = 0
        if not self.at_home():
            pinned = self.enter()
            self.check(cython.address(cursor), True, length, pinned)
        chain_write(self.chain, self.memory, cython.address(cursor), source, length, -1)
        self.leave(pinned)
        if length > self.tail:
            self.tail = length
        return 0

    def skip_writable(self, length):
        if length < 0 or length > self.writable:
            raise RequestError(f"queue {self.queue}, head {self.head}: cannot skip {length} of {self.writable} writable bytes", rule="V014")
        if length and self.gap < 0:
            self.gap = self.writing.position
        chain_advance(self.chain, None, cython.address(self.writing), True, length)

    def advance_writable(self, length):
        if length < 0 or length > self.writable:
            raise RequestError(f"queue {self.queue}, head {self.head}: {length} of {self.writable} writable bytes", rule="V014")
        pinned: cython.int = self.enter()
        chain_advance(self.chain, self.memory, cython.address(self.writing), True, length)
        self.leave(pinned)

    # ------------------------------------------------------------------ files and views
    def write_from_file(self, fd, offset, length=-1):
        return self.move_file(fd, offset, length, True)

    def read_to_file(self, fd, offset, length=-1):
        return self.move_file(fd, offset, length, False)

    @cython.cfunc
    def move_file(self, fd: cython.int, offset: int64_t, length: int64_t, writable: cython.bint):
        vectors: iovec[64]
        # A copy, as in `put`.
        place: Cursor = self.writing if writable else self.reading
        cursor: cython.pointer[Cursor] = cython.address(place)
        left: uint64_t = (self.chain.writable_total if writable else self.chain.readable_total) - cursor.position
        batch: uint64_t = 0
        moved: cython.Py_ssize_t = 0
        total: uint64_t = 0
        count: cython.int
        problem: cython.int = 0
        if length >= 0:
            if cython.cast(uint64_t, length) > left:
                raise RequestError(
                    f"queue {self.queue}, head {self.head}: {length} bytes asked for, the {'writable' if writable else 'readable'} part has {left} left",
                    rule="V014",
                )
            left = length
        pinned: cython.int = self.enter()
        self.check(cursor, writable, left, pinned)
        with cython.nogil:
            while left > 0:
                count = chain_vectors(self.chain, cursor, writable, left, vectors, VECTORS, cython.address(batch))
                if writable:
                    moved = preadv(fd, vectors, count, offset + total) if offset >= 0 else readv(fd, vectors, count)
                else:
                    moved = pwritev(fd, vectors, count, offset + total) if offset >= 0 else writev(fd, vectors, count)
                if moved < 0:
                    problem = errno
                    if problem == EINTR:
                        problem = 0
                        continue
                    break
                chain_advance(self.chain, self.memory, cursor, writable, moved)
                total += moved
                left -= moved
                # Short: end of file, or a stream that has no more now.
                if cython.cast(uint64_t, moved) < batch:
                    break
        if writable:
            self.writing = place
        else:
            self.reading = place
        self.leave(pinned)
        if problem == EFAULT:
            segment: cython.int = cursor.segment + (self.chain.readable_count if writable else 0)
            if segment >= self.chain.count:
                segment = self.chain.count - 1
            raise self.fault(segment)
        if problem and total == 0:
            raise OSError(problem, os.strerror(problem))
        return total

    def readable_views(self):
        return self.views(False)

    def writable_views(self):
        return self.views(True)

    @cython.cfunc
    def views(self, writable: cython.bint) -> list:
        cursor: cython.pointer[Cursor] = cython.address(self.writing) if writable else cython.address(self.reading)
        total: uint64_t = self.chain.writable_total if writable else self.chain.readable_total
        first: cython.int = cursor.segment + (self.chain.readable_count if writable else 0)
        last: cython.int = self.chain.count if writable else self.chain.readable_count
        pinned: cython.int = self.enter()
        self.check(cursor, writable, total - cursor.position, pinned)
        result: list = []
        region: MemoryRegion
        try:
            for segment in range(first, last):
                skip = cursor.offset if segment == first else 0
                address = self.chain.addresses[segment] + skip
                for region in self.memory.regions:
                    if region.guest_address <= address and address - region.guest_address < region.size:
                        start = address - region.guest_address
                        # Through the region's own buffer, so that the view keeps the mapping alive.
                        view = PyMemoryView_FromObject(region)[start : start + self.chain.segments[segment].iov_len - skip]
                        result.append(view if writable else view.toreadonly())
                        break
        finally:
            self.leave(pinned)
        return result

    def describe(self):
        parts = []
        for segment in range(self.chain.count):
            parts.append(
                f"{'->' if segment < self.chain.readable_count else '<-'} {self.chain.addresses[segment]:#x}+{self.chain.segments[segment].iov_len:#x}"
                f"{'' if self.chain.segments[segment].iov_base != cython.NULL else ' UNMAPPED'}"
            )
        return (
            f"queue {self.queue}, head {self.head}: {self.chain.descriptors} descriptors, {self.chain.readable_total} bytes readable "
            f"({self.reading.position} read), {self.chain.writable_total} writable ({self.used_length()} written)"
            + "".join(f"\n  {part}" for part in parts)
        )

    def __repr__(self):
        state = {IDLE: "idle", IN_FLIGHT: "in flight", COMPLETED: "completed"}[counter_get(cython.address(self.state))]
        return f"<Request queue {self.queue} head {self.head} {state}: {self.chain.readable_total} readable, {self.chain.writable_total} writable>"


DescriptorChain = Request
