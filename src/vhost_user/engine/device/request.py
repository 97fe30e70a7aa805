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
from cython.cimports.libc.stdint import INT64_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy
from cython.cimports.vhost_user.engine.barriers import counter_exchange, counter_get, iovec, preadv, pwritev, readv, writev
from cython.cimports.vhost_user.engine.device.chain import (
    Chain,
    Cursor,
    chain_advance,
    chain_fault,
    chain_free,
    chain_new,
    chain_pass,
    chain_read,
    chain_read_long,
    chain_seek,
    chain_seek_end,
    chain_vectors,
    chain_write,
    chain_write_long,
)
from cython.cimports.vhost_user.engine.memory.guest_memory import GuestMemory, MemoryRegion, Slot
from cython.cimports.vhost_user.engine.device.request import COMPLETED, IDLE, IN_FLIGHT, POLLIN, poll, pollfd

from vhost_user.engine.errors import MemoryFault, RequestError

# Copies from this size on are made without the GIL: below it, giving it up costs more than the copy.
LARGE = cython.declare(uint64_t, 65536)
VECTORS = cython.declare(cython.int, 64)
# What a call of the kernel moves at most, between two looks whether the session still lives.
LONG = cython.declare(uint64_t, 4194304)

_Struct = struct.Struct
_WIDTHS = {"b": -1, "B": 1, "h": -2, "H": 2, "i": -4, "I": 4, "l": -4, "L": 4, "q": -8, "Q": 8}


@cython.final
@cython.cclass
class Header:
    """Header(format, into=None)\n--\n\n\
    A fixed request header, compiled once.

    ``Header("<IIQ")`` as for the struct module (little-endian integers b B h H i I q Q and pad x), always
    without alignment: ``"HQ"`` has 10 bytes here, in ``struct`` 16. A device's ``header`` must say ``"<HQ"``.

    ``into`` is called with the fields, and what it returns is ``request.header``: a named tuple or a
    dataclass for example. ``Header(VsockHeader)`` takes the format of a class from its ``LAYOUT`` and makes
    an object of it. Raises ValueError for a format, TypeError for a class, that cannot be used.
    """

    def __init__(self, format, into=None):
        if not isinstance(format, str):
            # A class with a layout of its own, as the structs of vhost_user.spec are.
            if not callable(format) or not isinstance(getattr(format, "LAYOUT", None), _Struct):
                raise TypeError(f"header {format!r}: give a format such as '<IIQ', or a class whose LAYOUT is a struct.Struct")
            into = format if into is None else into
            format = format.LAYOUT.format
        if into is not None and not callable(into):
            raise TypeError(f"header {format!r}: into is {into!r}; give a class, or a function of the fields")
        # Requests decode by it without a look at its bounds: it is made once, and only when all of it is right.
        offsets: cython.int[32]
        widths: cython.int[32]
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
                offsets[count] = min(offset, 256)
                widths[count] = width
                offset += abs(width)
                count += 1
        if not 0 < offset <= 256:
            raise ValueError(f"header {format!r}: {offset} bytes; 1 to 256 are supported")
        with cython.critical_section(self):
            if self.size:
                raise TypeError(f"header {self.format!r} is made already; make another one for {format!r}")
            memcpy(self.offsets, offsets, cython.sizeof(offsets))
            memcpy(self.widths, widths, cython.sizeof(widths))
            self.format = format
            self.into = into
            self.count = count
            self.size = offset

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
    def decode(self, data: cython.pointer[uint8_t]) -> object:
        values: tuple = PyTuple_New(self.count)
        index: cython.int
        for index in range(self.count):
            value = self.number(data, index)
            Py_INCREF(value)
            PyTuple_SET_ITEM(values, index, value)
        if self.into is not None:
            return self.into(*values)
        return values

    def __repr__(self):
        return f"Header({self.format!r})" if self.into is None else f"Header({self.format!r}, into={self.into!r})"


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

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def unlist(self, request: cython.p_void) -> cython.void:
        pass


@cython.final
@cython.cclass
class Request:
    """A descriptor chain made available by the driver: two byte streams across its descriptors.

    Descriptors were copied once and checked (V051). The device-readable part is consumed by ``read*`` and
    ``unpack``, the device-writable part filled by ``write*``; both keep a position. A range that is not
    mapped raises MemoryFault when touched (V011), using a request after completion or after its session
    ended raises RequestError. Complete it exactly once, from any thread, in any order; a second
    ``complete`` raises RequestError, one after the session ended does nothing. Do not keep a request after
    completing it: the object is recycled.
    """

    def __cinit__(self):
        self.chain = chain_new()
        if self.chain == cython.NULL:
            raise MemoryError

    def __del__(self):
        # Dropped by the device without completing it: give the chain back, or the driver and GET_VRING_BASE wait for ever (H49).
        # Not in __dealloc__: of a reference cycle (an error that is kept in a frame it passed is one) the garbage collector
        # has taken `owner` away by then. Finalizers run before that, of everything in the cycle.
        if self.owner is not None:
            if self.listed:
                self.owner.unlist(cython.cast(cython.p_void, self))
            if self.state == IN_FLIGHT and counter_exchange(cython.address(self.state), COMPLETED) == IN_FLIGHT:
                self.owner.lose(self.chain, self.generation)

    def __dealloc__(self):
        chain_free(self.chain)

    @cython.cfunc
    @cython.exceptval(check=False)
    def begin(self, memory: GuestMemory, generation: int64_t) -> cython.void:
        self.snapshot = memory
        self.generation = generation
        self.reading.segment = 0
        self.reading.offset = 0
        self.reading.position = 0
        self.writing = self.reading
        self.gap = -1
        self.reach = 0
        self.tail = 0
        self.taken = 0
        self.copied = False
        self.fields = None
        self.state = IN_FLIGHT

    # ------------------------------------------------------------------ state
    @property
    def queue(self):
        """Index of the queue it came from."""
        return self.owner.index if self.owner is not None else -1

    @property
    def head(self):
        """Head descriptor index (split) or buffer id (packed)."""
        return self.chain.head

    @property
    def readable(self):
        """Device-readable bytes left to read."""
        return self.chain.readable_total - self.reading.position

    @property
    def writable(self):
        """Device-writable bytes left to write."""
        return self.chain.writable_total - self.writing.position

    @property
    def readable_total(self):
        """Bytes of the whole device-readable part."""
        return self.chain.readable_total

    @property
    def writable_total(self):
        """Bytes of the whole device-writable part."""
        return self.chain.writable_total

    @property
    def written(self):
        """Bytes written contiguously from the first writable one: what used.len will say (V014)."""
        return self.used_length()

    @property
    def held(self):
        """Whether ``hold`` was called."""
        return self.taken != 0

    @property
    def holds(self):
        """How many times ``hold`` was called, by the framework or the device."""
        return self.taken

    @property
    def completed(self):
        """Whether it was given back, or taken back by the ring."""
        return self.state == COMPLETED

    @property
    def alive(self):
        """False once the session ended or the ring was stopped without draining.

        Completing then does nothing.
        """
        return self.state == IN_FLIGHT and self.generation == counter_get(cython.address(self.owner.generation))

    @property
    def error(self):
        """What kept a call of its Batch from serving it; None while nothing did."""
        with cython.critical_section(self):
            return self.problem

    @property
    def user_data(self):
        """Free for the device; None at first."""
        with cython.critical_section(self):
            return self.data

    @user_data.setter
    def user_data(self, value):
        with cython.critical_section(self):
            before = self.data
            self.data = value
        del before

    def hold(self):
        """Take the request over: returning from ``handle`` does not complete it.

        Somebody calls ``complete`` later.
        """
        self.taken += 1

    def complete(self, written=-1, /):
        """Give the chain back to the driver, and notify it if it wants to be.

        The driver is told that ``written`` bytes were written, by default as many as were.
        """
        length: uint64_t = self.conclude(written)
        self.owner.finish(self.chain, self.generation, length)

    @cython.cfunc
    def conclude(self, written) -> uint64_t:
        """The end of it, once; what used.len will say."""
        if self.state != IN_FLIGHT or counter_exchange(cython.address(self.state), COMPLETED) != IN_FLIGHT:
            raise RequestError(f"queue {self.queue}, head {self.head}: this request is complete already", rule="V021")
        if written < 0:
            with cython.critical_section(self):
                return self.used_length()
        # Never more than the driver made writable (V014).
        length: uint64_t = min(int(written), int(self.chain.writable_total))
        with cython.critical_section(self):
            self.mark_to(length)
        return length

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def mark_to(self, length: uint64_t) -> cython.void:
        """Whoever says a length has written so much, through views for what this request does not know of (C078)."""
        cursor: Cursor = self.writing
        if length > cursor.position and self.snapshot is not None:
            chain_advance(self.chain, self.snapshot, cython.address(cursor), True, length - cursor.position)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def used_length(self) -> uint64_t:
        total: uint64_t = self.chain.writable_total
        length: uint64_t = self.used_so_far()
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
        if not self.snapshot.pin():
            raise RequestError(f"queue {self.queue}, head {self.head}: used after its session ended", rule="C134")
        if self.generation != counter_get(cython.address(self.owner.generation)):
            self.snapshot.unpin()
            raise RequestError(f"queue {self.queue}, head {self.head}: used after its session ended", rule="C134")
        return 1

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def leave(self, pinned: cython.int) -> cython.void:
        if pinned:
            self.snapshot.unpin()

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def ended(self, pinned: cython.int) -> cython.int:
        """A long copy found its session over on the way: leave, and say so."""
        self.leave(pinned)
        raise RequestError(f"queue {self.queue}, head {self.head}: its session ended while it was copied", rule="C134")

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
        """The fields of the queue's declared Header: a tuple of numbers, or what its ``into`` makes of them.

        Decoded from the first bytes of the readable part: read once, the position moves past it at the
        first access. Raises RequestError if the part is shorter or no header was declared.
        """
        with cython.critical_section(self):
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

    def read(self, length=-1, /):
        """The next ``length`` readable bytes (all that are left if negative; fewer at the end).

        The guest decides how many are left, up to 4 GiB. Without a length at most ``Vring.max_read`` are
        given, 16 MiB unless the device says otherwise; RequestError if there are more.
        """
        left: uint64_t = self.left()
        size: uint64_t = left if length < 0 or length > left else length
        if length < 0 and size > LARGE:
            self.check_limit(size)
        if not self.at_home():
            # Nothing is allocated for what cannot be read.
            pinned: cython.int = self.enter()
            self.check(cython.address(self.reading), False, size, pinned)
            self.leave(pinned)
        result = PyBytes_FromStringAndSize(cython.NULL, size)
        done: uint64_t = self.take(PyBytes_AS_STRING(result), size)
        # Less only if another thread reads the same request.
        return result if done == size else result[:done]

    @cython.cfunc
    def check_limit(self, size: uint64_t):
        """How long a request is, the guest decides; how much memory that may cost, the device does."""
        most: uint64_t = counter_get(cython.address(self.owner.read_limit)) if self.owner is not None else 0
        if size > most:
            raise RequestError(
                f"queue {self.queue}, head {self.head}: read() without a length gives at most {most} bytes, and {size} are left: "
                "read a length of your own, use read_to or readable_views, or raise max_read of the vring",
                rule="V012",
            )

    def read_into(self, buffer, /):
        """Fill ``buffer`` from the readable part; returns the number of bytes copied."""
        return self.read_to(buffer)

    def unpack(self, format, /):
        """Read and unpack exactly that many bytes; raises RequestError if fewer are left."""
        layout = format if isinstance(format, _Struct) else _Struct(format)
        if self.readable < layout.size:
            raise RequestError(
                f"queue {self.queue}, head {self.head}: {self.readable} readable bytes left, {layout.format!r} needs {layout.size}",
                rule="V009",
            )
        return layout.unpack(self.read(layout.size))

    def read_to(self, target, offset: int64_t = 0, length: int64_t = -1, /):
        """Copy the next readable bytes straight into ``target`` at ``offset``."""
        view: cython.Py_buffer
        PyObject_GetBuffer(target, cython.address(view), PyBUF_SIMPLE | PyBUF_WRITABLE)
        try:
            if offset < 0 or offset > view.len:
                raise ValueError(f"offset {offset} is outside of the target of {view.len} bytes")
            size: uint64_t = self.left()
            if length >= 0 and cython.cast(uint64_t, length) < size:
                size = length
            if size > cython.cast(uint64_t, view.len - offset):
                size = view.len - offset
            return self.take(cython.cast(cython.p_char, view.buf) + offset, size)
        finally:
            PyBuffer_Release(cython.address(view))

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
                    whole = chain_read_long(self.chain, cython.address(cursor), to, size, current, self.generation)
                if not whole:
                    self.ended(pinned)
            else:
                chain_read(self.chain, cython.address(cursor), to, size)
            self.reading = cursor
            self.leave(pinned)
        return size

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def left(self) -> uint64_t:
        return self.chain.readable_total - self.reading.position

    def skip_readable(self, length, /):
        """Move over ``length`` readable bytes; RequestError if fewer are left."""
        if length < 0 or length > self.readable:
            raise RequestError(f"queue {self.queue}, head {self.head}: cannot skip {length} of {self.readable} readable bytes", rule="V009")
        size: uint64_t = length
        with cython.critical_section(self):
            chain_advance(self.chain, None, cython.address(self.reading), False, size)

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
        # Critical section and cursor as in `take`.
        with cython.critical_section(self):
            cursor: Cursor = self.writing
            if length > self.chain.writable_total - cursor.position:
                raise RequestError(
                    f"queue {self.queue}, head {self.head}: {length} bytes do not fit, {self.writable} writable bytes are left", rule="V014"
                )
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
                whole = chain_write_long(self.chain, self.snapshot, cursor, source, length, fill, current, self.generation)
            if not whole:
                self.ended(pinned)
        else:
            chain_write(self.chain, self.snapshot, cursor, source, length, fill)
        self.leave(pinned)
        return 0

    def write(self, data, /):
        """Append to the writable part. Raises RequestError if it does not fit (nothing is written then)."""
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

    def pack(self, format, /, *values):
        """Write values packed as the struct module does; returns their size in bytes. Raises as ``write``."""
        layout = format if isinstance(format, _Struct) else _Struct(format)
        return self.write(layout.pack(*values))

    def fill(self, byte: cython.int, length: int64_t = -1, /, *, keep: int64_t = 0):
        """Write the same byte ``length`` times.

        A negative ``length`` fills the writable part to its end, but for the last ``keep`` bytes.
        """
        if not 0 <= byte <= 255 or keep < 0:
            raise ValueError(f"byte {byte}, {keep} bytes to keep")
        size: uint64_t = self.room(keep) if length < 0 else length
        self.put(cython.NULL, size, byte)
        return size

    def write_from(self, source, offset: int64_t = 0, length: int64_t = -1, /, *, keep: int64_t = -1):
        """Copy ``length`` bytes of ``source`` from ``offset`` on straight into guest memory.

        If that is negative, the rest of ``source``; with ``keep``, as many as fill the writable part but for
        its last ``keep`` bytes. Large ones without the GIL.
        """
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

    def write_last(self, data, /):
        """Write to the end of the writable part (a trailing status field) without moving the position.

        Counted in ``written`` when everything before it was written.
        """
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

    def write_at(self, position, data, /):
        """Write into the writable part from ``position`` on, which counts from its beginning, and mark it dirty.

        The position of the stream stays: for a header that is known only after the data, with
        ``skip_writable`` first. Filling the gap makes ``written`` count on after it. Raises RequestError,
        with nothing written, if the part is shorter.
        """
        view: cython.Py_buffer
        cursor: Cursor
        PyObject_GetBuffer(data, cython.address(view), PyBUF_SIMPLE)
        try:
            if position < 0 or position + view.len > self.chain.writable_total:
                raise RequestError(
                    f"queue {self.queue}, head {self.head}: {view.len} bytes at {position} are outside of the writable part of "
                    f"{self.chain.writable_total} bytes",
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
    @cython.nogil
    @cython.exceptval(check=False)
    def used_so_far(self) -> int64_t:
        """Bytes written from the first one on without a gap, but for what write_last wrote."""
        length: uint64_t = self.writing.position if self.gap < 0 else cython.cast(uint64_t, self.gap)
        return self.reach if self.reach > length else length

    def read_at(self, position, length, /):
        """Exactly ``length`` bytes of the readable part from ``position`` on, which counts from its beginning.

        The position of the stream stays. Raises RequestError if the part is shorter.
        """
        cursor: Cursor
        if position < 0 or length < 0 or position + length > self.chain.readable_total:
            raise RequestError(
                f"queue {self.queue}, head {self.head}: {length} bytes at {position} are outside of the readable part of "
                f"{self.chain.readable_total} bytes",
                rule="V009",
            )
        size: uint64_t = length
        chain_seek(self.chain, cython.address(cursor), False, position)
        pinned: cython.int = self.enter()
        self.check(cython.address(cursor), False, size, pinned)
        self.leave(pinned)
        result = PyBytes_FromStringAndSize(cython.NULL, size)
        to: cython.p_char = PyBytes_AS_STRING(result)
        pinned = self.enter()
        current: cython.pointer[int64_t] = cython.address(self.owner.generation)
        whole: cython.bint
        with cython.nogil:
            whole = chain_read_long(self.chain, cython.address(cursor), to, size, current, self.generation)
        if not whole:
            self.ended(pinned)
        self.leave(pinned)
        return result

    def skip_writable(self, length, /):
        """Leave a gap: ``written`` stops counting there."""
        if length < 0 or length > self.writable:
            raise RequestError(f"queue {self.queue}, head {self.head}: cannot skip {length} of {self.writable} writable bytes", rule="V014")
        size: uint64_t = length
        with cython.critical_section(self):
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

    def advance_writable(self, length, /):
        """Count ``length`` bytes that were written through ``writable_views``, and mark them dirty."""
        if length < 0 or length > self.writable:
            raise RequestError(f"queue {self.queue}, head {self.head}: {length} of {self.writable} writable bytes", rule="V014")
        size: uint64_t = length
        with cython.critical_section(self):
            pinned: cython.int = self.enter()
            chain_advance(self.chain, self.snapshot, cython.address(self.writing), True, size)
            self.leave(pinned)

    # ------------------------------------------------------------------ files and views
    def write_from_file(self, fd, offset, length=-1, /):
        """``preadv`` from the file straight into guest memory.

        Returns the bytes moved (short at end of file). ``offset`` -1 reads at the file's own position
        (pipes, sockets, character devices). Raises OSError; MemoryFault on EFAULT.
        """
        return self.move_file(fd, offset, length, True)

    def read_to_file(self, fd, offset, length=-1, /):
        """``pwritev`` from guest memory straight to the file. Same rules."""
        return self.move_file(fd, offset, length, False)

    @cython.cfunc
    def move_file(self, fd: cython.int, offset: int64_t, length: int64_t, writable: cython.bint):
        vectors: iovec[64]
        batch: uint64_t = 0
        moved: cython.Py_ssize_t = 0
        total: uint64_t = 0
        count: cython.int
        problem: cython.int = 0
        alive: cython.bint = True
        ready: pollfd
        # Critical section and cursor as in `take`.
        with cython.critical_section(self):
            place: Cursor = self.writing if writable else self.reading
            cursor: cython.pointer[Cursor] = cython.address(place)
            left: uint64_t = (self.chain.writable_total if writable else self.chain.readable_total) - cursor.position
            if length >= 0:
                if cython.cast(uint64_t, length) > left:
                    raise RequestError(
                        f"queue {self.queue}, head {self.head}: {length} bytes asked for, the {'writable' if writable else 'readable'} part has {left} left",
                        rule="V014",
                    )
                left = length
            pinned: cython.int = self.enter()
            self.check(cursor, writable, left, pinned)
            current: cython.pointer[int64_t] = cython.address(self.owner.generation)
            with cython.nogil:
                while left > 0:
                    # In pieces, as all long copies: see chain_read_long.
                    alive = counter_get(current) == self.generation
                    if not alive:
                        break
                    if offset < 0 and writable and total > 0:
                        # A stream that has no more now must not be waited for, just because a piece came out even.
                        ready.fd = fd
                        ready.events = POLLIN
                        if poll(cython.address(ready), 1, 0) <= 0:
                            break
                    batch = LONG if left > LONG else left
                    count = chain_vectors(self.chain, cursor, writable, batch, vectors, VECTORS, cython.address(batch))
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
                    chain_advance(self.chain, self.snapshot, cursor, writable, moved)
                    total += moved
                    left -= moved
                    # Short: end of file, or a stream that has no more now.
                    if cython.cast(uint64_t, moved) < batch:
                        break
            if writable:
                self.writing = place
            else:
                self.reading = place
            if not alive:
                self.ended(pinned)
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
        """Read-only views of what is left of the readable part, one a segment.

        They keep the memory mapped.
        """
        return self.views(False)

    def writable_views(self):
        """Writable views of what is left of the writable part.

        Tell ``advance_writable`` how much was written: that marks the pages dirty.
        """
        return self.views(True)

    @cython.cfunc
    def views(self, writable: cython.bint) -> list:
        cursor: Cursor
        with cython.critical_section(self):
            cursor = self.writing if writable else self.reading
        return self.views_from(cursor, writable, (self.chain.writable_total if writable else self.chain.readable_total) - cursor.position)

    @cython.cfunc
    def views_from(self, cursor: Cursor, writable: cython.bint, length: uint64_t) -> list:
        first: cython.int = self.chain.readable_count if writable else 0
        last: cython.int = self.chain.count if writable else self.chain.readable_count
        pinned: cython.int = self.enter()
        self.check(cython.address(cursor), writable, length, pinned)
        result: list = []
        region: MemoryRegion
        slot: cython.pointer[Slot]
        try:
            while length > 0 and first + cursor.segment < last:
                address = self.chain.addresses[first + cursor.segment] + cursor.offset
                run: uint64_t = self.chain.segments[first + cursor.segment].iov_len - cursor.offset
                if run > length:
                    run = length
                # Pinned: the regions are there, in the order of the table; the segment lies whole in one of them.
                slot = self.snapshot.find(address)
                region = self.snapshot.mapped_regions[slot - self.snapshot.table]
                start = address - region.guest_address
                # Through the region's own buffer, so that the view keeps the mapping alive.
                view = PyMemoryView_FromObject(region)[start : start + run]
                result.append(view if writable else view.toreadonly())
                length -= run
                chain_pass(cython.address(cursor), run, self.chain.segments[first + cursor.segment].iov_len)
        finally:
            self.leave(pinned)
        return result

    # ------------------------------------------------------------------ what it is made of
    def memory(self):
        """The snapshot of guest memory that the chain was translated with; RequestError once it is complete."""
        with cython.critical_section(self):
            snapshot = self.snapshot
        if self.state != IN_FLIGHT or snapshot is None:
            raise RequestError(f"queue {self.queue}, head {self.head}: used after it was completed", rule="V036")
        return snapshot

    def segments(self):
        """Guest address, length in bytes and whether the device writes it, of each segment in order.

        Descriptors of length 0 are not among them, and one that lies in several memory regions is several.
        """
        return [
            (self.chain.addresses[segment], self.chain.segments[segment].iov_len, segment >= self.chain.readable_count)
            for segment in range(self.chain.count)
        ]

    def split_readable_at(self, offset, /):
        """What is left of the readable part, in two: the first ``offset`` bytes, and the rest.

        Each has a position of its own, and the request's stays. Raises RequestError if fewer are left.
        """
        return self.split(offset, False)

    def split_writable_at(self, offset, /):
        """What is left of the writable part, in two, in the same way.

        What is written through them counts in ``written`` as with ``write_at``.
        """
        return self.split(offset, True)

    @cython.cfunc
    def split(self, offset, writable: cython.bint) -> tuple:
        with cython.critical_section(self):
            start: uint64_t = self.writing.position if writable else self.reading.position
        end: uint64_t = self.chain.writable_total if writable else self.chain.readable_total
        if not 0 <= offset <= end - start:
            raise RequestError(
                f"queue {self.queue}, head {self.head}: cannot split {end - start} {'writable' if writable else 'readable'} bytes at {offset}",
                rule="V014" if writable else "V009",
            )
        kind = WritablePart if writable else ReadablePart
        return kind(self, start, start + offset), kind(self, start + offset, end)

    def describe(self):
        """The chain in words, for logs and failure output."""
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


@cython.cclass
class RequestPart:
    """A stretch of the readable or writable part of a request, with a position of its own."""

    def __init__(self, request: Request, start, end):
        if request is None or self.request is not None:
            raise TypeError("parts are made by Request.split_readable_at and split_writable_at")
        if not 0 <= start <= end <= (request.chain.writable_total if self.writes() else request.chain.readable_total):
            raise ValueError(f"bytes {start} to {end} are outside of the part")
        self.request = request
        self.first = start
        self.place = start
        self.last = end

    @cython.cfunc
    def writes(self) -> cython.bint:
        return False

    @property
    def position(self):
        """Bytes of it that were read, written or skipped."""
        return self.place - self.first

    @property
    def left(self):
        """Bytes of it that were not."""
        return self.last - self.place

    def __len__(self):
        return self.last - self.first

    @cython.cfunc
    def claim(self, length) -> uint64_t:
        """Move over so many bytes, and say where they begin. In one step: two threads never get the same ones."""
        with cython.critical_section(self):
            start: uint64_t = self.place
            if not 0 <= length <= self.last - start:
                raise RequestError(
                    f"queue {self.request.queue}, head {self.request.head}: {length} bytes of a part that has {self.last - start} left",
                    rule="V014" if self.writes() else "V009",
                )
            self.place = start + cython.cast(uint64_t, length)
        return start

    def skip(self, length, /):
        """Move over so many bytes; RequestError if fewer are left."""
        self.claim(length)

    def views(self):
        """Views of what is left, one a segment, as ``Request.readable_views`` or ``writable_views``."""
        cursor: Cursor
        with cython.critical_section(self):
            start: uint64_t = self.place
        chain_seek(self.request.chain, cython.address(cursor), self.writes(), start)
        return self.request.views_from(cursor, self.writes(), self.last - start)

    def split_at(self, offset, /):
        """What is left, in two: the first ``offset`` bytes, and the rest."""
        with cython.critical_section(self):
            start: uint64_t = self.place
        if not 0 <= offset <= self.last - start:
            raise RequestError(
                f"queue {self.request.queue}, head {self.request.head}: cannot split {self.last - start} bytes at {offset}",
                rule="V014" if self.writes() else "V009",
            )
        return type(self)(self.request, start, start + offset), type(self)(self.request, start + offset, self.last)


@cython.final
@cython.cclass
class ReadablePart(RequestPart):
    """A stretch of the readable part of a request."""

    def read(self, length=-1, /):
        """The next ``length`` bytes (all that are left if negative, as ``Request.read``; fewer at the end)."""
        if length < 0:
            length = self.last - self.place
            if length > LARGE:
                self.request.check_limit(length)
        elif length > self.last - self.place:
            length = self.last - self.place
        return self.request.read_at(self.claim(length), length)


@cython.final
@cython.cclass
class WritablePart(RequestPart):
    """A stretch of the writable part of a request."""

    @cython.cfunc
    def writes(self) -> cython.bint:
        return True

    def write(self, data, /):
        """Write the next bytes, and mark them dirty; RequestError if they do not fit."""
        with memoryview(data) as view:
            return self.request.write_at(self.claim(view.nbytes), view)


DescriptorChain = Request
