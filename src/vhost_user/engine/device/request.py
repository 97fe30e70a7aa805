"""One request: a descriptor chain with the copies in and out and its completion (types: request.pyi).

Its methods stand here together, because Python calls those of a class itself faster than what the class inherits. What they
do is in request_state.py, request_reader.py, request_writer.py and request_files.py.
"""

import struct

import cython
from cython.cimports.cpython.buffer import PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cython.cimports.cpython.bytes import PyBytes_AS_STRING
from cython.cimports.libc.stdint import int64_t, uint64_t
from cython.cimports.vhost_user.engine.barriers import counter_exchange, counter_get
from cython.cimports.vhost_user.engine.device.chain import chain_advance
from cython.cimports.vhost_user.engine.device.request_files import RequestFiles
from cython.cimports.vhost_user.engine.device.request_part import ReadablePart, WritablePart
from cython.cimports.vhost_user.engine.device.request_state import COMPLETED, IDLE, IN_FLIGHT, number_of_bytes

from vhost_user.engine.errors import RequestError

_Struct = struct.Struct


@cython.final
@cython.cclass
class Request(RequestFiles):
    """A descriptor chain made available by the driver: two byte streams across its descriptors.

    Descriptors were copied once and checked (V051). The device-readable part is consumed by ``read*`` and
    ``unpack``, the device-writable part filled by ``write*``; both keep a position. A range that is not
    mapped raises MemoryFault when touched (V011), using a request after completion or after its session
    ended raises RequestError. Complete it exactly once, from any thread, in any order; a second
    ``complete`` raises RequestError, one after the session ended does nothing. The object is used again for
    another request once nobody has a reference to it.
    """

    def __del__(self):
        # Dropped by the device without completing it: give the chain back, or the driver and GET_VRING_BASE wait for ever (H49).
        # Not in __dealloc__: of a reference cycle (an error that is kept in a frame it passed is one) the garbage collector
        # has taken `owner` away by then. Finalizers run before that, of everything in the cycle.
        if self.owner is not None:
            if self.listed:
                self.unlist()
            if self.state == IN_FLIGHT and counter_exchange(cython.address(self.state), COMPLETED) == IN_FLIGHT:
                self.owner.lose(self.chain, self.generation)

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

    # ------------------------------------------------------------------ readable part
    @property
    def header(self):
        """The fields of the queue's declared Header: a tuple of numbers, or what its ``into`` makes of them.

        Decoded from the first bytes of the readable part: read once, the position moves past it at the
        first access. Raises RequestError if the part is shorter or no header was declared.
        """
        return self.decoded()

    @cython.final
    @cython.cfunc
    def decoded(self):
        with cython.critical_section(self):
            if self.fields is None:
                self.copy_header()
                fields = self.layout.decode(self.head_bytes)
                # What makes them is the device's, and may wait: somebody else has been here then, and all see the same.
                if self.fields is None:
                    self.fields = fields
            return self.fields

    def read(self, length=-1, /):
        """The next ``length`` readable bytes (all that are left if negative; fewer at the end).

        The guest decides how many are left, up to 4 GiB. Without a length at most ``Vring.max_read`` are
        given, 16 MiB unless the device says otherwise; RequestError if there are more.
        """
        if length < 0:
            return self.rest()
        left: uint64_t = self.left()
        return self.next_bytes(left if length > left else length)

    def read_at(self, position, length, /):
        """Exactly ``length`` bytes of the readable part from ``position`` on, which counts from its beginning.

        The position of the stream stays. Raises RequestError if the part is shorter.
        """
        return self.bytes_at(position, length)

    def read_into(self, buffer, /):
        """Fill ``buffer`` from the readable part; returns the number of bytes copied."""
        return self.read_to(buffer)

    def unpack(self, format, /):
        """Read and unpack exactly that many bytes; raises RequestError if fewer are left."""
        layout = format if isinstance(format, _Struct) else _Struct(format)
        if self.readable < layout.size:
            raise RequestError(
                f"{self.named()}: {self.readable} readable bytes left, {layout.format!r} needs {layout.size}",
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

    def skip_readable(self, length, /):
        """Move over ``length`` readable bytes; RequestError if fewer are left."""
        size: uint64_t = number_of_bytes(length)
        with cython.critical_section(self):
            if size > self.left():
                raise RequestError(f"{self.named()}: cannot skip {length} of {self.left()} readable bytes", rule="V009")
            chain_advance(self.chain, None, cython.address(self.reading), False, size)

    # ------------------------------------------------------------------ writable part
    def write(self, data, /):
        """Append to the writable part. Raises RequestError if it does not fit (nothing is written then)."""
        return self.append(data)

    @cython.final
    @cython.cfunc
    def append(self, data):
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

    def write_at(self, position, data, /):
        """Write into the writable part from ``position`` on, which counts from its beginning, and mark it dirty.

        The position of the stream stays: for a header that is known only after the data, with
        ``skip_writable`` first. Filling the gap makes ``written`` count on after it. Raises RequestError,
        with nothing written, if the part is shorter.
        """
        return self.put_at(position, data)

    def skip_writable(self, length, /):
        """Leave a gap: ``written`` stops counting there."""
        self.leave_gap(length)

    def advance_writable(self, length, /):
        """Count ``length`` bytes that were written through ``writable_views``, and mark them dirty."""
        size: uint64_t = number_of_bytes(length)
        with cython.critical_section(self):
            if size > self.room(0):
                raise RequestError(f"{self.named()}: {length} of {self.room(0)} writable bytes", rule="V014")
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
        """``pwritev`` from guest memory straight to the file: ``offset``, result and errors as for ``write_from_file``."""
        return self.move_file(fd, offset, length, False)

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

    # ------------------------------------------------------------------ what it is made of
    def memory(self):
        """The snapshot of guest memory that the chain was translated with; RequestError once it is complete."""
        with cython.critical_section(self):
            snapshot = self.snapshot
        if self.state != IN_FLIGHT or snapshot is None:
            raise RequestError(f"{self.named()}: used after it was completed", rule="V036")
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
        if writable:
            return WritablePart(self, start, self.chain.writable_total).split_at(offset)
        return ReadablePart(self, start, self.chain.readable_total).split_at(offset)

    def describe(self):
        """The chain in words, for logs and failure output."""
        return self.described()

    def __repr__(self):
        state = {IDLE: "idle", IN_FLIGHT: "in flight", COMPLETED: "completed"}[counter_get(cython.address(self.state))]
        return f"<Request queue {self.queue} head {self.head} {state}: {self.chain.readable_total} readable, {self.chain.writable_total} writable>"


DescriptorChain = Request
