"""The driver's memory: memfds that we own and share with a back-end, and an allocator of guest addresses in them.

Shared and sealed against shrinking (V057), so that the peer can neither take pages away nor make us fault.
"""

import fcntl
import os

import cython
from cython.cimports.cpython.buffer import PyBuffer_FillInfo
from cython.cimports.libc.stdint import uint8_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.posix.mman import MAP_ANONYMOUS, MAP_FAILED, MAP_FIXED, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap
from cython.cimports.posix.unistd import close

from vhost_user.engine.errors import MemoryFault, MemoryTableError

MAX_REGIONS = 512
DEFAULT_GUEST_ADDRESS = 0x1000_0000
USER_ADDRESS_OFFSET = 0x7F00_0000_0000
PAGE = 4096


def _round_up(value, step):
    return (value + step - 1) // step * step


@cython.cclass
class DriverRegion:
    """DriverRegion(size, *, guest_address=0, user_address=None, file_offset=0, seal=True,
        name='vhost-user-guest')\n--\n\n\
    One region of the driver's memory.

    A memfd of ``file_offset + size`` bytes, mapped shared and sealed against shrinking (V057).

    ``guest_address`` and ``user_address`` are what the memory table will say; ``file_offset`` (mmap_offset)
    may have any alignment (C036). The mapping goes at ``close`` or when the last view and queue that use it
    do. Raises MemoryTableError for a range that wraps or cannot be mapped.
    """

    def __init__(self, size, *, guest_address=0, user_address=None, file_offset=0, seal=True, name="vhost-user-guest"):
        self.fd = -1
        self.closed = True
        if size <= 0 or file_offset < 0 or guest_address < 0 or guest_address + size > 1 << 64:
            raise MemoryTableError(f"region {guest_address:#x}+{size:#x} at file offset {file_offset:#x} is not a range", rule="C038")
        self.size = size
        self.guest_address = guest_address
        self.user_address = guest_address + USER_ADDRESS_OFFSET if user_address is None else user_address
        self.file_offset = file_offset
        self.fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        length: cython.size_t = _round_up(file_offset + size, PAGE)
        os.ftruncate(self.fd, length)
        if seal:
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
        address: cython.p_void = mmap(cython.NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, self.fd, 0)
        if address == MAP_FAILED:
            os.close(self.fd)
            self.fd = -1
            raise MemoryTableError(f"cannot map {length:#x} bytes of driver memory")
        self.map_base = cython.cast(cython.pointer(uint8_t), address)
        self.map_length = length
        self.base = self.map_base + self.file_offset
        self.closed = False

    def __dealloc__(self):
        if self.map_base != cython.NULL:
            munmap(self.map_base, self.map_length)
            self.map_base = cython.NULL
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    @cython.cfunc
    @cython.exceptval(check=False)
    def pin(self) -> cython.void:
        with cython.critical_section(self):
            self.pins += 1

    @cython.cfunc
    @cython.exceptval(check=False)
    def unpin(self) -> cython.void:
        with cython.critical_section(self):
            self.pins -= 1
            self.unmap_if_unused()

    @cython.cfunc
    @cython.exceptval(check=False)
    def unmap_if_unused(self) -> cython.void:
        if self.closed and self.pins <= 0 and self.map_base != cython.NULL:
            munmap(self.map_base, self.map_length)
            self.map_base = cython.NULL
            self.base = cython.NULL

    def __getbuffer__(self, buffer: cython.pointer(cython.Py_buffer), flags: cython.int):
        with cython.critical_section(self):
            if self.closed:
                raise MemoryTableError("the region is closed")
            PyBuffer_FillInfo(buffer, self, self.base, self.size, 0, flags)
            self.pins += 1

    def __releasebuffer__(self, buffer: cython.pointer(cython.Py_buffer)):
        self.unpin()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def truncate(self, size):
        """Cut the file, as a careless front-end does (needs ``seal=False``).

        What we still map beyond it becomes zero pages of our own (H85).
        """
        if self.closed:
            raise MemoryTableError("the region is closed")
        keep: cython.size_t = _round_up(size, PAGE)
        os.ftruncate(self.fd, size)
        # Our own accesses must not fault where the pages went: zero pages of our own take their place.
        if keep < self.map_length:
            mmap(self.map_base + keep, self.map_length - keep, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0)

    def close(self):
        """Unmap the region and close its file. Views of it must be gone."""
        with cython.critical_section(self):
            if self.closed:
                return
            self.closed = True
            close(self.fd)
            self.fd = -1
            self.unmap_if_unused()

    def __repr__(self):
        state = "closed" if self.closed else f"fd {self.fd}"
        return (
            f"<DriverRegion guest {self.guest_address:#x}+{self.size:#x}, user {self.user_address:#x}, "
            f"file offset {self.file_offset:#x}, {state}>"
        )


@cython.cclass
class DriverMemory:
    """DriverMemory(regions=67108864)\n--\n\n\
    The regions of one driver and an allocator over them.

    An int means one region of that many bytes at DEFAULT_GUEST_ADDRESS.

    Addresses are guest addresses. Reads, writes and views must lie inside one region, else MemoryFault.
    """

    def __cinit__(self):
        self.windows = cython.cast(cython.pointer(Window), calloc(512, cython.sizeof(Window)))
        if self.windows == cython.NULL:
            raise MemoryError
        self.count = 0

    def __init__(self, regions=64 << 20):
        self._regions = []
        self.tips = []
        self.blocks = {}
        self.free_blocks = {}
        self.spans = []
        if isinstance(regions, int):
            regions = [DriverRegion(regions, guest_address=DEFAULT_GUEST_ADDRESS)]
        for region in regions:
            self.add_region(region)

    def __dealloc__(self):
        free(self.windows)

    @property
    def regions(self):
        """The regions, by guest address."""
        with cython.critical_section(self):
            return tuple(self._regions)

    @cython.critical_section
    def add_region(self, region: DriverRegion):
        """Add a region; MemoryTableError if it overlaps another in guest addresses."""
        if self.count == 512:
            raise MemoryTableError("more than 512 regions", rule="C043")
        other: DriverRegion
        for other in self._regions:
            if region.guest_address < other.guest_address + other.size and other.guest_address < region.guest_address + region.size:
                raise MemoryTableError(f"{region!r} overlaps {other!r}", rule="C037")
        region.pin()
        self._regions.append(region)
        self.tips.append(region.guest_address)
        window: Window
        window.guest_address = region.guest_address
        window.size = region.size
        window.base = region.base
        self.windows[self.count] = window
        self.count += 1

    @cython.critical_section
    def remove_region(self, region: DriverRegion):
        """Take a region out; what was allocated in it is forgotten. The caller still owns (and closes) it."""
        position: cython.int = 0
        i: cython.int
        while position < self.count and self._regions[position] is not region:
            position += 1
        if position == self.count:
            raise ValueError(f"{region!r} is not in this memory")
        for i in range(position, self.count - 1):
            self.windows[i] = self.windows[i + 1]
        self.count -= 1
        del self._regions[position]
        del self.tips[position]
        low, high = region.guest_address, region.guest_address + region.size
        self.blocks = {address: size for address, size in self.blocks.items() if not low <= address < high}
        self.free_blocks = {
            size: kept
            for size, addresses in self.free_blocks.items()
            if (kept := [address for address in addresses if not low <= address < high])
        }
        self.spans = [span for span in self.spans if not low <= span[0] < high]
        region.unpin()

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def translate(self, address: uint64_t, length: uint64_t) -> cython.pointer(uint8_t):
        i: cython.int
        for i in range(self.count):
            if address >= self.windows[i].guest_address:
                offset: uint64_t = address - self.windows[i].guest_address
                if offset < self.windows[i].size and length <= self.windows[i].size - offset:
                    return self.windows[i].base + offset
        return cython.NULL

    @cython.cfunc
    @cython.critical_section
    def region_of(self, address: uint64_t) -> DriverRegion:
        region: DriverRegion
        for region in self._regions:
            if region.guest_address <= address and address - region.guest_address < region.size:
                return region
        raise MemoryFault(address, 1)

    @cython.critical_section
    def allocate(self, size, alignment=16):
        """Guest address of ``size`` bytes inside one region; raises MemoryError when there is no room."""
        if size <= 0 or alignment <= 0 or alignment & (alignment - 1):
            raise ValueError(f"cannot allocate {size} bytes aligned to {alignment}")
        step = 64 if size <= PAGE else PAGE
        if alignment > step:
            step = alignment
        rounded = _round_up(size, step)
        recycled = self.free_blocks.get(rounded)
        if recycled:
            for position in range(len(recycled) - 1, -1, -1):
                if recycled[position] % alignment == 0:
                    address = recycled.pop(position)
                    self.blocks[address] = rounded
                    return address
        address = self.from_tips(rounded, step)
        if address is None:
            self.merge_free_blocks()
            address = self.from_spans(rounded, step)
            if address is None:
                address = self.from_tips(rounded, step)
        if address is None:
            in_use = sum(self.blocks.values())
            raise MemoryError(f"driver memory is full: {size} bytes wanted, {in_use:#x} in use in {self.count} regions")
        self.blocks[address] = rounded
        return address

    @cython.cfunc
    def from_tips(self, rounded, step):
        position: cython.int
        for position in range(self.count):
            region: DriverRegion = self._regions[position]
            address = _round_up(self.tips[position], step)
            if address + rounded <= region.guest_address + region.size:
                if address > self.tips[position]:
                    self.spans.append((self.tips[position], address - self.tips[position]))
                self.tips[position] = address + rounded
                return address
        return None

    @cython.cfunc
    def from_spans(self, rounded, step):
        for position, (start, length) in enumerate(self.spans):
            address = _round_up(start, step)
            if address + rounded <= start + length:
                del self.spans[position]
                if address > start:
                    self.spans.append((start, address - start))
                if start + length > address + rounded:
                    self.spans.append((address + rounded, start + length - address - rounded))
                return address
        return None

    @cython.cfunc
    def merge_free_blocks(self):
        spans = list(self.spans)
        for size, addresses in self.free_blocks.items():
            spans.extend((address, size) for address in addresses)
        self.free_blocks.clear()
        spans.sort()
        merged = []
        end = None
        for start, length in spans:
            if end == start:
                begin, before = merged.pop()
                start, length = begin, before + length
            merged.append((start, length))
            end = start + length
        self.spans = []
        for start, length in merged:
            if start + length in self.tips:
                self.tips[self.tips.index(start + length)] = start
            else:
                self.spans.append((start, length))

    def free(self, address):
        """Give an allocation back; raises ValueError for an address that is not one."""
        if not self.release(address):
            raise ValueError(f"guest address {address:#x} was not allocated, or was freed already")

    @cython.cfunc
    @cython.critical_section
    def release(self, address):
        """As ``free``; False for an address that is not an allocation, or was forgotten with its region."""
        size = self.blocks.pop(address, None)
        if size is None:
            return False
        self.free_blocks.setdefault(size, []).append(address)
        return True

    def read(self, address, length):
        """``length`` bytes from a guest address on; MemoryFault if they do not lie in one region."""
        pointer: cython.pointer(uint8_t) = self.translate(address, length)
        if pointer == cython.NULL:
            raise MemoryFault(address, length)
        return cython.cast(cython.p_char, pointer)[:length]

    def write(self, address, data):
        """Write bytes at a guest address; MemoryFault if they do not lie in one region."""
        view: cython.const[uint8_t][::1]
        if len(data) == 0:
            return
        view = memoryview(data).cast("B") if not isinstance(data, bytes) else data
        pointer: cython.pointer(uint8_t) = self.translate(address, view.shape[0])
        if pointer == cython.NULL:
            raise MemoryFault(address, view.shape[0])
        memcpy(pointer, cython.address(view[0]), view.shape[0])

    def fill(self, address, length, byte):
        """Write ``length`` times the same byte at a guest address."""
        pointer: cython.pointer(uint8_t) = self.translate(address, length)
        if pointer == cython.NULL:
            raise MemoryFault(address, length)
        memset(pointer, byte, length)

    def view(self, address, length):
        """A writable view of a range in one region; it keeps the memory mapped."""
        region: DriverRegion = self.region_of(address)
        offset = address - region.guest_address
        if length > region.size - offset:
            raise MemoryFault(address, length)
        return memoryview(region)[offset : offset + length]

    def guest_to_user(self, address):
        """The front-end's address of a guest address, as in SET_VRING_ADDR (C045)."""
        region: DriverRegion = self.region_of(address)
        return region.user_address + (address - region.guest_address)

    @property
    def allocated(self):
        """Bytes handed out and not freed."""
        with cython.critical_section(self):
            blocks: dict = self.blocks.copy()
        return sum(blocks.values())

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        """Close every region."""
        region: DriverRegion
        with cython.critical_section(self):
            regions: list = self._regions
            self._regions = []
            self.tips = []
            self.blocks = {}
            self.free_blocks = {}
            self.spans = []
            self.count = 0
        for region in regions:
            region.close()
            region.unpin()
