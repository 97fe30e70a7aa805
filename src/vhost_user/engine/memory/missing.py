"""Pages of guest memory that have not come yet, while a guest migrates by post-copy (types: missing.pyi)."""

# Two invariants keep everybody from waiting where nobody may:
# - An access through our own mapping never waits for a page. Missing ones are watched by a userfaultfd of our own, and an
#   access to one is a SIGBUS: the region is lost, as when the front-end truncates it, and the session ends. So the worst of
#   a page that somebody forgot to ask for is that, and never a page of zeros in the guest's memory.
# - Pages are waited for in `bring` only, with neither the GIL nor a vring's mutex. The fault itself happens in another
#   process, the pager: we wait for its answer, and whoever shuts the socket down ends the wait.

import os

import cython
from cython.cimports.libc.errno import errno
from cython.cimports.libc.stdint import int64_t, uint8_t, uint64_t
from cython.cimports.posix.unistd import close
from cython.cimports.vhost_user.engine.barriers import (
    counter_add,
    counter_get,
    counter_set,
    fetch_or_8,
    load_8,
    lock_destroy,
    lock_init,
    lock_nogil,
    unlock,
)
from cython.cimports.vhost_user.engine.memory.missing import (
    COMING,
    COMPLETE,
    GIVEN_UP,
    PAGE_BITS,
    SHUT_RDWR,
    Arrivals,
    shutdown,
    vu_ask,
    vu_userfaultfd,
)

# Pages that are asked for at a time.
RUN = cython.declare(uint64_t, 256)


def obstacle():
    """Why this process can have no userfaultfd that watches shared memory, in words; None if it can."""
    fd: cython.int = vu_userfaultfd()
    if fd >= 0:
        close(fd)
        return None
    return f"userfaultfd: {os.strerror(errno)}"


@cython.final
@cython.cclass
class MissingPages:
    """MissingPages(channel)\n--\n\n\
    The pages of a session that have not come yet. ``channel`` is the pager's socket for questions, taken over.

    Raises OSError when there can be no userfaultfd.
    """

    def __cinit__(self, channel):
        lock_init(cython.address(self.asking))
        self.channel = -1
        self.watch = -1

    def __init__(self, channel):
        if self.watch >= 0:
            raise RuntimeError("this is made once")
        watch: cython.int = vu_userfaultfd()
        if watch < 0:
            number = errno
            raise OSError(number, os.strerror(number))
        self.watch = watch
        self.channel = channel

    def __dealloc__(self):
        if self.channel >= 0:
            close(self.channel)
        if self.watch >= 0:
            close(self.watch)
        lock_destroy(cython.address(self.asking))

    @property
    def coming(self):
        """Whether pages may still be missing, and somebody brings them."""
        return counter_get(cython.address(self.stage)) == COMING

    @property
    def given_up(self):
        """Whether some were missing when the end came, or when the pager failed."""
        return counter_get(cython.address(self.stage)) == GIVEN_UP

    @property
    def asked(self):
        """How many pages the pager was asked for, and brought; most of them may have been here before."""
        return counter_get(cython.address(self.asked_for))

    def complete(self):
        """All pages are here: nobody asks any more (C120)."""
        if counter_get(cython.address(self.stage)) == COMING:
            counter_set(cython.address(self.stage), COMPLETE)
            self.end_waits()

    def give_up(self):
        """Nobody brings pages any more: whoever waits for some goes on without. Does not wait."""
        if counter_get(cython.address(self.stage)) == COMING:
            counter_set(cython.address(self.stage), GIVEN_UP)
            self.end_waits()

    @cython.cfunc
    def end_waits(self):
        # The descriptor stays open as long as anybody may wait with it: closed, its number could be another's.
        shutdown(self.channel, SHUT_RDWR)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def present(self, arrivals: cython.pointer[Arrivals], offset: uint64_t, length: uint64_t) -> cython.bint:
        """Whether this part of a region, which is not empty, is known to be here."""
        page: uint64_t = (arrivals.ahead + offset) >> PAGE_BITS
        last: uint64_t = (arrivals.ahead + offset + length - 1) >> PAGE_BITS
        while page <= last:
            if not load_8(arrivals.here + (page >> 3)) >> (page & 7) & 1:
                return counter_get(cython.address(self.stage)) == COMPLETE
            page += 1
        return True

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def bring(self, arrivals: cython.pointer[Arrivals], offset: uint64_t, length: uint64_t) -> cython.bint:
        """Wait until this part of a region is here; False when it never will be. Without the GIL and without a mutex."""
        page: uint64_t = (arrivals.ahead + offset) >> PAGE_BITS
        last: uint64_t = (arrivals.ahead + offset + length - 1) >> PAGE_BITS
        first: uint64_t
        answered: cython.bint
        while page <= last:
            if load_8(arrivals.here + (page >> 3)) >> (page & 7) & 1:
                page += 1
                continue
            first = page
            while page <= last and page - first < RUN and not load_8(arrivals.here + (page >> 3)) >> (page & 7) & 1:
                page += 1
            if counter_get(cython.address(self.stage)) != COMING:
                return counter_get(cython.address(self.stage)) == COMPLETE
            lock_nogil(cython.address(self.asking))
            answered = (
                counter_get(cython.address(self.stage)) == COMING
                and vu_ask(self.channel, arrivals.number, first << PAGE_BITS, (page - first) << PAGE_BITS) != 0
            )
            unlock(cython.address(self.asking))
            if not answered:
                # The end came, or the pager is gone; the session looks after that.
                return counter_get(cython.address(self.stage)) == COMPLETE
            counter_add(cython.address(self.asked_for), cython.cast(int64_t, page - first))
            while first < page:
                fetch_or_8(arrivals.here + (first >> 3), cython.cast(uint8_t, 1 << (first & 7)))
                first += 1
        return True
