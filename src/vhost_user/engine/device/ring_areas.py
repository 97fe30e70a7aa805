"""The areas of a ring in guest memory, and what each format does there its own way.

Area pointers are valid while ``memory`` is set: the Vring holds that snapshot and detaches before it lets it go.
"""

import cython
from cython.cimports.libc.stdint import int64_t, uint16_t, uint32_t, uint64_t
from cython.cimports.vhost_user.engine.device.chain import Chain
from cython.cimports.vhost_user.engine.memory.guest_memory import GuestMemory


@cython.cclass
class RingAreas:
    @cython.cfunc
    def attach(self, memory: GuestMemory) -> cython.bint:
        """Translate the three areas in ``memory``; each must lie whole in one region, aligned here too (C071). False: the ring pauses (C044).

        A region's file offset can put an aligned guest address at an odd place of ours, where no access is atomic. Natural
        alignment of the widest field is what we need: 64, 16 and 32 bits.
        """
        run: uint64_t = 0
        pointers: cython.p_char[3]
        addresses: uint64_t[3]
        area: cython.int
        self.detach()
        # Dropped at once, so that a region taken out of the table is unmapped even if the ring lay in it; the caller keeps
        # both until the lock is free, because freeing them here could run Python code.
        self.memory = None
        self.regions = None
        if memory is None or self.size == 0 or memory.closed_already():
            return False
        # C arrays, not a tuple: making a Python object under the lock could start the garbage collector.
        addresses[0] = self.descriptor_address
        addresses[1] = self.driver_address
        addresses[2] = self.device_address
        for area in range(3):
            pointers[area] = memory.translate(addresses[area], self.area_size(area), cython.address(run))
            if pointers[area] == cython.NULL or run < self.area_size(area):
                return False
            if cython.cast(uint64_t, pointers[area]) & ((8 if area == 0 else 4 if area == 2 else 2) - 1):
                return False
        self.memory = memory
        # The caller has pinned `memory`, so nobody takes its regions away meanwhile.
        self.regions = memory.mapped_regions
        self.near = memory.table
        self.descriptors = pointers[0]
        self.driver_area = pointers[1]
        self.device_area = pointers[2]
        for index in range(self.deferred_count):
            self.emit(self.deferred[index].head, self.deferred[index].slots, self.deferred[index].length)
        self.deferred_count = 0
        return True

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def detach(self) -> cython.void:
        # `memory` itself is dropped by the caller, with the GIL.
        self.descriptors = cython.NULL
        self.driver_area = cython.NULL
        self.device_area = cython.NULL

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def fail(self, rule: cython.p_const_char, text: cython.p_const_char, head: int64_t, value: uint64_t) -> cython.int:
        """The driver broke a rule: remember which; from now on the ring looks empty (V037).

        ``text`` is a format of Python; ``{:#x}`` in it is where ``value`` belongs.
        """
        if not self.broken:
            self.broken = True
            self.error_rule = rule
            self.error_text = text
            self.error_head = head
            self.error_value = value
        return -1

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def log_device(self, offset: uint64_t, length: uint64_t) -> cython.void:
        """Ring writes are logged at log_guest_addr, not where the ring is, and only if asked for (C079)."""
        if self.logged:
            self.memory.bitmap.written(self.log_address + offset, length)

    # ------------------------------------------------------------------ the formats' own part
    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def next_chain(self, chain: cython.pointer[Chain]) -> cython.int:
        return 0

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def emit(self, head: uint16_t, slots: cython.int, length: uint32_t) -> cython.void:
        pass

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def untake_last(self) -> cython.bint:
        return False

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def slots_of(self, head: uint16_t) -> cython.int:
        return 1

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def publish(self) -> cython.bint:
        return False

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def wants_call(self) -> cython.bint:
        return False

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def driver_position(self) -> cython.int:
        """A number that changes when the driver makes something available; -1 when that cannot be seen at present."""
        return -1 if self.has_work() else 0

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def has_work(self) -> cython.bint:
        return False

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def arm(self) -> cython.bint:
        return False

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def disarm(self) -> cython.void:
        pass

    @cython.cfunc
    def begin(self) -> cython.void:
        pass

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def area_size(self, area: cython.int) -> uint64_t:
        return 0

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def never_used(self) -> cython.bint:
        """Nothing in the attached ring shows that a device has ever used it; only a packed ring can tell."""
        return False

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def step_back(self, slots: cython.int) -> cython.void:
        pass

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def get_base(self) -> uint32_t:
        return 0

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def set_base(self, value: uint32_t) -> cython.void:
        pass
