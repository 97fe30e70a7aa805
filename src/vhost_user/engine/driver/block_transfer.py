"""Many blocks read or compared on one queue without the GIL (types and docstrings: block_transfer.pyi)."""

import cython
from cython.cimports.cpython.buffer import PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cython.cimports.libc.stdint import int64_t, uint8_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memcmp, memcpy
from cython.cimports.vhost_user.engine.barriers import (
    own_bell_take,
    full_fence,
    load_8,
    now_ns,
    pause,
    store_8,
    store_32,
    store_64,
)
from cython.cimports.vhost_user.engine.driver.lent import Completion
from cython.cimports.vhost_user.engine.driver.queue import DriverQueue
from cython.cimports.vhost_user.engine.driver.memory import DriverMemory

SECTOR = cython.declare(uint32_t, 512)
TYPE_IN = cython.declare(uint32_t, 0)
NO_STATUS = cython.declare(uint8_t, 0xFF)
CONTROL = cython.declare(cython.int, 64)
PAGE = cython.declare(cython.int, 4096)


@cython.cclass
class BlockTransfer:
    """BlockTransfer(queue, buffer, *, sector=0, compare=False, depth=32, block_size=4096,
        polling=False)\n--\n\n\
    Reads ``len(buffer)`` bytes from ``sector`` on, ``depth`` requests of ``block_size`` bytes in flight.

    The data goes into ``buffer``; with ``compare`` it is compared with it instead, and the transfer ends at
    the first block that differs. ``depth`` is an upper limit: as many as the ring has room for. ``polling``
    spins on the used ring; else the call eventfd is waited for, one signal for half of what is in flight
    where the event index makes that possible. The queue must be idle and belongs to the transfer from the
    first ``run`` to ``close``. Raises ValueError for sizes that are not whole sectors, BufferError for a
    buffer that cannot be written, MemoryError when the driver's memory is too small.
    """

    def __init__(self, queue: DriverQueue, buffer, *, sector=0, compare=False, depth=32, block_size=4096, polling=False):
        self.allocations = []
        self.error_status = -1
        if block_size <= 0 or block_size % 512:
            raise ValueError(f"blocks of {block_size} bytes are not a whole number of sectors of 512 bytes")
        if depth < 1 or sector < 0:
            raise ValueError(f"a depth of {depth} from sector {sector} on makes no sense")
        PyObject_GetBuffer(buffer, cython.address(self.view), PyBUF_SIMPLE if compare else PyBUF_SIMPLE | PyBUF_WRITABLE)
        self.holds_buffer = True
        self.size = self.view.len
        if self.size % 512 or self.size == 0:
            raise ValueError(f"{self.size} bytes are not a whole number of sectors of 512 bytes")
        self.queue = queue
        self.memory = queue.memory
        self.first_sector = sector
        self.block_size = block_size
        self.comparing = compare
        self.polling = polling or queue.call_fd < 0
        depth = min(depth, (self.view.len + block_size - 1) // block_size)
        self.use_indirect = queue.indirect and 3 * depth > queue.size
        depth = min(depth, queue.size if self.use_indirect else queue.size // 3)
        if depth < 1:
            raise ValueError(f"a ring of {queue.size} descriptors has no room for a request of 3")
        self.depth = depth
        self.pieces = cython.cast(cython.pointer(Piece), calloc(depth, cython.sizeof(Piece)))
        self.free_pieces = cython.cast(cython.pointer(cython.int), calloc(depth, cython.sizeof(cython.int)))
        if self.pieces == cython.NULL or self.free_pieces == cython.NULL:
            raise MemoryError
        try:
            self.lay_out()
        except BaseException:
            self.close()
            raise

    @cython.cfunc
    def lay_out(self):
        i: cython.int
        stride: uint64_t = (self.block_size + PAGE - 1) // PAGE * PAGE  # whole pages: what copies and devices like best
        controls: uint64_t = self.memory.allocate(CONTROL * self.depth, CONTROL)
        self.allocations.append(controls)
        data: uint64_t = self.memory.allocate(stride * self.depth, PAGE)
        self.allocations.append(data)
        for i in range(self.depth):
            self.pieces[i].header = self.memory.translate(controls + CONTROL * i, CONTROL)
            self.pieces[i].status = self.pieces[i].header + 32
            self.pieces[i].data = self.memory.translate(data + stride * i, self.block_size)
            self.pieces[i].segments[0].address = controls + CONTROL * i
            self.pieces[i].segments[0].length = 16
            self.pieces[i].segments[1].address = data + stride * i
            self.pieces[i].segments[1].writable = 1
            self.pieces[i].segments[2].address = controls + CONTROL * i + 32
            self.pieces[i].segments[2].length = 1
            self.pieces[i].segments[2].writable = 1
            self.free_pieces[i] = self.depth - 1 - i
        self.num_free = self.depth
        if self.use_indirect:
            for i in range(self.queue.size):
                self.queue.reserve_table(i, 3)

    def __dealloc__(self):
        free(self.pieces)
        free(self.free_pieces)
        if self.holds_buffer:
            PyBuffer_Release(cython.address(self.view))

    def run(self, seconds):
        """Go on for about ``seconds`` at most, GIL released; True when all is done and nothing in flight.

        Raises DeviceBroken.
        """
        result: cython.int
        deadline: int64_t = now_ns() + cython.cast(int64_t, seconds * 1e9)
        if self.closed or self.running:
            raise RuntimeError("the transfer was closed" if self.closed else "the transfer is running in another thread")
        if not self.holds_queue:
            self.queue.usable()
            if self.queue.in_flight:
                raise RuntimeError(f"queue {self.queue.index} has {self.queue.in_flight} requests of somebody else in flight")
            self.queue.busy = True
            self.holds_queue = True
            if self.polling:
                self.queue.disarm()
        self.running = True
        try:
            with cython.nogil:
                result = self.loop(deadline)
        finally:
            self.running = False
        if result < 0:
            self.queue.refuse()
        return result == 1

    def stop(self):
        """Submit nothing any more: ``run`` then only takes back what is in flight."""
        self.stopping = True

    def close(self):
        """Give memory and queue back.

        With requests still in flight both stay taken: the device may write to them at any time.
        """
        if self.running:
            raise RuntimeError("the transfer is running in another thread")
        if self.closed:
            return
        self.closed = True
        if not self.holds_queue or self.num_free == self.depth:
            for address in self.allocations:
                self.memory.free(address)
            if self.holds_queue:
                self.queue.busy = False
        self.allocations = []
        if self.holds_buffer:
            self.holds_buffer = False
            PyBuffer_Release(cython.address(self.view))

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def loop(self, deadline: int64_t) -> cython.int:
        """1: done, 0: out of time, -1: the ring is broken."""
        completion: Completion
        result: cython.int
        got: cython.int
        turns: cython.int = 0
        spins: cython.int = 0
        now: int64_t
        while True:
            got = 0
            while True:
                result = self.queue.reap(cython.address(completion))
                if result <= 0:
                    break
                got += 1
                self.finished(cython.address(completion))
            if result < 0:
                return -1
            if self.num_free and not self.stopping:
                self.submit_some()
            if self.num_free == self.depth:
                return 1
            turns += 1
            spins = 0 if got else spins + 1
            if (turns & 63) == 0 or (got == 0 and not self.polling):
                now = now_ns()
                if now >= deadline:
                    return 0
                if got == 0:
                    self.idle(spins, deadline - now)
            elif got == 0:
                self.idle(spins, 0)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def idle(self, spins: cython.int, left: int64_t) -> cython.void:
        waiter: pollfd
        if self.polling:
            pause()
            if (spins & 255) == 255:
                sched_yield()
            return
        # Nobody waits for a single block: one call for half of them makes half of each side's work overlap.
        self.queue.arm_after(self.queue.in_flight // 2)
        full_fence()
        if self.queue.has_used():
            return
        waiter.fd = self.queue.call_fd
        waiter.events = POLLIN
        poll(cython.address(waiter), 1, cython.cast(cython.int, left // 1_000_000 + 1))
        if own_bell_take(self.queue.call_fd):
            self.queue.calls += 1

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def submit_some(self) -> cython.void:
        piece: cython.pointer(Piece)
        number: cython.int
        length: uint64_t
        added: cython.bint = False
        while self.num_free and self.position < self.size:
            number = self.free_pieces[self.num_free - 1]
            piece = self.pieces + number
            length = self.size - self.position
            if length > self.block_size:
                length = self.block_size
            piece.offset = self.position
            piece.segments[1].length = cython.cast(uint32_t, length)
            store_32(piece.header, TYPE_IN)
            store_32(piece.header + 4, 0)
            store_64(piece.header + 8, self.first_sector + self.position // SECTOR)
            store_8(piece.status, NO_STATUS)
            if self.queue.put(piece.segments, 3, 0 if self.use_indirect else 3, number, length + 1) < 0:
                break
            self.position += length
            self.num_free -= 1
            added = True
        if added:
            self.queue.make_visible()
            if self.queue.kick_wanted():
                self.queue.ring_doorbell()
            else:
                self.queue.kicks_suppressed += 1

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def finished(self, completion: cython.pointer(Completion)) -> cython.void:
        number: cython.int = cython.cast(cython.int, completion.token)
        piece: cython.pointer(Piece) = self.pieces + number
        status: uint8_t = load_8(piece.status)
        length: uint32_t = piece.segments[1].length
        there: cython.pointer(uint8_t) = cython.cast(cython.pointer(uint8_t), self.view.buf) + piece.offset
        if status != 0 or completion.length != length + 1:
            self.stopping = True
            if self.error_status < 0 or piece.offset < self.error_offset:
                self.error_status = status
                self.error_offset = piece.offset
                self.error_length = completion.length
        elif not self.comparing:
            memcpy(there, piece.data, length)
        elif memcmp(there, piece.data, length) != 0:
            self.compare(piece, there)
        self.completed += 1
        self.free_pieces[self.num_free] = number
        self.num_free += 1

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def compare(self, piece: cython.pointer(Piece), expected: cython.pointer(uint8_t)) -> cython.void:
        """Note where a block begins to differ. Blocks are submitted in order: no later one can come before it."""
        i: uint32_t
        first: uint32_t = 0
        for i in range(piece.segments[1].length):
            if piece.data[i] != expected[i]:
                first = i
                break
        self.stopping = True
        if not self.differs or piece.offset + first < self.difference:
            self.differs = True
            self.difference = piece.offset + first
