"""A load of block requests on one queue, kept up without the GIL (types: load.pyi)."""

import cython
from cython.cimports.libc.stdint import int64_t, uint8_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memset
from cython.cimports.vhost_user.engine.barriers import (
    counter_add,
    counter_get,
    counter_set,
    own_bell_take,
    full_fence,
    load_8,
    now_ns,
    pause,
    store_32,
    store_64,
)
from cython.cimports.vhost_user.engine.driver.lent import Completion
from cython.cimports.vhost_user.engine.driver.queue import DriverQueue
from cython.cimports.vhost_user.engine.driver.histogram import NUM_BUCKETS, bucket_of, counted
from cython.cimports.vhost_user.engine.driver.memory import DriverMemory

BUSY = cython.declare(uint32_t, 0x8000_0000)
SECTOR = cython.declare(uint32_t, 512)
TYPE_IN = cython.declare(uint32_t, 0)
TYPE_OUT = cython.declare(uint32_t, 1)
MULTIPLIER = cython.declare(uint64_t, 0x2545_F491_4F6C_DD1D)
GOLDEN = cython.declare(uint64_t, 0x9E37_79B9_7F4A_7C15)
MIXER = cython.declare(uint64_t, 0xBF58_476D_1CE4_E5B9)
MAX_TRACKED_BLOCKS = 1 << 26


@cython.cclass
class BlockLoad:
    """BlockLoad(queue, *, depth=32, block_size=4096, span, offset=0, read_percent=100, random=True, seconds=None,
        requests=None, polling=True, indirect=None, seed=1, verify=False, stall_seconds=10.0,
        batch=0)\n--\n\n\
    Reads and writes of ``block_size`` bytes, ``depth`` in flight, in ``span`` bytes from ``offset`` on.

    Ends after ``seconds`` or ``requests``, whichever comes first, or when ``stop`` is called. ``polling``
    spins on the used ring, else the call eventfd is waited for. ``indirect`` None uses indirect tables only
    where the ring is too small. With ``verify`` what was written in this run is checked when it is read
    again. The device is shown ``batch`` requests at a time (0: all that are free). Raises ValueError for
    what makes no sense.
    """

    def __cinit__(self):
        self.histogram = cython.cast(cython.pointer(uint64_t), calloc(NUM_BUCKETS, 8))
        if self.histogram == cython.NULL:
            raise MemoryError

    def __init__(
        self,
        queue: DriverQueue,
        *,
        depth=32,
        block_size=4096,
        span,
        offset=0,
        read_percent=100,
        random=True,
        seconds=None,
        requests=None,
        polling=True,
        indirect=None,
        seed=1,
        verify=False,
        stall_seconds=10.0,
        batch=0,
    ):
        self.allocations = []
        if block_size <= 0 or block_size % 512 or offset % block_size or span < block_size:
            raise ValueError(f"blocks of {block_size} bytes in {span} bytes at {offset}: whole blocks of whole sectors are needed")
        if depth < 1 or not 0 <= read_percent <= 100:
            raise ValueError(f"depth {depth} or read share {read_percent} % makes no sense")
        if batch < 0:
            raise ValueError(f"batches of {batch} requests make no sense")
        if seconds is None and requests is None:
            raise ValueError("say for how long, or how many requests")
        self.queue = queue
        self.memory = queue.memory
        self.use_indirect = 3 * depth > queue.size if indirect is None else indirect
        if self.use_indirect and not queue.indirect:
            raise ValueError(f"depth {depth} needs {3 * depth} descriptors, the ring has {queue.size} and no indirect ones")
        if (depth if self.use_indirect else 3 * depth) > queue.size:
            raise ValueError(f"a ring of {queue.size} cannot hold a depth of {depth}")
        self.depth = depth
        self.block_size = block_size
        self.first_block = offset // block_size
        self.blocks = span // block_size
        self.batch = batch if batch else depth
        self.read_share = read_percent
        self.random = random
        self.polling = polling or queue.call_fd < 0
        self.verify = verify
        self.duration = -1 if seconds is None else int(seconds * 1e9)
        self.wanted = 0xFFFF_FFFF_FFFF_FFFF if requests is None else requests
        self.stall = int(stall_seconds * 1e9)
        self.seed = seed
        self.random_state = (seed * 0x9E37_79B9_7F4A_7C15 + 1) & 0xFFFF_FFFF_FFFF_FFFF or 1
        self.first_error_status = -1
        if verify:
            if self.blocks > MAX_TRACKED_BLOCKS:
                raise ValueError(f"{self.blocks} blocks are too many to verify: at most {MAX_TRACKED_BLOCKS}")
            self.generations = cython.cast(cython.pointer(uint32_t), calloc(self.blocks, 4))
            if self.generations == cython.NULL:
                raise MemoryError
        self.jobs = cython.cast(cython.pointer(Job), calloc(depth, cython.sizeof(Job)))
        self.free_jobs = cython.cast(cython.pointer(cython.int), calloc(depth, cython.sizeof(cython.int)))
        if self.jobs == cython.NULL or self.free_jobs == cython.NULL:
            raise MemoryError
        i: cython.int
        # Whole pages where the blocks are: what the device's copies and file accesses like best.
        controls: uint64_t = self.memory.allocate(64 * depth, 64)
        self.allocations.append(controls)
        buffers: uint64_t = self.memory.allocate(block_size * depth, 512 if block_size % 4096 else 4096)
        self.allocations.append(buffers)
        control: uint64_t
        data: uint64_t
        for i in range(depth):
            control = controls + 64 * i
            data = buffers + cython.cast(uint64_t, self.block_size) * i
            self.jobs[i].header = self.memory.translate(control, 64)
            self.jobs[i].status = self.jobs[i].header + 32
            self.jobs[i].data = self.memory.translate(data, block_size)
            self.jobs[i].segments[0].address = control
            self.jobs[i].segments[0].length = 16
            self.jobs[i].segments[0].writable = 0
            self.jobs[i].segments[1].address = data
            self.jobs[i].segments[1].length = block_size
            self.jobs[i].segments[2].address = control + 32
            self.jobs[i].segments[2].length = 1
            self.jobs[i].segments[2].writable = 1
            self.free_jobs[i] = i
        self.num_free = depth
        if self.use_indirect:
            for i in range(queue.size):
                queue.reserve_table(i, 3)

    def __dealloc__(self):
        free(self.histogram)
        free(self.jobs)
        free(self.free_jobs)
        free(self.generations)

    def run(self):
        """Carry the load out, GIL released; once. Raises DeviceBroken."""
        result: cython.int
        if self.jobs == cython.NULL or self.num_free != self.depth:
            raise RuntimeError("a load runs once")
        self.queue.usable()
        if self.queue.in_flight:
            raise RuntimeError(f"queue {self.queue.index} has {self.queue.in_flight} requests of somebody else in flight")
        self.queue.busy = True
        started = now_ns()
        try:
            with cython.nogil:
                result = self.loop()
        finally:
            self.elapsed = now_ns() - started
            self.queue.busy = False
        if result < 0:
            self.queue.refuse()
        if not self.stalled:
            for address in self.allocations:
                self.memory.free(address)
            self.allocations = []
        free(self.jobs)
        self.jobs = cython.NULL

    def stop(self):
        """End it from another thread."""
        counter_set(cython.address(self.stop_requested), 1)

    @property
    def completed(self):
        """Requests answered so far; may be read while it runs."""
        return counter_get(cython.address(self.counter))

    def buckets(self):
        """Latencies: upper limit in nanoseconds → number of requests."""
        return counted(self.histogram)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def loop(self) -> cython.int:
        completion: Completion
        now: int64_t = now_ns()
        begun: int64_t = now
        last_progress: int64_t = now
        stopping: cython.bint = False
        result: cython.int
        got: cython.int
        spins: cython.int = 0
        if self.polling:
            self.queue.disarm()
        while True:
            got = 0
            while True:
                result = self.queue.reap(cython.address(completion))
                if result <= 0:
                    break
                if got == 0:
                    now = now_ns()
                got += 1
                self.finished(cython.address(completion), now)
            if result < 0:
                return -1
            if got:
                counter_add(cython.address(self.counter), got)
                last_progress = now
                spins = 0
            else:
                spins += 1
                if (spins & 63) == 0 or not self.polling:
                    now = now_ns()
                    if now - last_progress > self.stall and self.queue.in_flight:
                        self.stalled = True
                        return 0
            if not stopping and (
                (self.duration >= 0 and now - begun >= self.duration)
                or self.submitted >= self.wanted
                or counter_get(cython.address(self.stop_requested))
            ):
                stopping = True
            if not stopping and self.num_free:
                self.submit_some(now)
            if self.queue.in_flight == 0:
                if stopping:
                    return 0
            elif got == 0:
                self.idle(spins)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def idle(self, spins: cython.int) -> cython.void:
        waiter: pollfd
        if self.polling:
            pause()
            if (spins & 255) == 255:
                sched_yield()
            return
        self.queue.arm()
        full_fence()
        if self.queue.has_used():
            return
        waiter.fd = self.queue.call_fd
        waiter.events = POLLIN
        poll(cython.address(waiter), 1, 100)
        if own_bell_take(self.queue.call_fd):
            self.queue.calls += 1

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def submit_some(self, now: int64_t) -> cython.int:
        job: cython.pointer(Job)
        number: cython.int
        added: cython.int = 0
        total: cython.int = 0
        i: cython.int
        type: uint32_t
        word: uint64_t
        while self.num_free and self.submitted < self.wanted:
            number = self.free_jobs[self.num_free - 1]
            job = self.jobs + number
            if not self.choose(job):
                break
            type = TYPE_OUT if job.writing else TYPE_IN
            store_32(job.header, type)
            store_32(job.header + 4, 0)
            store_64(job.header + 8, (self.first_block + job.block) * (self.block_size // SECTOR))
            job.status[0] = 0xFF
            job.segments[1].writable = 0 if job.writing else 1
            if self.verify and job.writing:
                word = self.pattern(job.block, job.generation)
                for i in range(self.block_size // 8):
                    cython.cast(cython.pointer(uint64_t), job.data)[i] = word + i
            job.started = now
            if (
                self.queue.put(
                    job.segments, 3, 0 if self.use_indirect else 3, number, 1 if job.writing else cython.cast(uint64_t, self.block_size) + 1
                )
                < 0
            ):
                if self.verify:
                    self.generations[job.block] &= ~BUSY
                break
            self.num_free -= 1
            self.submitted += 1
            added += 1
            total += 1
            if added == self.batch:
                self.show()
                added = 0
        if added:
            self.show()
        return total

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def show(self) -> cython.void:
        self.queue.make_visible()
        if self.queue.kick_wanted():
            self.queue.ring_doorbell()
        else:
            self.queue.kicks_suppressed += 1

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def choose(self, job: cython.pointer(Job)) -> cython.bint:
        """Pick a block and a direction; with verification a block has one request in flight at most."""
        tries: cython.int
        job.writing = 1 if self.read_share < 100 and (self.next_random() >> 33) % 100 >= self.read_share else 0
        for tries in range(16):
            if self.random:
                job.block = (self.next_random() >> 11) % self.blocks
            else:
                job.block = self.position
                self.position += 1
                if self.position == self.blocks:
                    self.position = 0
            if not self.verify:
                return True
            if not self.generations[job.block] & BUSY:
                job.generation = self.generations[job.block]
                if job.writing:
                    job.generation = (job.generation + 1) & (BUSY - 1)
                self.generations[job.block] |= BUSY
                return True
        return False

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def finished(self, completion: cython.pointer(Completion), now: int64_t) -> cython.void:
        job: cython.pointer(Job) = self.jobs + cython.cast(cython.int, completion.token)
        status: uint8_t = load_8(job.status)
        i: cython.int
        word: uint64_t
        took: int64_t = now - job.started
        self.histogram[bucket_of(cython.cast(uint64_t, took) if took > 0 else 0)] += 1
        if job.writing:
            self.writes += 1
        else:
            self.reads += 1
        if status != 0:
            if self.errors == 0:
                self.first_error_status = status
                self.first_error_block = job.block
            self.errors += 1
        elif completion.length != (1 if job.writing else self.block_size + 1):
            self.length_errors += 1
        if self.verify:
            if status == 0 and job.writing:
                self.generations[job.block] = job.generation
            elif status == 0 and job.generation:
                self.verified += 1
                word = self.pattern(job.block, job.generation)
                for i in range(self.block_size // 8):
                    if cython.cast(cython.pointer(uint64_t), job.data)[i] != word + i:
                        self.mismatches += 1
                        break
                self.generations[job.block] = job.generation
            elif job.writing:
                self.generations[job.block] = 0  # nobody knows what a failed write left behind
            else:
                self.generations[job.block] = job.generation
        self.free_jobs[self.num_free] = cython.cast(cython.int, completion.token)
        self.num_free += 1

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def next_random(self) -> uint64_t:
        self.random_state ^= self.random_state >> 12
        self.random_state ^= self.random_state << 25
        self.random_state ^= self.random_state >> 27
        return self.random_state * MULTIPLIER

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def pattern(self, block: uint64_t, generation: uint32_t) -> uint64_t:
        """The first word of a block's contents: different for each block, each writing of it, and each seed."""
        value: uint64_t = (self.first_block + block) * GOLDEN + generation + (self.seed << 32)
        value ^= value >> 29
        value *= MIXER
        return value ^ (value >> 32)
