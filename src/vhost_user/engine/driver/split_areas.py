"""The areas of a split ring as the driver has them, and raw access for tests that break rules (types: split_areas.pyi)."""

import cython
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free, malloc
from cython.cimports.libc.string import memset
from cython.cimports.vhost_user.engine.barriers import (
    load_16,
    load_32,
    load_acquire_16,
    store_16,
    store_32,
    store_64,
    store_release_16,
)
from cython.cimports.vhost_user.engine.driver.queue import DriverQueue
from cython.cimports.vhost_user.engine.driver.split_areas import SplitDescriptor
from cython.cimports.vhost_user.engine.ring_layout import (
    INDEX_AT,
    avail_entry_at,
    avail_event_at,
    avail_size,
    descriptor_at,
    used_entry_at,
    used_event_at,
    used_size,
)

from vhost_user.engine.errors import RingValueError


@cython.cclass
class SplitAreas(DriverQueue):
    """The part of ``SplitDriverQueue`` that tests reach into. Slots wrap at the ring size (V002)."""

    def __dealloc__(self):
        free(self.links)
        free(self.known)

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def prepare(self) -> cython.int:
        if self.size & (self.size - 1):
            raise RingValueError(f"a split ring has a power of two of descriptors, not {self.size}", rule="C070", queue=self.index)
        self.packed = False
        self.links = cython.cast(cython.pointer(uint16_t), malloc(self.size * 2))
        self.known = cython.cast(cython.pointer(SplitDescriptor), calloc(self.size, cython.sizeof(SplitDescriptor)))
        if self.links == cython.NULL or self.known == cython.NULL:
            raise MemoryError
        self.lay_out(descriptor_at(self.size), avail_size(self.size), 2, used_size(self.size), 4)
        self.descriptors = cython.cast(
            cython.pointer(SplitDescriptor), self.memory.translate(self.descriptor_address, descriptor_at(self.size))
        )
        self.avail = self.memory.translate(self.driver_address, avail_size(self.size))
        self.used = self.memory.translate(self.device_address, used_size(self.size))
        return 0

    # raw access, for tests that break rules: nothing here is checked against the driver's record

    def write_descriptor(self, i, address, length, flags=0, next=0):
        """Write an entry of the descriptor table as it is."""
        at: cython.int = self.position(i)
        descriptor: cython.pointer(SplitDescriptor) = self.descriptors + at
        memset(self.known + at, 0xFF, cython.sizeof(SplitDescriptor))
        store_64(cython.address(descriptor.address), address)
        store_32(cython.address(descriptor.length), length)
        store_16(cython.address(descriptor.flags), flags)
        store_16(cython.address(descriptor.next), next)

    def read_descriptor(self, i):
        """(address, length, flags, next)."""
        descriptor: cython.pointer(SplitDescriptor) = self.descriptors + self.position(i)
        return descriptor.address, descriptor.length, descriptor.flags, descriptor.next

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def position(self, i: cython.int) -> cython.int:
        self.open_ring()
        if not 0 <= i < self.size:
            raise IndexError(f"queue {self.index}: descriptor {i} of {self.size}")
        return i

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def open_ring(self) -> cython.int:
        if self.closed:
            raise ValueError(f"queue {self.index} is closed")
        return 0

    def write_avail(self, slot: cython.int, head):
        """Write an entry of the available ring; the index stays."""
        self.open_ring()
        store_16(self.avail + avail_entry_at(slot & (self.size - 1)), head)

    def read_avail(self, slot: cython.int):
        """An entry of the available ring."""
        self.open_ring()
        return load_16(self.avail + avail_entry_at(slot & (self.size - 1)))

    def set_avail_index(self, value):
        """Write the available index, with release order."""
        self.open_ring()
        store_release_16(self.avail + INDEX_AT, value & 0xFFFF)

    @property
    def avail_index(self):
        """The available index as it is in memory."""
        self.open_ring()
        return load_16(self.avail + INDEX_AT)

    @property
    def avail_flags(self):
        """The flags of the available ring."""
        self.open_ring()
        return load_16(self.avail)

    def set_avail_flags(self, value):
        """Write the flags of the available ring."""
        self.open_ring()
        store_16(self.avail, value)

    @property
    def used_event(self):
        """The used event index, which says when the driver wants a call."""
        self.open_ring()
        return load_16(self.avail + used_event_at(self.size))

    def set_used_event(self, value):
        """Write the used event index."""
        self.open_ring()
        store_16(self.avail + used_event_at(self.size), value & 0xFFFF)

    @property
    def used_index(self):
        """The used index as it is in memory."""
        self.open_ring()
        return load_acquire_16(self.used + INDEX_AT)

    @property
    def used_flags(self):
        """The flags of the used ring."""
        self.open_ring()
        return load_16(self.used)

    def set_used_flags(self, value):
        """Write the flags of the used ring, as the device would."""
        self.open_ring()
        store_16(self.used, value)

    @property
    def avail_event(self):
        """The available event index, which says when the device wants a kick."""
        self.open_ring()
        return load_16(self.used + avail_event_at(self.size))

    def set_avail_event(self, value):
        """Write the available event index, as the device would."""
        self.open_ring()
        store_16(self.used + avail_event_at(self.size), value & 0xFFFF)

    def read_used(self, slot: cython.int):
        """(id, length)."""
        self.open_ring()
        element: cython.pointer(uint8_t) = self.used + used_entry_at(slot & (self.size - 1))
        return load_32(element), load_32(element + 4)

    def write_used(self, slot: cython.int, id, length):
        """Write an entry of the used ring, as the device would; the index stays."""
        self.open_ring()
        element: cython.pointer(uint8_t) = self.used + used_entry_at(slot & (self.size - 1))
        store_32(element, id)
        store_32(element + 4, length)

    def set_used_index(self, value):
        """Write the used index, as the device would."""
        self.open_ring()
        store_release_16(self.used + INDEX_AT, value & 0xFFFF)
