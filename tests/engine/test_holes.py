"""Pages of guest memory that go back to the host: C036, C048, C078, C134, H36, H78."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from vhost_user.engine.errors import MemoryFault
from vhost_user.engine.memory.dirty_log import Bitmap
from vhost_user.engine.memory.file_system import page_size
from vhost_user.engine.memory.guest_memory import GuestMemory
from vhost_user.engine.memory.holes import give_back
from vhost_user.engine.memory.region import MemoryRegion

PAGE = os.sysconf("SC_PAGESIZE")
BASE = 0x1000_0000
PAGES = 16


def blocks(fd: int) -> int:
    """Pages that the file has."""
    return os.fstat(fd).st_blocks * 512 // PAGE


@pytest.fixture
def fd() -> Iterator[int]:
    """A file of so many pages, none of them zero."""
    number = os.memfd_create("test")
    os.write(number, b"\xaa" * (PAGES * PAGE))
    yield number
    os.close(number)


def region(fd: int, guest: int = BASE, size: int = PAGES * PAGE, offset: int = 0) -> MemoryRegion:
    return MemoryRegion(fd, guest_address=guest, size=size, file_offset=offset)


def test_pages_go_back_and_read_as_zeroes(fd: int) -> None:
    memory = GuestMemory([region(fd)])
    assert give_back(memory, BASE + PAGE, 3 * PAGE) == 3 * PAGE
    assert blocks(fd) == PAGES - 3
    assert os.pread(fd, 5 * PAGE, 0) == b"\xaa" * PAGE + bytes(3 * PAGE) + b"\xaa" * PAGE
    assert memory.read(BASE + PAGE, 3 * PAGE) == bytes(3 * PAGE)
    assert os.fstat(fd).st_size == PAGES * PAGE
    memory.write(BASE + PAGE, b"again")
    assert os.pread(fd, 5, PAGE) == b"again"
    assert give_back(memory, BASE, 0) == 0
    memory.close()


@pytest.mark.parametrize(
    ("begin", "length", "given"),
    [
        (1, PAGE, 0),
        (1, 2 * PAGE, 1),
        (0, PAGE - 1, 0),
        (PAGE - 1, PAGE + 1, 1),
        (PAGE // 2, 3 * PAGE, 2),
        (0, 2 * PAGE + 1, 2),
    ],
)
def test_parts_of_pages_stay_as_they_are(fd: int, begin: int, length: int, given: int) -> None:
    memory = GuestMemory([region(fd)])
    assert give_back(memory, BASE + begin, length) == given * PAGE
    assert blocks(fd) == PAGES - given
    data = os.pread(fd, PAGES * PAGE, 0)
    assert data.count(0) == given * PAGE
    assert data[:begin] == b"\xaa" * begin
    memory.close()


def test_C036_pages_are_those_of_the_file_where_a_region_begins_inside_of_one(fd: int) -> None:
    # The first and the last page of the file are the region's only in part.
    part = region(fd, size=3 * PAGE, offset=PAGE + 100)
    memory = GuestMemory([part])
    assert give_back(memory, BASE, 3 * PAGE) == 2 * PAGE
    data = os.pread(fd, PAGES * PAGE, 0)
    assert data[: 2 * PAGE] == b"\xaa" * (2 * PAGE)
    assert data[2 * PAGE : 4 * PAGE] == bytes(2 * PAGE)
    assert data[4 * PAGE :] == b"\xaa" * ((PAGES - 4) * PAGE)
    memory.close()


def test_C048_a_range_that_crosses_regions(fd: int) -> None:
    memory = GuestMemory([region(fd, BASE, 4 * PAGE), region(fd, BASE + 4 * PAGE, 4 * PAGE, offset=8 * PAGE)])
    assert give_back(memory, BASE + 3 * PAGE, 2 * PAGE) == 2 * PAGE
    data = os.pread(fd, PAGES * PAGE, 0)
    assert {page for page in range(PAGES) if data[page * PAGE] == 0} == {3, 8}
    memory.close()


@pytest.mark.parametrize(
    ("address", "length"),
    [
        (BASE - PAGE, PAGE),
        (BASE + PAGES * PAGE, PAGE),
        (BASE + (PAGES - 1) * PAGE, 2 * PAGE),
        (BASE - PAGE, 2 * PAGE),
        ((1 << 64) - PAGE, PAGE),
        ((1 << 64) - PAGE, 2 * PAGE),
        (1 << 64, PAGE),
        (BASE, 1 << 64),
        (-PAGE, PAGE),
        (BASE, -PAGE),
    ],
)
def test_H36_H78_what_is_not_mapped_is_refused_and_nothing_changes(
    fd: int, address: int, length: int
) -> None:
    memory = GuestMemory([region(fd)])
    with pytest.raises(MemoryFault):
        give_back(memory, address, length)
    assert blocks(fd) == PAGES
    memory.close()


def test_C134_nothing_goes_back_once_the_session_is_over(fd: int) -> None:
    memory = GuestMemory([region(fd)])
    memory.close()
    with pytest.raises(MemoryFault) as fault:
        give_back(memory, BASE, PAGE)
    assert fault.value.rule == "C134"
    assert blocks(fd) == PAGES


def test_C078_pages_that_went_back_count_as_written(fd: int) -> None:
    bitmap = Bitmap()
    with ExitStack() as stack:
        log = os.memfd_create("log")
        stack.callback(os.close, log)
        os.truncate(log, 1 << 20)
        bitmap.map(log, 1 << 20)
        bitmap.enabled = True
        memory = GuestMemory([region(fd)], bitmap)
        stack.callback(memory.close)
        give_back(memory, BASE + PAGE // 2, 3 * PAGE)
        dirty = [page for page in range(PAGES) if bitmap.is_dirty(BASE + page * PAGE)]
        bitmap.unmap()
    assert dirty == [1, 2]


def test_memory_that_was_lost_has_no_holes(fd: int) -> None:
    lost = region(fd)
    memory = GuestMemory([lost])
    os.truncate(fd, 0)
    memory.read(BASE, 1)
    assert lost.lost
    with pytest.raises(OSError, match="Invalid argument"):
        give_back(memory, BASE, PAGE)
    memory.close()


def test_pages_are_those_of_the_memory_behind_a_file(fd: int) -> None:
    assert page_size(fd) == PAGE
    with Path(__file__).open("rb") as file:
        assert page_size(file.fileno()) == PAGE
    # Nothing is taken of the huge pages, of which a machine may have none.
    huge = os.memfd_create("huge", os.MFD_HUGETLB)
    try:
        assert page_size(huge) > PAGE
        assert page_size(huge) == os.fstat(huge).st_blksize
    finally:
        os.close(huge)
