"""What is known of a request, and how it is entered, left and completed (types: request_state.pyi)."""

# Every access enters (the session lives, the request is in flight), pins the snapshot, checks the whole range for unmapped
# segments, copies, and unpins. Lengths were bounded by the totals before, so no copy can pass the end of a segment.

import cython
from cython.cimports.libc.stdint import UINT64_MAX, int64_t, uint64_t
from cython.cimports.vhost_user.engine.barriers import counter_exchange, counter_get, lock_nogil, unlock
from cython.cimports.vhost_user.engine.device.chain import Chain, Cursor, chain_advance, chain_fault, chain_free, chain_new
from cython.cimports.vhost_user.engine.device.request_state import COMPLETED, IN_FLIGHT
from cython.cimports.vhost_user.engine.device.ring import MAX_CHAIN_BYTES
from cython.cimports.vhost_user.engine.memory.guest_memory import GuestMemory

from vhost_user.engine.errors import MemoryFault, RequestError


@cython.cfunc
@cython.exceptval(1, check=True)
def number_of_bytes(length) -> uint64_t:
    """A length that a caller gave, for a comparison in a critical section; one that is not a length at all is more
    than any chain has.

    Comparing objects may run Python code, which may let go of the section.
    """
    most: uint64_t = MAX_CHAIN_BYTES
    return length if 0 <= length <= most else UINT64_MAX


@cython.cclass
class RequestState:
    """The part of ``Request`` that is about its life: in flight, held, completed."""

    def __cinit__(self):
        self.chain = chain_new()
        if self.chain == cython.NULL:
            raise MemoryError

    def __dealloc__(self):
        chain_free(self.chain)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def unlist(self) -> cython.void:
        """It leaves the list of those that pop gave out."""
        lock_nogil(cython.address(self.owner.mutex))
        if self.previous != cython.NULL:
            cython.cast(RequestState, self.previous).next = self.next
        else:
            self.owner.popped = self.next
        if self.next != cython.NULL:
            cython.cast(RequestState, self.next).previous = self.previous
        self.listed = False
        unlock(cython.address(self.owner.mutex))

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
        return self.queue_index()

    @property
    def head(self):
        """Head descriptor index (split) or buffer id (packed)."""
        return self.chain.head

    @property
    def recovered(self):
        """Whether a process before this one had taken it already, and ended before it was answered (C113)."""
        return self.chain.again

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

    @cython.cfunc
    def conclude(self, written) -> uint64_t:
        """The end of it, once; what used.len will say."""
        if self.state != IN_FLIGHT or counter_exchange(cython.address(self.state), COMPLETED) != IN_FLIGHT:
            raise RequestError(f"{self.named()}: this request is complete already", rule="V021")
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
    @cython.nogil
    @cython.exceptval(check=False)
    def used_so_far(self) -> int64_t:
        """Bytes written from the first one on without a gap, but for what write_last wrote."""
        length: uint64_t = self.writing.position if self.gap < 0 else cython.cast(uint64_t, self.gap)
        return self.reach if self.reach > length else length

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def enter(self) -> cython.int:
        if self.at_home():
            return 0
        if self.state != IN_FLIGHT:
            raise RequestError(f"{self.named()}: used after it was completed", rule="V036")
        if not self.snapshot.pin():
            raise RequestError(f"{self.named()}: used after its session ended", rule="C134")
        if self.generation != counter_get(cython.address(self.owner.generation)):
            self.snapshot.unpin()
            raise RequestError(f"{self.named()}: used after its session ended", rule="C134")
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
        raise RequestError(f"{self.named()}: its session ended while it was copied", rule="C134")

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

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def queue_index(self) -> cython.int:
        return self.owner.index if self.owner is not None else -1

    @cython.cfunc
    def named(self) -> str:
        """Which request this is, as errors begin. Its C fields, and not its properties: errors are raised in critical sections too."""
        return f"queue {self.queue_index()}, head {self.chain.head}"

    @cython.cfunc
    def spoil(self, error):
        """A call of a batch could not serve it. The first reason stays: who looks at it may have no reference to it yet."""
        with cython.critical_section(self):
            if self.problem is None:
                self.problem = error

    @cython.cfunc
    def described(self) -> str:
        parts = []
        for segment in range(self.chain.count):
            parts.append(
                f"{'->' if segment < self.chain.readable_count else '<-'} {self.chain.addresses[segment]:#x}+{self.chain.segments[segment].iov_len:#x}"
                f"{'' if self.chain.segments[segment].iov_base != cython.NULL else ' UNMAPPED'}"
            )
        return (
            f"{self.named()}: {self.chain.descriptors} descriptors, {self.chain.readable_total} bytes readable "
            f"({self.reading.position} read), {self.chain.writable_total} writable ({self.used_length()} written)"
            + "".join(f"\n  {part}" for part in parts)
        )
