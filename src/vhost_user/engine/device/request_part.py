"""Stretches of the two parts of a request, each with a position of its own (types: request_part.pyi)."""

import cython
from cython.cimports.libc.stdint import uint64_t
from cython.cimports.vhost_user.engine.device.chain import Cursor, chain_seek
from cython.cimports.vhost_user.engine.device.request_files import RequestFiles
from cython.cimports.vhost_user.engine.device.request_state import LARGE, number_of_bytes

from vhost_user.engine.errors import RequestError


@cython.cclass
class RequestPart:
    """A stretch of the readable or writable part of a request, with a position of its own."""

    def __cinit__(self, request: RequestFiles, start, end):
        # Never None, whatever becomes of __init__.
        self.request = request

    def __init__(self, request: RequestFiles, start, end):
        if self.made or request is not self.request:
            raise TypeError("parts are made by Request.split_readable_at and split_writable_at")
        if not 0 <= start <= end <= (request.chain.writable_total if self.writes() else request.chain.readable_total):
            raise ValueError(f"bytes {start} to {end} are outside of the part")
        self.made = True
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
        size: uint64_t = number_of_bytes(length)
        with cython.critical_section(self):
            start: uint64_t = self.place
            if size > self.last - start:
                raise RequestError(
                    f"{self.request.named()}: {length} bytes of a part that has {self.last - start} left",
                    rule="V014" if self.writes() else "V009",
                )
            self.place = start + size
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
                f"{self.request.named()}: cannot split {self.last - start} {'writable' if self.writes() else 'readable'} bytes at {offset}",
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
        return self.request.bytes_at(self.claim(length), length)


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
            return self.request.put_at(self.claim(view.nbytes), view)
