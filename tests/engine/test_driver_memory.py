"""The memory of the driver: sealed, shared, at any file offset; its allocator neither overlaps nor leaks."""

import fcntl
import gc
import mmap
import os
import random
from pathlib import Path

import pytest

from vhost_user.engine.driver.memory import DEFAULT_GUEST_ADDRESS, DriverMemory, DriverRegion
from vhost_user.engine.errors import MemoryFault, MemoryTableError


def mappings(name: str) -> int:
    return Path("/proc/self/maps").read_text().count(name)


def test_V057_memory_is_a_shared_memfd_sealed_against_shrinking() -> None:
    with DriverRegion(8192) as region:
        assert fcntl.fcntl(region.fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
        with pytest.raises(PermissionError):
            os.ftruncate(region.fd, 4096)
        with mmap.mmap(region.fd, 8192) as other:
            memoryview(region)[5] = 77
            assert other[5] == 77
            other[6] = 78
            assert memoryview(region)[6] == 78


@pytest.mark.parametrize("offset", [0, 1, 4096, 12345])
def test_C036_a_region_begins_anywhere_in_its_file(offset: int) -> None:
    with DriverRegion(5000, guest_address=0x1000, file_offset=offset) as region:
        memoryview(region)[:5] = b"hello"
        assert os.pread(region.fd, 5, offset) == b"hello"
        assert os.fstat(region.fd).st_size >= offset + 5000


def test_C045_user_addresses_differ_from_guest_addresses_unless_told() -> None:
    with DriverMemory([DriverRegion(4096, guest_address=0x1000)]) as memory:
        assert memory.guest_to_user(0x1010) == 0x7F00_0000_1010
    with DriverMemory([DriverRegion(4096, guest_address=0x1000, user_address=0x1000)]) as memory:
        assert memory.guest_to_user(0x1010) == 0x1010


@pytest.mark.parametrize(("guest", "size"), [((1 << 64) - 4096, 8192), (0, 0), (-1, 4096)])
def test_C038_a_region_that_wraps_or_has_no_size_is_refused(guest: int, size: int) -> None:
    with pytest.raises(MemoryTableError, match="C038"):
        DriverRegion(size, guest_address=guest)


def test_C037_overlapping_regions_are_refused() -> None:
    with (
        DriverRegion(8192, guest_address=0) as one,
        DriverRegion(8192, guest_address=4096) as two,
        pytest.raises(MemoryTableError, match="C037"),
    ):
        DriverMemory([one, two])


def test_reads_and_writes_stay_inside_one_region() -> None:
    regions = [DriverRegion(4096, guest_address=0), DriverRegion(4096, guest_address=4096)]
    with DriverMemory(regions) as memory:
        memory.write(4090, b"123456")
        assert memory.read(4090, 6) == b"123456"
        memory.fill(4096, 4, 0xEE)
        assert memory.view(4096, 5).tobytes() == b"\xee\xee\xee\xee\0"
        memory.write(8, bytearray(b"abc"))
        memory.write(8, memoryview(b"xyzw")[1:])
        assert memory.read(8, 3) == b"yzw"
        for address, length in ((4090, 7), (8192, 1), (1 << 40, 1), (0, 1 << 63)):
            with pytest.raises(MemoryFault):
                memory.read(address, length)
        with pytest.raises(MemoryFault):
            memory.view(4090, 7)


def test_the_allocator_never_overlaps_and_takes_everything_back() -> None:
    generator = random.Random(7)
    with DriverMemory(1 << 20) as memory:
        held: dict[int, int] = {}
        for _ in range(3000):
            if held and generator.random() < 0.5:
                address = generator.choice(list(held))
                held.pop(address)
                memory.free(address)
                continue
            size = generator.choice([1, 16, 100, 4096, 5000, 20000])
            alignment = generator.choice([1, 16, 512, 4096])
            try:
                address = memory.allocate(size, alignment)
            except MemoryError:
                memory.free(held_address := next(iter(held)))
                held.pop(held_address)
                continue
            assert address % alignment == 0
            assert address + size <= DEFAULT_GUEST_ADDRESS + (1 << 20)
            for other, length in held.items():
                assert address + size <= other or other + length <= address
            held[address] = size
        for address in held:
            memory.free(address)
        assert memory.allocated == 0
        memory.free(memory.allocate(1 << 20))  # pieces grow together again


def test_allocating_too_much_and_freeing_twice_are_errors() -> None:
    with DriverMemory(65536) as memory:
        with pytest.raises(MemoryError, match="full"):
            memory.allocate(65537)
        address = memory.allocate(10)
        memory.free(address)
        with pytest.raises(ValueError, match="freed already"):
            memory.free(address)


def test_regions_come_and_go() -> None:
    with DriverMemory(4096) as memory, DriverRegion(4096, guest_address=0x5000_0000) as region:
        memory.add_region(region)
        memory.write(0x5000_0000, b"x")
        memory.remove_region(region)
        with pytest.raises(MemoryFault):
            memory.read(0x5000_0000, 1)


def test_C135_H52_mappings_and_descriptors_go_with_close_and_last_view() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    region = DriverRegion(4096, name="vhost-user-leak-test")
    view = memoryview(region)
    assert mappings("vhost-user-leak-test") == 1
    region.close()
    region.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    view[0] = 1  # a view keeps the pages
    assert mappings("vhost-user-leak-test") == 1
    view.release()
    assert mappings("vhost-user-leak-test") == 0
    with pytest.raises(MemoryTableError):
        memoryview(region)
    dropped = DriverRegion(4096, name="vhost-user-leak-test")
    del dropped
    gc.collect()
    assert mappings("vhost-user-leak-test") == 0
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_H85_truncating_an_unsealed_region_does_not_hurt_us() -> None:
    with DriverRegion(16384, seal=False) as region:
        view = memoryview(region)
        view[10000] = 1
        region.truncate(4096)
        assert os.fstat(region.fd).st_size == 4096
        assert view[10000] == 0
        view.release()
