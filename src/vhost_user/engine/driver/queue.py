"""The driver's side of a virtqueue, what split and packed have in common (types: queue.pyi).

Methods without the GIL (put, make_visible, kick_wanted, reap, arm) are the whole data path; load.py calls them without ever
entering Python. What is in flight is lent.py's.
"""

import os
import select
import time

import cython
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, realloc
from cython.cimports.posix.unistd import close
from cython.cimports.vhost_user.engine.barriers import full_fence, own_bell_ring, own_bell_take
from cython.cimports.vhost_user.engine.driver.lent import NO_SLOT, Completion, Fault, LentBuffers, Segment, Slot
from cython.cimports.vhost_user.engine.driver.memory import DriverMemory, DriverRegion

from vhost_user.engine.errors import EngineError, QueueFull, RingValueError

MAX_QUEUE_SIZE = 32768


@cython.cclass
class DriverQueue(LentBuffers):
    """DriverQueue(memory, size, *, index=0, event_idx=False, indirect=False, in_order=False, start=0,
        polled_kicks=False, polled_calls=False)\n--\n\n\
    A virtqueue as the driver sees it.

    ``start`` is the ring's first index, in the form of SET_VRING_BASE (C057).

    The queue makes its kick and call eventfds; with ``polled_kicks`` or ``polled_calls`` it has none and the
    side concerned polls (C052). ``tolerate_length`` clamps a used length that is too long instead of calling
    the device broken. Raises ValueError for a size that this kind of ring cannot have (C070), MemoryError
    without room.
    """

    def __init__(
        self,
        memory: DriverMemory,
        size,
        *,
        index=0,
        event_idx=False,
        indirect=False,
        in_order=False,
        start=0,
        polled_kicks=False,
        polled_calls=False,
    ):
        if not 0 < size <= MAX_QUEUE_SIZE:
            raise RingValueError(f"a ring of {size} descriptors does not exist: 1 to {MAX_QUEUE_SIZE}", rule="C070", queue=index)
        self.memory = memory
        self.size = size
        self.index = index
        self.event_idx = event_idx
        self.indirect = indirect
        self.in_order = in_order
        self.polled_calls = polled_calls
        self.pinned = []
        self.slots = cython.cast(cython.pointer(Slot), calloc(size, cython.sizeof(Slot)))
        if self.slots == cython.NULL:
            raise MemoryError
        self.prepare()
        self.closed = False
        if not polled_kicks:
            self.kick_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        if not polled_calls:
            self.call_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.begin(start)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    # what the two kinds of ring fill in

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def prepare(self) -> cython.int:
        raise NotImplementedError("make a SplitDriverQueue or a PackedDriverQueue")

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def lay_out(
        self, descriptors: uint64_t, driver: uint64_t, driver_alignment: cython.int, device: uint64_t, device_alignment: cython.int
    ) -> cython.int:
        """Allocate the three areas, so many bytes each, and pin what they are in until ``close``."""
        region: DriverRegion
        self.descriptor_address = self.memory.allocate(descriptors, 16)
        self.driver_address = self.memory.allocate(driver, driver_alignment)
        self.device_address = self.memory.allocate(device, device_alignment)
        for address in (self.descriptor_address, self.driver_address, self.device_address):
            region = self.memory.region_of(address)
            region.pin()
            self.pinned.append(region)
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def setup(self, start: uint32_t) -> cython.void:
        pass

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def next_slot(self) -> cython.int:
        return NO_SLOT

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def put(
        self, segments: cython.pointer(Segment), count: cython.int, direct: cython.int, token: uint64_t, writable: uint64_t
    ) -> cython.int:
        return NO_SLOT

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def make_visible(self) -> cython.void:
        pass

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def kick_wanted(self) -> cython.bint:
        return True

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def has_used(self) -> cython.bint:
        return False

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def reap(self, completion: cython.pointer(Completion)) -> cython.int:
        return 0

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def arm(self) -> cython.void:
        pass

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def arm_after(self, count: cython.int) -> cython.void:
        """Ask for a call once more than ``count`` buffers came back, where the ring can say so; never more than are in flight."""
        self.arm()

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def disarm(self) -> cython.void:
        pass

    # control

    @cython.cfunc
    def begin(self, start):
        slot: cython.int
        for slot in range(self.size):
            self.slots[slot].in_flight = 0
        self.sequence = 0
        self.published_sequence = 0
        self.num_free = self.size
        self.in_flight = 0
        self.unpublished = 0
        self.oldest = NO_SLOT
        self.newest = NO_SLOT
        self.batch_until = NO_SLOT
        self.armed = True
        self.fault = Fault.FAULT_NONE
        self.broken_error = None
        self.setup(start)

    @property
    def base(self):
        """What SET_VRING_BASE must carry for a ring that was just made or reset."""
        raise NotImplementedError

    @cython.critical_section
    def reset(self, start=0):
        """As new: everything lent is forgotten. Only while the device does not use the ring."""
        if self.closed:
            raise EngineError(f"queue {self.index} is closed")
        self.begin(start)
        if self.call_fd >= 0:
            own_bell_take(self.call_fd)

    @cython.critical_section
    def close(self):
        """Close the eventfds, give the memory back."""
        region: DriverRegion
        if self.closed:
            return
        self.closed = True
        if self.kick_fd >= 0:
            close(self.kick_fd)
        if self.call_fd >= 0:
            close(self.call_fd)
        self.kick_fd = -1
        self.call_fd = -1
        addresses = {self.descriptor_address, self.driver_address, self.device_address}
        slot: cython.int
        for slot in range(self.size):
            if self.slots[slot].table_capacity:
                addresses.add(self.slots[slot].table_address)
        for address in addresses:
            self.memory.release(address)
        for region in self.pinned:
            region.unpin()
        self.pinned = []

    # data path, from Python

    @cython.critical_section
    def add(self, readable=(), writable=(), *, indirect=False, direct=0):
        """Lend a buffer of (guest address, length) segments to the device.

        The device sees it after ``publish``. Returns its token.

        ``indirect`` puts the descriptors into an indirect table, all but the first ``direct`` (split ring
        only, V008, V030). Raises QueueFull, or ValueError for a chain that the ring can never hold or that
        was not negotiated.
        """
        self.usable()
        count: cython.int = len(readable) + len(writable)
        if count == 0:
            raise ValueError(f"queue {self.index}: a buffer needs at least one descriptor")
        if count > self.scratch_capacity:
            grown = cython.cast(cython.pointer(Segment), realloc(self.scratch, count * cython.sizeof(Segment)))
            if grown == cython.NULL:
                raise MemoryError
            self.scratch = grown
            self.scratch_capacity = count
        position: cython.int = 0
        total: uint64_t = 0
        for address, length in readable:
            self.scratch[position].address = address
            self.scratch[position].length = length
            self.scratch[position].writable = 0
            position += 1
        for address, length in writable:
            self.scratch[position].address = address
            self.scratch[position].length = length
            self.scratch[position].writable = 1
            total += self.scratch[position].length
            position += 1
        straight: cython.int = count
        slot: cython.int = self.next_slot()
        if indirect:
            if not self.indirect:
                raise ValueError(f"queue {self.index}: indirect descriptors were not negotiated")
            straight = direct
            if not 0 <= straight < count:
                raise ValueError(f"queue {self.index}: {direct} direct descriptors of {count} leave no indirect table")
            if self.packed and straight:
                raise RingValueError(f"a packed ring knows no chain that is part direct, part indirect", rule="V030", queue=self.index)
        needed: cython.int = straight + 1 if straight < count else count
        if needed > self.size:
            raise ValueError(f"queue {self.index}: a chain of {needed} descriptors does not fit a ring of {self.size}")
        if slot < 0 or self.num_free < needed:
            raise QueueFull(f"queue {self.index}: {needed} descriptors wanted, {self.num_free} of {self.size} free")
        if straight < count:
            self.reserve_table(slot, count - straight)
        self.next_token += 1
        self.put(self.scratch, count, straight, self.next_token, total)
        return self.next_token

    @cython.critical_section
    def publish(self):
        """Make everything added visible to the device, in one step."""
        self.usable()
        self.make_visible()

    @cython.critical_section
    def needs_kick(self):
        """Whether the device wants a kick for what was published since the last time it was asked (V018)."""
        self.usable()
        return self.kick_wanted()

    @cython.critical_section
    def kick(self, force=False):
        """Kick if the device wants it, or in any case; True if it was kicked."""
        self.usable()
        if not (self.kick_wanted() or force):
            self.kicks_suppressed += 1
            return False
        self.ring_doorbell()
        return True

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def ring_doorbell(self) -> cython.void:
        self.kicks += 1
        if self.kick_fd >= 0:
            own_bell_ring(self.kick_fd)

    @cython.critical_section
    def poll(self):
        """The next used buffer as (token, used length), None when there is none. Raises DeviceBroken."""
        self.usable()
        completion: Completion
        result: cython.int = self.reap(cython.address(completion))
        if result < 0:
            self.refuse()
        if result == 0:
            return None
        return completion.token, completion.length

    @cython.critical_section
    def poll_many(self, limit=1024):
        """Up to ``limit`` used buffers, each as ``poll`` gives it."""
        self.usable()
        completion: Completion
        result: cython.int
        done = []
        while len(done) < limit:
            result = self.reap(cython.address(completion))
            if result == 0:
                break
            if result < 0:
                if done:
                    break  # what came back before the fault counts; the next call raises it
                self.refuse()
            done.append((completion.token, completion.length))
        return done

    @cython.critical_section
    def enable_notifications(self):
        """Ask the device for calls and look again; True if there are used buffers already."""
        self.usable()
        self.arm()
        full_fence()
        self.armed = True
        return self.has_used()

    @cython.critical_section
    def disable_notifications(self):
        """Ask the device for no calls; a hint, which it may disregard."""
        self.usable()
        self.disarm()
        self.armed = False

    def call_count(self):
        """How often the device signalled since last asked."""
        if self.call_fd < 0:
            return 0
        # Asked before it is read: a back-end may have made the shared eventfd a blocking one (C068).
        waiter = select.poll()
        waiter.register(self.call_fd, select.POLLIN)
        if not waiter.poll(0):
            return 0
        try:
            count = os.eventfd_read(self.call_fd)
        except BlockingIOError:  # somebody else was faster
            return 0
        self.calls += count
        return count

    def wait(self, timeout=None):
        """Wait, GIL released, until there is something to poll, or ``timeout`` seconds passed (False)."""
        deadline = None if timeout is None else time.monotonic() + timeout
        nap = 20e-6
        while True:
            if self.enable_notifications():
                return True
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            if self.call_fd < 0:
                time.sleep(nap if left is None else min(nap, left))
                nap = min(nap * 2, 1e-3)
                continue
            waiter = select.poll()
            waiter.register(self.call_fd, select.POLLIN)
            if not waiter.poll(None if left is None else left * 1000):
                self.usable()
                if self.has_used():
                    self.missed_calls += 1
                    return True
                return False
            self.call_count()

    def describe(self):
        """The ring in words, for logs and failure output."""
        raise NotImplementedError
