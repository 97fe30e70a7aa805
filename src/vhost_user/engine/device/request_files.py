"""Requests and files: moved by the kernel between the two, and seen through views (see request.pyi)."""

import os

import cython
from cython.cimports.cpython.memoryview import PyMemoryView_FromObject
from cython.cimports.libc.errno import EFAULT, EINTR, errno
from cython.cimports.libc.stdint import int64_t, uint64_t
from cython.cimports.vhost_user.engine.barriers import counter_get, iovec, preadv, pwritev, readv, writev
from cython.cimports.vhost_user.engine.device.chain import Cursor, chain_advance, chain_pass, chain_vectors
from cython.cimports.vhost_user.engine.device.request_files import POLLIN, poll, pollfd
from cython.cimports.vhost_user.engine.device.request_writer import RequestWriter
from cython.cimports.vhost_user.engine.memory.guest_memory import Slot
from cython.cimports.vhost_user.engine.memory.region import MemoryRegion

from vhost_user.engine.errors import RequestError

VECTORS = cython.declare(cython.int, 64)
# What a call of the kernel moves at most, between two looks whether the session still lives.
LONG = cython.declare(uint64_t, 4194304)


@cython.cclass
class RequestFiles(RequestWriter):
    """The part of ``Request`` that hands its buffers to the kernel, or out as views."""

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
                        f"{self.named()}: {length} bytes asked for, the {'writable' if writable else 'readable'} part has {left} left",
                        rule="V014",
                    )
                left = length
            pinned: cython.int = self.enter()
            self.check(cursor, writable, left, pinned)
            current: cython.pointer[int64_t] = cython.address(self.owner.generation)
            with cython.nogil:
                while left > 0:
                    # In pieces, as all long copies: see chain_copy_long.
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
