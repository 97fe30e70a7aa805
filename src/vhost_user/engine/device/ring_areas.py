"""The areas of a ring in guest memory, and what each format does there its own way.

Area pointers are valid while ``memory`` is set: the Vring holds that snapshot and detaches before it lets it go.
"""

import cython
from cython.cimports.libc.stdint import int64_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.vhost_user.engine.device.chain import Chain
from cython.cimports.vhost_user.engine.device.ring_areas import MISSES, Miss
from cython.cimports.vhost_user.engine.memory.guest_memory import GuestMemory
from cython.cimports.vhost_user.engine.memory.iotlb import FOUND, MAY_READ, MAY_WRITE, Iotlb
from cython.cimports.vhost_user.engine.memory.region import MemoryRegion
from cython.cimports.vhost_user.engine.memory.window import window_close, window_open, window_written


@cython.cclass
class RingAreas:
    def __dealloc__(self):
        free(self.misses)
        self.detach()

    @cython.cfunc
    def attach(self, memory: GuestMemory, iotlb: Iotlb) -> cython.bint:
        """Translate the three areas in ``memory``, through ``iotlb`` if there is one; each must lie whole in one region, aligned here too (C071). False: the ring pauses (C044).

        A region's file offset can put an aligned guest address at an odd place of ours, where no access is atomic. Natural
        alignment of the widest field is what we need: 64, 16 and 32 bits.
        """
        pointers: cython.p_char[3]
        self.detach()
        # Dropped at once, so that a region taken out of the table is unmapped even if the ring lay in it; the caller keeps
        # both until the lock is free, because freeing them here could run Python code.
        self.memory = None
        self.regions = None
        self.iotlb = iotlb
        self.miss_count = 0
        if memory is None or self.size == 0 or memory.closed_already():
            return False
        self.memory = memory
        if not self.locate(pointers):
            self.memory = None
            return False
        # The caller has pinned `memory`, so nobody takes its regions away meanwhile.
        self.regions = memory.mapped_regions
        # An IOVA lies near nothing: the entry after the last of the table has no size, so that every buffer goes the longer way.
        self.near = memory.table if iotlb is None else memory.table + memory.count
        self.descriptors = pointers[0]
        self.driver_area = pointers[1]
        self.device_area = pointers[2]
        for index in range(self.deferred_count):
            self.emit(self.deferred[index].head, self.deferred[index].slots, self.deferred[index].length)
        self.deferred_count = 0
        return True

    @cython.cfunc
    def locate(self, pointers: cython.pointer[cython.p_char]) -> cython.bint:
        """Where the areas lie. With an IOMMU the addresses of this ring become guest addresses, which is what the log wants."""
        # C arrays, not a tuple: making a Python object under the lock could start the garbage collector.
        run: uint64_t = 0
        outcome: cython.int = 0
        addresses: uint64_t[3]
        guest: uint64_t[3]
        area: cython.int
        log: uint64_t = 0
        whole: cython.bint = True
        addresses[0] = self.descriptor_address
        addresses[1] = self.driver_address
        addresses[2] = self.device_address
        self.scattered = False
        lost: cython.pointer[cython.int] = cython.NULL
        if len(self.memory.mapped_regions) > 0:
            lost = cython.address(cython.cast(MemoryRegion, self.memory.mapped_regions[0]).mapping.lost)
        for area in range(3):
            if self.iotlb is not None:
                # Not at the first that is missing: they are all asked for at once.
                pointers[area] = self.span(area, addresses[area], self.area_size(area), cython.address(guest[area]), lost)
            else:
                pointers[area] = self.memory.translate(addresses[area], self.area_size(area), cython.address(run))
                if run < self.area_size(area):
                    return False
            if pointers[area] == cython.NULL or cython.cast(uint64_t, pointers[area]) & ((8 if area == 0 else 4 if area == 2 else 2) - 1):
                whole = False
        if whole and self.iotlb is not None:
            self.descriptor_address = guest[0]
            self.driver_address = guest[1]
            self.device_address = guest[2]
            # The log address is an IOVA too, in practice that of the used ring.
            if (
                self.iotlb.translate(self.log_address, 1, MAY_WRITE, cython.address(run), cython.address(log), cython.address(outcome))
                != cython.NULL
            ):
                self.log_address = log
            else:
                self.log_address = guest[2]
        return whole

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def area_permission(self, area: cython.int) -> cython.int:
        return MAY_READ if area < 2 else MAY_WRITE

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def span(
        self,
        area: cython.int,
        iova: uint64_t,
        length: uint64_t,
        guest: cython.pointer[uint64_t],
        lost: cython.pointer[cython.int],
    ) -> cython.p_char:
        """An area at a range of IOVAs, in one piece; NULL, with what is missing noted, if it is not all there.

        ``guest`` is where the log has it; of pages that lie apart, where the first does.
        """
        permission: cython.int = self.area_permission(area)
        first: uint64_t = iova
        whole: uint64_t = length
        run: uint64_t = 0
        outcome: cython.int = FOUND
        other: uint64_t = 0
        missing: cython.bint = False
        start: cython.p_char
        start = self.iotlb.translate(iova, length, permission, cython.address(run), guest, cython.address(outcome))
        if start != cython.NULL and run == length:
            return start
        # Denied or not: a ring cannot do without, so it is asked for again whenever somebody looks here.
        while length > 0:
            if (
                self.iotlb.translate(iova, length, permission, cython.address(run), cython.address(other), cython.address(outcome))
                == cython.NULL
            ):
                missing = True
                if not self.miss(iova, permission):
                    break
            iova += run
            length -= run
            if iova == 0:
                break
        if missing or lost == cython.NULL:
            return cython.NULL
        start = window_open(cython.address(self.windows[area]), self.iotlb, first, whole, permission, lost)
        self.scattered = self.scattered or start == cython.NULL
        return start

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def miss(self, iova: uint64_t, permission: cython.int) -> cython.bint:
        """Note a translation that is lacking; False when no more can be noted."""
        if self.misses == cython.NULL:
            self.misses = cython.cast(cython.pointer[Miss], calloc(MISSES, cython.sizeof(Miss)))
            if self.misses == cython.NULL:
                return False
        if self.miss_count == MISSES:
            return False
        self.misses[self.miss_count].iova = iova
        self.misses[self.miss_count].permission = permission
        self.miss_count += 1
        return True

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def detach(self) -> cython.void:
        # `memory` itself is dropped by the caller, with the GIL.
        area: cython.int
        self.descriptors = cython.NULL
        self.driver_area = cython.NULL
        self.device_area = cython.NULL
        for area in range(3):
            window_close(cython.address(self.windows[area]))

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
            if self.windows[2].base != cython.NULL:
                window_written(cython.address(self.windows[2]), self.memory.bitmap, offset, length)
            else:
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
