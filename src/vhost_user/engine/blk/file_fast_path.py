"""The fast path of a disk in a file: io_uring through liburing, or preadv and pwritev (types: file_fast_path.pyi)."""

# Requests in the kernel write to guest memory by themselves. Each pins its snapshot until its completion was taken, and
# `kept` holds a reference to the snapshot while anything is under way; so neither a new memory table nor the end of the
# session unmaps what the kernel still writes to.
#
# What the kernel does not take (io_uring_enter fails with EAGAIN, EBUSY, ENOMEM …) is taken back and carried out by the
# thread that queued it, before the batch ends: so whatever is under way is in the kernel, and its end is worth waiting for.
# At most DEPTH requests are in the kernel and DEPTH entries in the queue, together what its completion queue has room for.

import os

import cython
from cython.cimports.libc.errno import EINTR, errno
from cython.cimports.libc.stdint import int64_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.vhost_user.engine.blk.fast_path import BlockFastPath, BlockRequest
from cython.cimports.vhost_user.engine.device.fast_path import DECLINED, DONE, SETTLED, UNDER_WAY
from cython.cimports.vhost_user.engine.barriers import counter_get, iovec, preadv, pwritev
from cython.cimports.vhost_user.engine.device.chain import (
    Chain,
    Cursor,
    chain_advance,
    chain_free,
    chain_new,
    chain_reset,
    chain_seek,
    chain_trim,
    chain_vectors,
)
from cython.cimports.vhost_user.engine.blk.file_fast_path import (
    VU_HAVE_URING,
    Task,
    io_uring_queue_exit,
    io_uring_sq_ready,
    io_uring_sqe,
    vu_in_memory,
    vu_uring_bell,
    vu_uring_open,
    vu_uring_queue,
    vu_uring_ring,
    vu_uring_submit,
    vu_uring_take,
    vu_uring_take_back,
    vu_uring_wait,
)
from cython.cimports.vhost_user.engine.memory.guest_memory import GuestMemory

HEADER = cython.declare(uint64_t, 16)
DEPTH = cython.declare(cython.int, 256)
VECTORS = cython.declare(cython.int, 64)
# Copying so much takes longer than a wake-up: the kernel's own threads do several at a time, on other CPUs.
LARGE = cython.declare(uint64_t, 262144)
# What is done of a request without a look whether its session still lives.
LONG = cython.declare(uint64_t, 4194304)


def liburing_built():
    """Whether the engine was compiled with liburing."""
    return VU_HAVE_URING != 0


@cython.final
@cython.cclass
class FileFastPath(BlockFastPath):
    """FileFastPath(fd, size, *, read_only=False, io_uring=None)\n--\n\n\
    A disk in the open file ``fd`` of ``size`` bytes.

    ``fd`` stays the caller's and must outlive ``close``.

    ``io_uring`` None: used where it was built in and the kernel has it, for a file in memory (tmpfs) only
    for requests of 256 KiB and more; True: needed, raises OSError if it cannot be had; False: preadv and
    pwritev. One vring and one worker thread for each object.
    """

    def __cinit__(self, fd, size, *, read_only=False, io_uring=None):
        self.event = -1
        self.file = -1

    def __init__(self, fd, size, *, read_only=False, io_uring=None):
        index: cython.int
        if self.file >= 0:
            raise RuntimeError("a fast path is made once")
        self.file = fd
        self.sectors = size // 512
        self.read_only = read_only
        self.enabled = True
        self.kept = []
        wanted = VU_HAVE_URING if io_uring is None else io_uring
        cpus = len(os.sched_getaffinity(0))
        self.helpers = cpus if cpus > 1 else 0
        self.only_large = vu_in_memory(fd) and io_uring is None
        if self.only_large and not self.helpers:
            return
        if not wanted:
            return
        self.event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        result = vu_uring_open(cython.address(self.ring), DEPTH, self.event)
        if result < 0:
            os.close(self.event)
            self.event = -1
            if io_uring:
                raise OSError(-result, f"io_uring cannot be used: {os.strerror(-result)}")
            return
        self.tasks = cython.cast(cython.pointer[Task], calloc(DEPTH, cython.sizeof(Task)))
        self.spare_chains = cython.cast(cython.pointer[cython.pointer[Chain]], calloc(DEPTH, cython.sizeof(cython.p_void)))
        if self.tasks == cython.NULL or self.spare_chains == cython.NULL:
            io_uring_queue_exit(cython.address(self.ring))
            os.close(self.event)
            self.event = -1
            raise MemoryError
        for index in range(DEPTH):
            self.tasks[index].next = self.spare_tasks
            self.spare_tasks = cython.address(self.tasks[index])
        self.queued = True

    def __dealloc__(self):
        index: cython.int
        if self.queued:
            io_uring_queue_exit(cython.address(self.ring))
        for index in range(self.spare_count):
            chain_free(self.spare_chains[index])
        free(self.spare_chains)
        free(self.tasks)

    def close(self):
        """Wait for what is under way, then let everything go. The file stays the caller's."""
        outcome: cython.int = 0
        generation: int64_t = 0
        used: uint64_t = 0
        memory: cython.p_void = cython.NULL
        chain: cython.pointer[Chain]
        self.enabled = False
        self.leave_alone()
        if self.queued:
            while self.under_way:
                with cython.nogil:
                    chain = self.finished(cython.address(outcome), cython.address(generation), cython.address(used), cython.address(memory))
                    if chain == cython.NULL:
                        vu_uring_wait(cython.address(self.ring))
                if chain != cython.NULL:
                    chain_free(chain)
            io_uring_queue_exit(cython.address(self.ring))
            self.queued = False
            os.close(self.event)
            self.event = -1
        self.kept = []

    @property
    def fd(self):
        return self.event

    @property
    def uses_io_uring(self):
        """Whether requests go by io_uring; otherwise by preadv and pwritev."""
        return self.queued

    @cython.cfunc
    def keep(self, memory: GuestMemory):
        if not self.queued:
            return
        if self.under_way == 0:
            if len(self.kept) != 1 or self.kept[0] is not memory:
                self.kept = [memory]
        elif self.kept[len(self.kept) - 1] is not memory:
            self.kept.append(memory)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def replacement(self) -> cython.pointer[Chain]:
        if self.spare_count > 0:
            self.spare_count -= 1
            return self.spare_chains[self.spare_count]
        return chain_new()

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def recycle(self, chain: cython.pointer[Chain]) -> cython.void:
        if self.spare_chains != cython.NULL and self.spare_count < DEPTH:
            chain_trim(chain)
            chain_reset(chain)
            self.spare_chains[self.spare_count] = chain
            self.spare_count += 1
        else:
            chain_free(chain)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def direct(
        self,
        chain: cython.pointer[Chain],
        memory: GuestMemory,
        generation: int64_t,
        request: cython.pointer[BlockRequest],
        used: cython.pointer[uint64_t],
    ) -> cython.int:
        vectors: iovec[64]
        cursor: Cursor
        batch: uint64_t = 0
        moved: cython.Py_ssize_t
        left: uint64_t = request.length
        offset: int64_t = request.offset
        count: cython.int
        reading: cython.bint = not request.writing
        chain_seek(chain, cython.address(cursor), reading, 0 if reading else HEADER)
        while left > 0:
            # In pieces, as all long copies: see chain_copy_long.
            if counter_get(self.current) != generation:
                return SETTLED
            batch = LONG if left > LONG else left
            count = chain_vectors(chain, cython.address(cursor), reading, batch, vectors, VECTORS, cython.address(batch))
            moved = preadv(self.file, vectors, count, offset) if reading else pwritev(self.file, vectors, count, offset)
            if moved < 0 and errno == EINTR:
                continue
            if moved <= 0:
                # The handler tries again and says what is wrong.
                return DECLINED
            chain_advance(chain, memory, cython.address(cursor), reading, moved)
            left -= moved
            offset += moved
        used[0] = self.status(chain, memory, request)
        return DONE

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def carry_out(
        self, chain: cython.pointer[Chain], memory: GuestMemory, generation: int64_t, used: cython.pointer[uint64_t]
    ) -> cython.int:
        request: BlockRequest
        cursor: Cursor
        total: uint64_t = 0
        count: cython.int
        outcome: cython.int
        task: cython.pointer[Task]
        entry: cython.pointer[io_uring_sqe]
        if not self.parse(chain, cython.address(request)):
            self.declined += 1
            return DECLINED
        task = self.spare_tasks
        # Not more of them than there are CPUs, and not the last of the batch: this thread has nothing else to do meanwhile.
        aside: cython.bint = request.length >= LARGE and self.following > 0 and self.under_way < self.helpers
        # The kernel cannot be told to stop: what takes it long is done here, in pieces.
        short: cython.bint = request.length <= LONG
        if self.queued and task != cython.NULL and request.length > 0 and short and (aside or not self.only_large):
            reading: cython.bint = not request.writing
            chain_seek(chain, cython.address(cursor), reading, 0 if reading else HEADER)
            count = chain_vectors(chain, cython.address(cursor), reading, request.length, task.vectors, VECTORS, cython.address(total))
            if total == request.length and memory.pin():
                task.chain = chain
                task.memory = cython.cast(cython.p_void, memory)
                task.generation = generation
                task.request = request
                entry = vu_uring_queue(
                    cython.address(self.ring), self.file, request.writing, aside, task.vectors, count, request.offset, task
                )
                if entry != cython.NULL:
                    self.spare_tasks = task.next
                    task.entry = entry
                    task.next = self.unsent
                    self.unsent = task
                    self.unsent_count += 1
                    self.under_way += 1
                    self.accepted += 1
                    if aside:
                        # At once, so that it runs while this thread copies.
                        self.submit()
                    return UNDER_WAY
                memory.unpin()
        outcome = self.direct(chain, memory, generation, cython.address(request), used)
        if outcome == DONE:
            self.accepted += 1
        elif outcome == DECLINED:
            self.declined += 1
        return outcome

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def submit(self) -> cython.void:
        # One system call for the batch.
        if self.unsent != cython.NULL:
            if vu_uring_submit(cython.address(self.ring)) > 0:
                self.take_back()
            self.unsent = cython.NULL
            self.unsent_count = 0

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def take_back(self) -> cython.void:
        """The kernel has left the end of the queue: older entries that do nothing, then requests, which are carried out here."""
        task: cython.pointer[Task]
        left: cython.uint = min(io_uring_sq_ready(cython.address(self.ring)), self.unsent_count)
        while left > 0:
            left -= 1
            task = self.unsent
            self.unsent = task.next
            vu_uring_take_back(task.entry)
            task.outcome = self.direct(
                task.chain,
                cython.cast(GuestMemory, task.memory),
                task.generation,
                cython.address(task.request),
                cython.address(task.used),
            )
            task.next = self.ended
            self.ended = task

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def bell(self, on: cython.bint) -> cython.void:
        if self.queued:
            vu_uring_bell(cython.address(self.ring), on)
            if on and self.ended != cython.NULL:
                vu_uring_ring(self.event)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def finished(
        self,
        outcome: cython.pointer[cython.int],
        generation: cython.pointer[int64_t],
        used: cython.pointer[uint64_t],
        memory: cython.pointer[cython.p_void],
    ) -> cython.pointer[Chain]:
        data: cython.p_void = cython.NULL
        result: cython.int = 0
        task: cython.pointer[Task]
        chain: cython.pointer[Chain]
        cursor: Cursor
        if not self.queued:
            return cython.NULL
        if self.ended != cython.NULL:
            task = self.ended
            self.ended = task.next
            outcome[0] = task.outcome
            used[0] = task.used
            return self.let_go(task, generation, memory)
        while data == cython.NULL:
            if not vu_uring_take(cython.address(self.ring), cython.address(data), cython.address(result)):
                return cython.NULL
        task = cython.cast(cython.pointer[Task], data)
        chain = task.chain
        outcome[0] = DECLINED
        if result > 0:
            # Written by the kernel: the dirty log learns of it here, before the used entry is published (C084).
            if not task.request.writing:
                chain_seek(chain, cython.address(cursor), True, 0)
                chain_advance(chain, cython.cast(GuestMemory, task.memory), cython.address(cursor), True, result)
            if cython.cast(uint64_t, result) == task.request.length:
                used[0] = self.status(chain, cython.cast(GuestMemory, task.memory), cython.address(task.request))
                outcome[0] = DONE
        return self.let_go(task, generation, memory)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def let_go(
        self, task: cython.pointer[Task], generation: cython.pointer[int64_t], memory: cython.pointer[cython.p_void]
    ) -> cython.pointer[Chain]:
        generation[0] = task.generation
        memory[0] = task.memory
        cython.cast(GuestMemory, task.memory).unpin()
        task.next = self.spare_tasks
        self.spare_tasks = task
        self.under_way -= 1
        return task.chain
