"""Regions and snapshots of guest memory: C036 to C048, H36, H78, C134."""

from __future__ import annotations

import gc
import os
import random
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from vhost_user.engine.driver.memory import DriverRegion
from vhost_user.engine.errors import MemoryFault, MemoryTableError
from vhost_user.engine.memory.atomic import GuestMemoryAtomic
from vhost_user.engine.memory.guest_memory import MAX_REGIONS, GuestMemory
from vhost_user.engine.memory.mapping import live_mappings
from vhost_user.engine.memory.region import MemoryRegion

TOP = 1 << 64
BASE = 0x1000_0000


@pytest.fixture(autouse=True)
def nothing_stays_mapped() -> Iterator[None]:
    before = live_mappings()
    yield
    if live_mappings() != before:
        gc.collect()
    assert live_mappings() == before


@pytest.fixture
def fd() -> Iterator[int]:
    """A file of 64 KiB, each word its own number."""
    number = os.memfd_create("test")
    os.write(number, b"".join(index.to_bytes(4, "little") for index in range(16384)))
    yield number
    os.close(number)


def region(fd: int, guest: int, size: int = 4096, user: int | None = None, offset: int = 0) -> MemoryRegion:
    return MemoryRegion(fd, guest_address=guest, size=size, user_address=user, file_offset=offset)


@pytest.mark.parametrize("offset", [0, 1, 4, 4095, 4096, 4100, 12289])
@pytest.mark.parametrize("size", [1, 4096, 5000])
def test_C036_a_region_begins_at_its_file_offset_whatever_that_is(fd: int, offset: int, size: int) -> None:
    memory = GuestMemory([region(fd, BASE, size, offset=offset)])
    assert memory.read(BASE, size) == os.pread(fd, size, offset)
    memory.write(BASE + size - 1, b"!")
    assert os.pread(fd, 1, offset + size - 1) == b"!"
    assert not memory.is_mapped(BASE, size + 1)
    assert not memory.is_mapped(BASE - 1, 1)
    memory.close()


def test_C036_the_fd_is_not_kept(fd: int) -> None:
    other = os.dup(fd)
    files = len(list(Path("/proc/self/fd").iterdir()))
    memory = GuestMemory([region(other, BASE)])
    assert len(list(Path("/proc/self/fd").iterdir())) == files
    os.close(other)
    assert memory.read(BASE, 4) == b"\0" * 4
    memory.close()


def test_C036_what_cannot_be_mapped_is_refused() -> None:
    with tempfile.NamedTemporaryFile() as stream:
        stream.truncate(8192)
        with Path(stream.name).open("rb") as readable, pytest.raises(MemoryTableError, match="writable"):
            region(readable.fileno(), BASE)
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(MemoryTableError, match="C036"):
        region(ours.fileno(), BASE)
    with pytest.raises(MemoryTableError, match="C036"):
        region(-1, BASE)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((0, 0), (0, 8192)),
        ((0, 0), (4095, 8192)),
        ((4095, 0), (0, 8192)),
        ((0, 0), (8192, 4095)),
        ((0, 4095), (8192, 0)),
    ],
)
def test_C037_regions_must_not_overlap(fd: int, first: tuple[int, int], second: tuple[int, int]) -> None:
    with pytest.raises(MemoryTableError, match="C037"):
        GuestMemory([region(fd, first[0], user=first[1]), region(fd, second[0], user=second[1])])


def test_C037_neighbours_do_not_overlap(fd: int) -> None:
    memory = GuestMemory(
        [region(fd, 4096, user=0), region(fd, 0, user=4096), region(fd, TOP - 4096, user=8192)]
    )
    assert [entry.guest_address for entry in memory.regions] == [0, 4096, TOP - 4096]
    assert memory.user_to_guest(0) == 4096
    assert memory.user_to_guest(4096) == 0
    assert memory.is_mapped(TOP - 1, 1)
    memory.close()


@pytest.mark.parametrize(
    ("guest", "user", "size", "offset"),
    [
        (0, 0, 0, 0),
        (TOP - 4095, 0, 4096, 0),
        (0, TOP - 4095, 4096, 0),
        (0, 0, 4096, TOP - 4095),
        (0, 0, 4096, (1 << 63) - 4096),
        (0, 0, (1 << 64) - 1, 0),
        (0, 0, 1 << 63, 0),
        (-1, 0, 4096, 0),
        (0, -1, 4096, 0),
        (0, 0, -1, 0),
        (0, 0, 4096, -1),
    ],
)
def test_C038_H36_sums_that_wrap_and_empty_regions(
    fd: int, guest: int, user: int, size: int, offset: int
) -> None:
    with pytest.raises(MemoryTableError, match="C038"):
        region(fd, guest, size, user, offset)


@pytest.mark.parametrize(
    ("size", "offset"), [(65537, 0), (65536, 1), (1, 65536), (1 << 40, 0), (4096, 1 << 40)]
)
def test_C039_a_file_that_is_too_short(fd: int, size: int, offset: int) -> None:
    with pytest.raises(MemoryTableError, match="C039"):
        region(fd, BASE, size, offset=offset)


def test_C042_a_region_leaves_by_all_three_numbers(fd: int) -> None:
    both = GuestMemory([region(fd, 0, user=BASE), region(fd, 8192, user=BASE + 8192)])
    for wrong in ((0, BASE, 4095), (0, BASE + 8192, 4096), (4096, BASE, 4096)):
        with pytest.raises(MemoryTableError, match="C042"):
            both.without_region(*wrong)
    one = both.without_region(0, BASE, 4096)
    assert [entry.guest_address for entry in one.regions] == [8192]
    assert len(both.regions) == 2
    three = both.with_region(region(fd, 4096, user=BASE + 4096))
    assert len(three.regions) == 3
    with pytest.raises(MemoryTableError, match="C037"):
        three.with_region(region(fd, 4096, user=0))
    assert one.bitmap is both.bitmap is three.bitmap


def test_C043_no_more_regions_than_promised(fd: int) -> None:
    regions = [region(fd, 4096 * index, user=4096 * index) for index in range(MAX_REGIONS + 1)]
    with pytest.raises(MemoryTableError, match="C043"):
        GuestMemory(regions)
    memory = GuestMemory(regions[1:])
    for index in (1, 2, 255, MAX_REGIONS):
        assert memory.is_mapped(4096 * index + 4095, 1)
    assert not memory.is_mapped(0, 1)


def test_C045_user_addresses_are_translated_with_their_length(fd: int) -> None:
    memory = GuestMemory([region(fd, BASE, user=0x7F00_0000_0000)])
    assert memory.user_to_guest(0x7F00_0000_0000, 4096) == BASE
    assert memory.user_to_guest(0x7F00_0000_0FFF) == BASE + 0xFFF
    for address, length in (
        (0x7F00_0000_0000, 4097),
        (0x7F00_0000_0FFF, 2),
        (BASE, 1),
        (0, 1),
        (0x7F00_0000_1000, 1),
    ):
        with pytest.raises(MemoryFault):
            memory.user_to_guest(address, length)


def test_C046_guest_address_zero_is_an_address(fd: int) -> None:
    memory = GuestMemory([region(fd, 0)])
    assert memory.read(0, 8) == b"\0\0\0\0\1\0\0\0"
    assert memory.user_to_guest(0) == 0


def test_C048_reads_and_writes_cross_regions(fd: int) -> None:
    memory = GuestMemory(
        [
            region(fd, 0, offset=8192),
            region(fd, 4096, user=1 << 40),
            region(fd, 8192, user=1 << 41, offset=4096),
        ]
    )
    expected = os.pread(fd, 4096, 8192) + os.pread(fd, 4096, 0) + os.pread(fd, 4096, 4096)
    assert memory.read(0, 12288) == expected
    memory.write(4090, b"abcdefghijkl")
    assert os.pread(fd, 6, 8192 + 4090) == b"abcdef"
    assert os.pread(fd, 6, 0) == b"ghijkl"
    with pytest.raises(MemoryFault):
        memory.view(4090, 12)


@pytest.mark.parametrize(
    ("address", "length"),
    [
        (TOP, 0),
        (TOP, 1),
        (TOP - 1, 2),
        (-1, 1),
        (0, -1),
        (BASE - 1, 1),
        (BASE + 4095, 2),
        (0, TOP),
        (BASE, TOP),
        (1 << 70, 1),
    ],
)
def test_V011_H78_ranges_that_are_not_mapped(fd: int, address: int, length: int) -> None:
    memory = GuestMemory([region(fd, BASE)])
    assert not memory.is_mapped(address, length)
    with pytest.raises(MemoryFault):
        memory.read(address, length)
    with pytest.raises(MemoryFault):
        memory.view(address, max(length, 1))
    if 0 < length < 100:
        with pytest.raises(MemoryFault):
            memory.write(address, b"x" * length)


def test_V011_nothing_is_written_when_part_is_not_mapped(fd: int) -> None:
    memory = GuestMemory([region(fd, BASE)])
    before = memory.read(BASE, 4096)
    with pytest.raises(MemoryFault):
        memory.write(BASE + 4090, b"x" * 7)
    assert memory.read(BASE, 4096) == before


def test_reads_and_writes_against_a_model() -> None:
    """Random accesses over a table with holes and neighbours, against a plain dictionary of bytes."""
    dice = random.Random(36)
    regions = []
    model: dict[int, int] = {}
    fd = os.memfd_create("model")
    os.ftruncate(fd, 1 << 17)
    place = 100
    for index in range(12):
        size = dice.choice((1, 7, 100, 4096))
        place += dice.choice((0, 0, 3))
        regions.append(
            region(fd, place, size, user=(1 << 40) + 8192 * index, offset=index * 5000 % 50000 + 4100 * index)
        )
        model |= dict.fromkeys(range(place, place + size), 0)
        place += size
    memory = GuestMemory(dice.sample(regions, len(regions)))
    for _ in range(1000):
        address = dice.randrange(90, place + 10)
        length = dice.choice((0, 1, 2, 50, 5000))
        mapped = all(address + offset in model for offset in range(length))
        assert memory.is_mapped(address, length) == mapped
        if not mapped:
            with pytest.raises(MemoryFault):
                memory.read(address, length)
            continue
        assert memory.read(address, length) == bytes(model[address + offset] for offset in range(length))
        content = dice.randbytes(length)
        memory.write(address, content)
        model |= {address + offset: byte for offset, byte in enumerate(content)}
    memory.close()
    os.close(fd)


def test_views_are_writable_and_keep_the_mapping(fd: int) -> None:
    mappings = live_mappings()
    memory = GuestMemory([region(fd, BASE)])
    view = memory.view(BASE + 8, 4)
    view[:] = b"view"
    assert os.pread(fd, 4, 8) == b"view"
    memory.close()
    del memory
    assert live_mappings() == mappings + 1
    assert bytes(view) == b"view"
    assert bytes(memoryview(view)[1:]) == b"iew"
    view.release()
    del view
    gc.collect()
    assert live_mappings() == mappings


def test_C134_a_closed_snapshot_raises(fd: int) -> None:
    memory = GuestMemory([region(fd, BASE)])
    memory.close()
    memory.close()
    assert memory.closed
    assert memory.regions == ()
    assert not memory.lost
    for access in (lambda: memory.read(BASE, 1), lambda: memory.write(BASE, b"x")):
        with pytest.raises(MemoryFault, match="C134"):
            access()
    with pytest.raises(MemoryFault):
        memory.view(BASE, 1)


def test_C134_closing_while_others_read(fd: int) -> None:
    for _ in range(20):
        memory = GuestMemory([region(fd, BASE, 65536)])
        started = threading.Barrier(3)

        def read(memory: GuestMemory = memory, started: threading.Barrier = started) -> None:
            started.wait()
            with suppress(MemoryFault):
                while True:
                    assert len(memory.read(BASE, 65536)) == 65536
                    memory.write(BASE, b"x" * 60000)

        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        started.wait()
        memory.close()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()


def test_the_atomic_cell(fd: int) -> None:
    cell = GuestMemoryAtomic()
    assert cell.memory().regions == ()
    first = GuestMemory([region(fd, BASE)])
    cell.replace(first)
    assert cell.memory() is first
    assert GuestMemoryAtomic(first).memory() is first
    with pytest.raises(TypeError):
        cell.replace(None)  # type: ignore[arg-type] # that is the point
    first.close()


def test_objects_made_without_their_constructor_are_harmless() -> None:
    bare = MemoryRegion.__new__(MemoryRegion)
    assert not bare.lost
    with pytest.raises(BufferError):
        memoryview(bare)
    with pytest.raises(MemoryTableError):
        GuestMemory([bare])
    with pytest.raises((TypeError, AttributeError)):
        GuestMemory([object()])  # type: ignore[list-item] # that is the point


def test_a_region_is_mapped_once(fd: int) -> None:
    entry = region(fd, BASE)
    with pytest.raises(MemoryTableError):
        entry.__init__(fd, guest_address=0, size=4096)
    assert "0x10000000+0x1000" in repr(entry)
    memory = GuestMemory([entry])
    with pytest.raises(MemoryTableError):
        memory.__init__()
    assert "1 regions" in repr(memory)


def test_V057_driver_and_device_map_the_same_pages() -> None:
    with DriverRegion(8192, guest_address=BASE, file_offset=0x1234) as ours:
        memory = GuestMemory([region(ours.fd, BASE, 8192, ours.user_address, 0x1234)])
        memory.write(BASE + 4094, b"both")
        assert bytes(memoryview(ours)[4094:4098]) == b"both"
        memory.close()
