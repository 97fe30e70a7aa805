"""One request: a descriptor chain with the copies in and out and its completion (types: request.pyi).

What is known of it is in request_state.py, its two parts in request_reader.py and request_writer.py; here are files, views and
stretches of it.
"""

import os

import cython
from cython.cimports.cpython.memoryview import PyMemoryView_FromObject
from cython.cimports.libc.errno import EFAULT, EINTR, errno
from cython.cimports.libc.stdint import int64_t, uint64_t
from cython.cimports.vhost_user.engine.barriers import counter_exchange, counter_get, iovec, preadv, pwritev, readv, writev
from cython.cimports.vhost_user.engine.device.chain import Cursor, chain_advance, chain_pass, chain_seek, chain_vectors
from cython.cimports.vhost_user.engine.device.request import POLLIN, poll, pollfd
from cython.cimports.vhost_user.engine.device.request_state import COMPLETED, IDLE, IN_FLIGHT, LARGE
from cython.cimports.vhost_user.engine.device.request_writer import RequestWriter
from cython.cimports.vhost_user.engine.memory.guest_memory import Slot
from cython.cimports.vhost_user.engine.memory.region import MemoryRegion

from vhost_user.engine.errors import RequestError

VECTORS = cython.declare(cython.int, 64)
# What a call of the kernel moves at most, between two looks whether the session still lives.
LONG = cython.declare(uint64_t, 4194304)


@cython.final
@cython.cclass
class Request(RequestWriter):
    """A descriptor chain made available by the driver: two byte streams across its descriptors.

    Descriptors were copied once and checked (V051). The device-readable part is consumed by ``read*`` and
    ``unpack``, the device-writable part filled by ``write*``; both keep a position. A range that is not
    mapped raises MemoryFault when touched (V011), using a request after completion or after its session
    ended raises RequestError. Complete it exactly once, from any thread, in any order; a second
    ``complete`` raises RequestError, one after the session ended does nothing. Do not keep a request after
    completing it: the object is recycled.
    """

    def __del__(self):
        # Dropped by the device without completing it: give the chain back, or the driver and GET_VRING_BASE wait for ever (H49).
        # Not in __dealloc__: of a reference cycle (an error that is kept in a frame it passed is one) the garbage collector
        # has taken `owner` away by then. Finalizers run before that, of everything in the cycle.
        if self.owner is not None:
            if self.listed:
                self.owner.unlist(cython.cast(cython.p_void, self))
            if self.state == IN_FLIGHT and counter_exchange(cython.address(self.state), COMPLETED) == IN_FLIGHT:
                self.owner.lose(self.chain, self.generation)

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
