"""Where the memory of a vring is, and how its ring gets there (types: vring_memory.pyi)."""

# Areas of the ring and snapshots of the front-end's memory come and go in any order, while the ring runs too. For the locks see
# vring_state.py.

from typing import Optional

import cython
from cython.cimports.libc.stdint import uint64_t
from cython.cimports.vhost_user.engine.barriers import counter_set, lock, unlock
from cython.cimports.vhost_user.engine.device.ring import Ring
from cython.cimports.vhost_user.engine.device.vring_state import NEW_PACKED, VringState
from cython.cimports.vhost_user.engine.memory.guest_memory import GuestMemory
from cython.cimports.vhost_user.engine.memory.iotlb import Iotlb

from vhost_user.engine.errors import RingValueError


@cython.cclass
class VringMemory(VringState):
    """The memory that a vring's ring lies in."""

    def set_addresses(self, *, descriptor, driver, device, log_address=None):
        """Guest addresses of the three areas.

        They are desc, avail, used for a split ring; ring, driver event, device event for a packed one.
        Raises ValueError on misalignment (C071). While started it moves the ring or toggles logging (C072,
        C086). The split ring's used index is read from the ring at start (C059). ``log_address`` None: ring
        writes are not logged (C079).
        """
        packed = self.want_packed
        for name, address, alignment in (
            ("descriptor area", descriptor, 16),
            ("driver area", driver, 4 if packed else 2),
            ("device area", device, 4),
        ):
            if address % alignment:
                raise RingValueError(f"{name} at {address:#x} is not aligned to {alignment} bytes", rule="C071", queue=self.index)
        # Converted before the lock is taken: a number that is not an address raises here.
        areas: uint64_t[3]
        areas[0] = descriptor
        areas[1] = driver
        areas[2] = device
        log: uint64_t = 0 if log_address is None else log_address
        logged: cython.bint = log_address is not None
        lock(cython.address(self.mutex))
        self.descriptor_address = areas[0]
        self.driver_address = areas[1]
        self.device_address = areas[2]
        self.logged = logged
        self.log_address = log
        self.has_addresses = True
        unlock(cython.address(self.mutex))
        if self.is_started:
            self.reattach()

    @cython.cfunc
    def snapshot(self) -> GuestMemory:
        # `memory` is replaced by the control plane and read by workers. A pointer that is loaded and only then referred to
        # may be freed in between, where no GIL keeps the other thread out; there the critical section does, on both sides.
        # It is entered before the mutex, never with it in hand.
        with cython.critical_section(self):
            return self.memory

    def set_memory(self, memory: Optional[GuestMemory], iotlb: Optional[Iotlb] = None):
        """New snapshot: ring areas are translated again.

        A ring whose memory went away pauses until it comes back (C041, C044). With ``iotlb``, translations into
        that snapshot, ring addresses and those of buffers are IOVAs (C088).
        """
        if iotlb is not None and iotlb.memory is not memory:
            raise ValueError(f"queue {self.index}: the translations belong to another snapshot")
        with cython.critical_section(self):
            lock(cython.address(self.mutex))
            old = self.memory
            before = self.iotlb
            self.memory = memory
            self.iotlb = iotlb
            self.is_waiting = False
            unlock(cython.address(self.mutex))
        # A stopped ring too: requests may still complete into it, and it must not keep regions mapped that are gone.
        if self.ring is not None:
            self.reattach()
        # `old` is let go here, outside of the lock: its regions may be unmapped now.
        del old, before

    @cython.cfunc
    def reattach(self):
        """Translate the ring areas again. Unpublished used entries are made visible in the old place first."""
        memory: GuestMemory = self.snapshot()
        # Set by this thread only: the control plane's.
        iotlb: Iotlb = self.iotlb
        # A pin, so that `attach` can take the snapshot's regions while the session's end may be letting go of them; given
        # back when the lock is free, because its end could run Python code. Closed already: `attach` refuses it.
        pinned: cython.bint = memory is not None and memory.pin() != 0
        lock(cython.address(self.mutex))
        # What a process before us left in flight is looked up before anybody takes a request. That makes objects, so it
        # happens without the mutex; nobody takes requests of a ring that is not started.
        fresh: cython.bint = self.fresh
        started: cython.bint = self.is_started
        if fresh:
            self.is_started = False
        old = self.ring.memory
        old_regions = self.ring.regions
        old_iotlb = self.ring.iotlb
        if self.is_attached:
            self.flush_locked()
        self.ring.descriptor_address = self.descriptor_address
        self.ring.driver_address = self.driver_address
        self.ring.device_address = self.device_address
        self.ring.logged = self.logged
        self.ring.log_address = self.log_address
        # attach touches no Python object but the reference it stores; `old` keeps the previous one until the lock is free.
        self.is_attached = self.ring.attach(memory if pinned else None, iotlb)
        self.told = 0
        if self.is_attached:
            if self.fresh:
                self.settle_in()
            # What completed while the memory was away becomes visible now (C044).
            self.flush_locked()
        unlock(cython.address(self.mutex))
        if pinned:
            memory.unpin()
        try:
            if fresh and self.is_attached:
                self.track(self.ring)
        finally:
            if fresh and started:
                lock(cython.address(self.mutex))
                self.is_started = True
                unlock(cython.address(self.mutex))
                # A kick that came meanwhile found a ring that was not started.
                counter_set(cython.address(self.nudged), 1)
        del old, old_regions, old_iotlb, iotlb, memory

    @cython.cfunc
    def track(self, ring: Ring):
        """A ring whose memory is there for the first time since its start: see vring_inflight.py."""

    @cython.cfunc
    @cython.exceptval(check=False)
    def settle_in(self) -> cython.void:
        """With the mutex: the ring's memory is there for the first time since the start."""
        self.fresh = False
        if self.perhaps_new and self.ring.never_used():
            self.ring.set_base(NEW_PACKED)
        self.ring.begin()
