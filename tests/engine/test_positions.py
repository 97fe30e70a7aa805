"""Requests taken back, in parts, by position and by head; single numbers and regions of guest memory."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator

import pytest

from tests.engine.pair import WRITE, D, MakePair, Pair, mapped
from vhost_user.engine.device.request import Request
from vhost_user.engine.driver.memory import DriverMemory, DriverRegion
from vhost_user.engine.errors import MemoryFault, RequestError
from vhost_user.engine.memory.dirty_log import Bitmap
from vhost_user.engine.memory.guest_memory import GuestMemory

BASE = 0x1000_0000


# ---------------------------------------------------------------------- pop undone
@pytest.mark.parametrize("options", [{}, {"indirect": True}, {"in_order": True}, {"near_the_end": True}])
def test_a_request_put_back_is_taken_again(
    make_pair: MakePair, packed: bool, options: dict[str, int]
) -> None:
    if options.get("near_the_end"):
        options = {"first": 0x8006_8006 if packed else 0xFFFE}
    pair = make_pair(8, **options)
    for turn in range(20):
        pair.add([b"one"], [4])
        pair.add([b"two"], [4])
        first, second = pair.take(), pair.take()
        pair.vring.put_back(second)
        pair.vring.go_to_previous_position(first)
        assert pair.vring.in_flight == 0
        assert pair.vring.heads_in_flight() == []
        again = [pair.take(), pair.take()]
        assert [request.read() for request in again] == [b"one", b"two"], turn
        for request in again:
            request.complete(1)
        assert [length for _, length in pair.queue.poll_many()] == [1, 1]


def test_V036_only_the_last_request_can_be_put_back_and_only_while_in_flight(make_pair: MakePair) -> None:
    pair = make_pair(8)
    first, second = pair.serve([b"one"]), pair.serve([b"two"])
    with pytest.raises(RequestError, match="taken last"):
        pair.vring.put_back(first)
    second.complete()
    with pytest.raises(RequestError, match="complete"):
        pair.vring.put_back(second)
    with pytest.raises(RequestError, match="taken last"):
        pair.vring.put_back(first)
    third = pair.serve([b"three"])
    pair.vring.put_back(third)
    with pytest.raises(RequestError, match="complete"):
        pair.vring.put_back(third)
    with pytest.raises(RequestError):
        third.read()
    assert pair.take().read() == b"three"
    other = make_pair(8).serve([b"stranger"])
    with pytest.raises(ValueError, match="belongs to"):
        pair.vring.put_back(other)


def test_V036_one_taken_by_process_in_between_makes_it_too_late(make_pair: MakePair) -> None:
    pair = make_pair(8)
    first = pair.serve([b"one"])
    pair.add([b"two"])
    pair.vring.process(lambda _request: None)
    with pytest.raises(RequestError, match="taken last"):
        pair.vring.put_back(first)


def test_C134_a_request_of_a_ring_that_was_given_up_cannot_be_put_back(make_pair: MakePair) -> None:
    pair = make_pair(8)
    request = pair.serve([b"one"])
    pair.vring.abandon()
    with pytest.raises(RequestError):
        pair.vring.put_back(request)


# ---------------------------------------------------------------------- add_used by head
def test_V013_add_used_takes_a_head(make_pair: MakePair) -> None:
    pair = make_pair(8)
    requests = [pair.serve([b"%d" % number], [8]) for number in range(4)]
    pair.vring.add_used(requests[2].head, 5)
    pair.vring.add_used(requests[0].head, 1 << 40)
    assert [length for _, length in pair.queue.poll_many()] == [5, 8]
    assert requests[2].completed
    with pytest.raises(RequestError):
        requests[2].complete()
    with pytest.raises(ValueError, match="in flight"):
        pair.vring.add_used(requests[2].head, 5)
    del requests[1]
    pair.vring.add_used(requests[-1].head)
    assert [length for _, length in pair.queue.poll_many()] == [0, 0]
    assert pair.vring.in_flight == 0


@pytest.mark.parametrize("head", [-1, 7, 65536, 1 << 40])
def test_V013_a_head_that_is_not_in_flight_is_refused(make_pair: MakePair, head: int) -> None:
    pair = make_pair(8)
    request = pair.serve([b"one"])
    with pytest.raises(ValueError, match="in flight"):
        pair.vring.add_used(head, 1)
    assert request.alive


def test_C134_a_head_of_a_ring_that_was_given_up_is_refused(make_pair: MakePair) -> None:
    pair = make_pair(8)
    request = pair.serve([b"one"])
    pair.vring.abandon()
    with pytest.raises(ValueError, match="in flight"):
        pair.vring.add_used(request.head, 1)


def test_a_completion_by_another_thread_s_add_used_is_not_left_unpublished(make_pair: MakePair) -> None:
    """add_used inside of a handler must not make the batch forget whose it is."""
    pair = make_pair(8)
    held = pair.serve([b"held"], [4])
    pair.add([b"one"], [4])
    pair.add([b"two"], [4])

    def handler(request: Request) -> None:
        if request.read() == b"one":
            pair.vring.add_used(held, 3)
        request.write(b"ok")

    assert pair.vring.process(handler) == 2
    assert sorted(length for _, length in pair.queue.poll_many()) == [2, 2, 3]


# ---------------------------------------------------------------------- what it is made of
def test_segments_name_addresses_lengths_and_directions(make_pair: MakePair) -> None:
    pair = make_pair()
    one, two = pair.buffer(b"abc"), pair.buffer(5)
    pair.offer(D(*one), D(one[0], 0), D(*two, WRITE))
    request = pair.take()
    assert request.segments() == [(*one, False), (*two, True)]
    assert request.memory() is pair.guest
    assert request.memory().read(one[0], 3) == b"abc"
    request.complete()
    with pytest.raises(RequestError):
        request.memory()


def split_regions(pair_options: MakePair) -> Pair:
    low = DriverRegion(0x100000, guest_address=BASE)
    high = DriverRegion(0x100000, guest_address=BASE + 0x100000)
    return pair_options(8, regions=[low, high])


def test_C048_segments_of_a_buffer_across_regions_are_two(make_pair: MakePair) -> None:
    pair = split_regions(make_pair)
    pair.offer(D(BASE + 0x100000 - 4, 8, WRITE))
    assert pair.take().segments() == [(BASE + 0x100000 - 4, 4, True), (BASE + 0x100000, 4, True)]


def test_parts_have_positions_of_their_own(make_pair: MakePair) -> None:
    pair = make_pair(16)
    request = pair.serve([b"head", b"er--", b"body"], [3, 3, 4])
    assert request.read(2) == b"he"
    header, body = request.split_readable_at(6)
    assert (len(header), len(body), header.left) == (6, 4, 6)
    assert body.read() == b"body"
    assert header.read(4) == b"ader"
    assert (header.position, header.left) == (4, 2)
    assert header.read(100) == b"--"
    assert header.read() == b""
    assert request.read() == b"ader--body"
    status, data = request.split_writable_at(1)
    assert data.write(b"12345") == 5
    left, right = data.split_at(2)
    right.write(b"yz")
    left.write(memoryview(b"wx"))
    with pytest.raises(RequestError, match="has 0 left"):
        left.write(b"!")
    data.skip(4)
    assert data.left == 0
    assert request.written == 0
    status.write(b"S")
    assert pair.memory.read(request.segments()[3][0], 3) == b"S12"
    with pytest.raises(RequestError):
        request.split_writable_at(11)
    with pytest.raises(RequestError):
        data.split_at(1)
    with pytest.raises(RequestError):
        body.skip(1)


def test_views_of_a_part_are_those_of_its_bytes(make_pair: MakePair) -> None:
    pair = make_pair(16)
    request = pair.serve([b"abcd", b"efgh"], [4, 4])
    part = request.split_readable_at(2)[1].split_at(4)[0]
    assert [bytes(view) for view in part.views()] == [b"cd", b"ef"]
    first = request.split_writable_at(6)[0]
    assert [len(view) for view in first.views()] == [4, 2]
    assert not any(view.readonly for view in first.views())


# ---------------------------------------------------------------------- write_at
@pytest.fixture
def logged(make_pair: MakePair) -> Iterator[Pair]:
    bitmap = Bitmap()
    fd = os.memfd_create("log")
    os.ftruncate(fd, 1 << 17)
    bitmap.map(fd, 1 << 17)
    os.close(fd)
    bitmap.enabled = True
    yield make_pair(8, bitmap=bitmap)
    bitmap.unmap()


def test_C084_a_header_written_after_the_data_is_logged_and_counted(logged: Pair) -> None:
    bitmap = logged.guest.bitmap
    assert bitmap is not None
    request = logged.serve([], [4096, 4096, 4096])
    request.skip_writable(12)
    request.fill(1, 8000)
    assert request.written == 0
    header = request.segments()[0][0]
    assert request.write_at(0, b"0123456789AB") == 12
    assert request.written == 8012
    assert bitmap.is_dirty(header)
    assert logged.memory.read(header, 12) == b"0123456789AB"
    request.complete()
    assert [length for _, length in logged.queue.poll_many()] == [8012]


def test_C084_write_at_marks_only_what_it_wrote(logged: Pair) -> None:
    bitmap = logged.guest.bitmap
    assert bitmap is not None
    address = logged.memory.allocate(3 * 4096, 4096)
    logged.offer(D(address, 3 * 4096, WRITE))
    request = logged.take()
    request.write_at(4096, b"x")
    assert [bitmap.is_dirty(address + page * 4096) for page in range(3)] == [False, True, False]


@pytest.mark.parametrize(
    ("steps", "written"),
    [
        ([("at", 0, 4)], 4),
        ([("at", 2, 4)], 0),
        ([("write", 2), ("at", 0, 5)], 5),
        ([("write", 2), ("at", 2, 3), ("write", 1)], 5),
        ([("skip", 4), ("write", 4), ("at", 0, 3)], 3),
        ([("skip", 4), ("write", 4), ("at", 0, 3), ("at", 3, 1)], 8),
        ([("skip", 4), ("write", 4), ("at", 1, 3)], 0),
        ([("skip", 2), ("skip", 2), ("write", 4), ("at", 0, 4)], 8),
        ([("skip", 2), ("write", 2), ("skip", 2), ("write", 2), ("at", 0, 2)], 4),
        ([("skip", 2), ("write", 2), ("skip", 2), ("write", 2), ("at", 4, 2)], 0),
        ([("at", 0, 6), ("skip", 4), ("write", 1)], 6),
        ([("at", 0, 6), ("skip", 8), ("write", 1)], 6),
        ([("at", 0, 6), ("skip", 8), ("write", 1), ("at", 6, 2)], 9),
        ([("skip", 4), ("at", 0, 8)], 8),
        ([("last", 2), ("at", 0, 14)], 16),
        ([("skip", 14), ("last", 2), ("at", 0, 14)], 16),
    ],
)
def test_V014_written_counts_what_stands_without_a_gap(
    make_pair: MakePair, steps: list[tuple[str, int, int]], written: int
) -> None:
    request = make_pair().serve([], [7, 9])
    for name, *numbers in steps:
        if name == "at":
            request.write_at(numbers[0], b"a" * numbers[1])
        elif name == "write":
            request.write(b"w" * numbers[0])
        elif name == "skip":
            request.skip_writable(numbers[0])
        else:
            request.write_last(b"l" * numbers[0])
    assert request.written == written


def test_V014_write_at_and_read_at_stay_within_their_part(make_pair: MakePair) -> None:
    request = make_pair().serve([b"abc", b"def"], [4])
    assert request.read_at(2, 3) == b"cde"
    assert request.read_at(6, 0) == b""
    assert request.read() == b"abcdef"
    for position, length in ((-1, 1), (0, -1), (0, 7), (6, 1), (1 << 64, 1), (0, 1 << 64)):
        with pytest.raises(RequestError):
            request.read_at(position, length)
    for position in (-1, 2, 1 << 64):
        with pytest.raises(RequestError):
            request.write_at(position, b"123")
    request.complete()
    for use in (lambda: request.read_at(0, 1), lambda: request.write_at(0, b"1")):
        with pytest.raises(RequestError):
            use()


def test_V011_write_at_an_unmapped_place_writes_nothing(make_pair: MakePair) -> None:
    pair = make_pair()
    address, _ = pair.buffer(4)
    pair.offer(D(address, 4, WRITE), D(0x10, 4, WRITE))
    request = pair.take()
    with pytest.raises(MemoryFault):
        request.write_at(2, b"abcd")
    assert pair.memory.read(address, 4) == b"\xee" * 4
    assert request.write_at(0, b"abcd") == 4


# ---------------------------------------------------------------------- guest memory
@pytest.fixture
def memory() -> GuestMemory:
    driver = DriverMemory(
        [DriverRegion(0x4000, guest_address=BASE), DriverRegion(0x2000, guest_address=BASE + 0x4000)]
    )
    guest = mapped(driver, Bitmap())
    driver.close()
    return guest


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_V052_load_and_store_are_one_access_of_each_width(memory: GuestMemory, size: int) -> None:
    top = (1 << 8 * size) - 1
    for value in (0, 1, top, 0x0123456789ABCDEF & top):
        memory.store(BASE + 64, value, size)
        assert memory.load(BASE + 64, size) == value
        assert memory.read(BASE + 64, size) == value.to_bytes(size, "little")
    for value in (-1, top + 1):
        with pytest.raises(OverflowError):
            memory.store(BASE + 64, value, size)
    for access in (lambda at: memory.load(at, size), lambda at: memory.store(at, 0, size)):
        for address in (0, BASE - 8, BASE + 0x6000, 1 << 64, -8):
            with pytest.raises(MemoryFault):
                access(address)
        if size > 1:
            with pytest.raises(ValueError, match="aligned"):
                access(BASE + 1)
    memory.close()
    with pytest.raises(MemoryFault):
        memory.load(BASE + 64, size)


@pytest.mark.parametrize("size", [0, 3, 16, -1])
def test_V052_other_widths_are_refused(memory: GuestMemory, size: int) -> None:
    with pytest.raises(ValueError, match="1, 2, 4 and 8"):
        memory.load(BASE, size)
    with pytest.raises(ValueError, match="1, 2, 4 and 8"):
        memory.store(BASE, 0, size)


def test_C084_store_marks_its_page(memory: GuestMemory) -> None:
    assert memory.bitmap is not None
    fd = os.memfd_create("log")
    os.ftruncate(fd, 1 << 17)
    memory.bitmap.map(fd, 1 << 17)
    os.close(fd)
    memory.bitmap.enabled = True
    memory.store(BASE + mmap.PAGESIZE, 1, 4)
    memory.load(BASE, 4)
    assert [memory.bitmap.is_dirty(BASE + page * 4096) for page in range(3)] == [False, True, False]
    memory.bitmap.unmap()


def test_find_region_and_checked_offset(memory: GuestMemory) -> None:
    low, high = memory.regions
    assert memory.find_region(BASE) is low
    assert memory.find_region(BASE + 0x3FFF) is low
    assert memory.find_region(BASE + 0x4000) is high
    for address in (BASE - 1, BASE + 0x6000, 0, -1, 1 << 64):
        assert memory.find_region(address) is None
    assert memory.checked_offset(BASE, 0x5FFF) == BASE + 0x5FFF
    assert memory.checked_offset(BASE, 0x6000) is None
    assert memory.checked_offset(BASE, 1 << 64) is None


def test_get_slices_are_one_a_region(memory: GuestMemory) -> None:
    slices = memory.get_slices(BASE + 0x3FFE, 4)
    assert [len(view) for view in slices] == [2, 2]
    slices[0][:] = b"ab"
    slices[1][:] = b"cd"
    assert memory.read(BASE + 0x3FFE, 4) == b"abcd"
    assert memory.get_slices(BASE, 0) == []
    with pytest.raises(MemoryFault):
        memory.get_slices(BASE + 0x5FFF, 2)


def test_new_methods_say_what_they_do() -> None:
    for method in (
        Request.write_at, Request.read_at, Request.segments, Request.memory, Request.split_readable_at,
        GuestMemory.load, GuestMemory.store, GuestMemory.find_region, GuestMemory.checked_offset,
    ):  # fmt: skip
        assert method.__doc__, method
