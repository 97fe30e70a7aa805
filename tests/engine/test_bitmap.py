"""The dirty log, bit for bit against an oracle: C077 to C086, H04, H34, H80."""

from __future__ import annotations

import mmap
import os
import random
import re
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.engine.pair import INDIRECT, WRITE, D, MakePair, Pair
from vhost_user.engine.device.request import Request
from vhost_user.engine.errors import MemoryTableError
from vhost_user.engine.memory.dirty_log import Bitmap
from vhost_user.engine.memory.mapping import live_mappings

PAGE = 4096
BASE = 0x1000_0000
LOG_SIZE = 12288  # of guest space: 384 MiB


def dirty_pages(raw: bytes) -> set[int]:
    return {
        match.start() * 8 + bit
        for match in re.finditer(rb"[^\0]", raw, re.DOTALL)
        for bit in range(8)
        if raw[match.start()] >> bit & 1
    }


@dataclass
class Log:
    """A log as the front-end holds it."""

    fd: int
    bitmap: Bitmap
    offset: int

    def bits(self) -> bytes:
        return os.pread(self.fd, LOG_SIZE, self.offset)

    def pages(self) -> set[int]:
        """The pages marked since last asked (read and clear, as the front-end does)."""
        raw = self.bits()
        os.pwrite(self.fd, b"\0" * LOG_SIZE, self.offset)
        return dirty_pages(raw)


@pytest.fixture(params=[0, 0x1234])
def log(request: pytest.FixtureRequest) -> Iterator[Log]:
    fd = os.memfd_create("log")
    os.ftruncate(fd, request.param + LOG_SIZE)
    bitmap = Bitmap()
    bitmap.map(fd, LOG_SIZE, request.param)
    bitmap.enabled = True
    yield Log(fd, bitmap, request.param)
    bitmap.unmap()
    os.close(fd)


def pages_of(address: int, length: int) -> set[int]:
    return set(range(address // PAGE, (address + length - 1) // PAGE + 1)) if length else set()


def with_log(make_pair: MakePair, log: Log, **options: object) -> Pair:
    return make_pair(bitmap=log.bitmap, regions=8 << 20, **options)


def chain(pair: Pair, dice: random.Random) -> list[tuple[int, int]]:
    """A few writable segments all over the last 6 MiB, made available; they may overlap."""
    segments = [
        (BASE + (2 << 20) + dice.randrange((6 << 20) - 70000), dice.choice((1, 100, 4096, 5000, 70000)))
        for _ in range(dice.randrange(1, 5))
    ]
    pair.queue.add([], segments)
    pair.queue.publish()
    return segments


def expected(segments: list[tuple[int, int]], first: int, length: int) -> set[int]:
    """The pages of ``length`` bytes of the chain from its byte ``first`` on."""
    pages: set[int] = set()
    for address, size in segments:
        start, stop = max(first, 0), min(first + length, size)
        if start < stop:
            pages |= pages_of(address + start, stop - start)
        first -= size
    return pages


WRITERS: dict[str, Callable[[Request, int, int], object]] = {
    "write": lambda request, length, _fd: request.write(b"w" * length),
    "fill": lambda request, length, _fd: request.fill(0x66, length),
    "write_from": lambda request, length, _fd: request.write_from(bytearray(length + 3), 3),
    "write_from_file": lambda request, length, fd: request.write_from_file(fd, 0, length),
    "advance_writable": lambda request, length, _fd: request.advance_writable(length),
    "pack": lambda request, length, _fd: request.pack(f"<{length}s", b"p"),
}


@pytest.mark.parametrize("name", list(WRITERS))
def test_C077_C078_every_way_to_write_marks_exactly_its_pages(
    make_pair: MakePair, log: Log, name: str
) -> None:
    pair = with_log(make_pair, log)
    dice = random.Random(name)
    fd = os.memfd_create("source")
    os.ftruncate(fd, 1 << 20)
    for _ in range(30):
        segments = chain(pair, dice)
        request = pair.take()
        total = sum(size for _, size in segments)
        skip = dice.randrange(total)
        length = dice.randrange(total - skip + 1)
        request.skip_writable(skip)
        WRITERS[name](request, length, fd)
        assert log.pages() == expected(segments, skip, length)
        request.complete()
        assert log.pages() == set()  # C079: the ring is not logged unless asked for
        pair.queue.poll_many()
    os.close(fd)


def test_C078_write_last_marks_the_end(make_pair: MakePair, log: Log) -> None:
    pair = with_log(make_pair, log)
    dice = random.Random(78)
    for _ in range(30):
        segments = chain(pair, dice)
        request = pair.take()
        total = sum(size for _, size in segments)
        length = dice.randrange(1, min(total, 6000) + 1)
        request.write_last(b"l" * length)
        assert log.pages() == expected(segments, total - length, length)
        request.complete()
        pair.queue.poll_many()


@pytest.mark.parametrize("how", ["complete", "add_used", "add_used by head"])
def test_C078_C084_what_was_written_through_views_is_marked_by_the_length_it_is_used_with(
    make_pair: MakePair, log: Log, how: str
) -> None:
    pair = with_log(make_pair, log)
    dice = random.Random(how)
    for _ in range(20):
        segments = chain(pair, dice)
        request = pair.vring.pop() if how == "add_used by head" else pair.take()
        assert request is not None
        total = sum(size for _, size in segments)
        known = dice.randrange(min(total, 100))
        request.write(b"w" * known)
        for view in request.writable_views():
            view[:] = b"v" * len(view)
        length = dice.randrange(known, total + 1)
        if how == "complete":
            request.complete(length)
        else:
            pair.vring.add_used(request if how == "add_used" else request.head, length)
            pair.vring.signal_used_queue()
        assert log.pages() == expected(segments, 0, length)
        pair.queue.poll_many()


def test_C078_guest_memory_write_and_mark(make_pair: MakePair, log: Log) -> None:
    pair = with_log(make_pair, log)
    dice = random.Random(7)
    for _ in range(100):
        address, length = BASE + dice.randrange(7 << 20), dice.choice((0, 1, 4096, 9000))
        pair.guest.write(address, b"x" * length)
        assert log.pages() == pages_of(address, length)
        log.bitmap.mark(address, length)
        assert log.pages() == pages_of(address, length)
        if length:
            log.bitmap.mark(address, length)
            assert log.bitmap.is_dirty(address)
            assert log.bitmap.is_dirty(address + length - 1)
            assert not log.bitmap.is_dirty(address + length - 1 + PAGE)
            log.pages()


def test_C078_reading_marks_nothing(make_pair: MakePair, log: Log) -> None:
    pair = with_log(make_pair, log)
    request = pair.serve([b"x" * 10000], [100])
    request.read(5000)
    request.read_to(bytearray(3000))
    request.readable_views()
    request.writable_views()
    request.skip_writable(50)
    pair.guest.read(BASE, 100)
    assert log.pages() == set()


# ---------------------------------------------------------------------- the ring itself
def test_C079_split_ring_writes_are_logged_at_the_log_address(new_pair: MakePair, log: Log) -> None:
    # An address outside of the memory table: it only says where in the log.
    place = 0x30000 - 4
    pair = new_pair(False, 1024, bitmap=log.bitmap, log_address=place, event_idx=True)
    used = place + 4
    for index in range(1030):
        request = pair.serve([b"x"], [1])
        log.pages()
        request.complete()
        assert log.pages() == pages_of(used + 8 * (index % 1024), 8) | pages_of(place + 2, 2)
        pair.vring.enable_notification()
        assert log.pages() == pages_of(used + 8 * 1024, 2)
        pair.queue.poll_many()


def test_C079_split_ring_flags_are_logged(new_pair: MakePair, log: Log) -> None:
    place = 0x40000 - 1
    pair = new_pair(False, bitmap=log.bitmap, log_address=place)
    pair.vring.disable_notification()
    assert log.pages() == pages_of(place, 2)
    pair.vring.disable_notification()
    assert log.pages() == set()
    pair.vring.enable_notification()
    assert log.pages() == pages_of(place, 2)


def test_C079_packed_descriptors_and_event_structure_are_logged_where_they_are(
    new_pair: MakePair, log: Log
) -> None:
    pair = new_pair(True, 600, bitmap=log.bitmap, log_address=0, event_idx=True)
    ring = pair.queue.descriptor_address
    for index in range(610):
        request = pair.serve([b"x"], [])
        log.pages()
        request.complete()
        assert log.pages() == pages_of(ring + 16 * (index % 600), 16)
        pair.vring.enable_notification()
        assert log.pages() == pages_of(pair.queue.device_address, 4)
        pair.queue.poll_many()


def test_C079_a_batch_logs_every_descriptor_and_the_first_too(new_pair: MakePair, log: Log) -> None:
    pair = new_pair(True, 1024, bitmap=log.bitmap, log_address=0)
    ring = pair.queue.descriptor_address
    for count in (1, 63, 64, 500, 396 + 30):
        position = pair.ring.used_position[0]
        for _ in range(count):
            pair.queue.add([pair.buffer(1)])
        pair.queue.publish()
        pair.vring.process(lambda _request: None)
        marked = log.pages()
        for offset in range(count):
            assert marked >= pages_of(ring + 16 * ((position + offset) % 1024), 16)
        pair.queue.poll_many()


def test_C086_logging_of_a_ring_toggles_while_it_runs(new_pair: MakePair, log: Log) -> None:
    pair = new_pair(False, bitmap=log.bitmap)
    pair.serve([b"x"]).complete()
    assert log.pages() == set()
    for address in (0x50000, None, 0x60000):
        pair.log_address = address
        pair.set_addresses()
        log.pages()
        pair.serve([b"x"]).complete()
        assert log.pages() == (set() if address is None else pages_of(address, 100))


def test_C079_H80_a_log_address_that_wraps_writes_nowhere(new_pair: MakePair, log: Log) -> None:
    pair = new_pair(False, bitmap=log.bitmap, log_address=(1 << 64) - 6)
    for _ in range(8):
        pair.serve([b"x"]).complete()
    assert log.pages() <= {0}


def test_V010_indirect_tables_are_read_not_written(make_pair: MakePair, log: Log) -> None:
    pair = with_log(make_pair, log)
    target = (BASE + (3 << 20) + 4000, 200)
    pair.offer(D(*pair.table(D(*target, WRITE)), INDIRECT))
    request = pair.take()
    request.fill(1)
    assert log.pages() == pages_of(*target)
    request.complete()


# ---------------------------------------------------------------------- the log
def test_C077_off_is_off(make_pair: MakePair, log: Log) -> None:
    pair = with_log(make_pair, log)
    log.bitmap.enabled = False
    pair.serve([], [4]).write(b"abcd")
    assert log.pages() == set()
    log.bitmap.enabled = True
    pair.guest.write(BASE, b"x")
    assert log.pages() == {BASE // PAGE}
    log.bitmap.unmap()
    assert not log.bitmap.mapped
    pair.guest.write(BASE, b"x")
    assert log.pages() == set()


def test_C082_pages_beyond_the_log_are_ignored(log: Log) -> None:
    last = LOG_SIZE * 8 * PAGE
    before = os.pread(log.fd, 1 << 20, 0)
    for address, length in (
        (last, 1),
        (last - 1, 2),
        (1 << 63, 1 << 62),
        ((1 << 64) - 1, 1),
        ((1 << 64) - 8192, 8192),
    ):
        log.bitmap.mark(address, length)
    assert not log.bitmap.is_dirty((1 << 64) - 1)
    assert log.pages() == {LOG_SIZE * 8 - 1}
    assert os.pread(log.fd, 1 << 20, 0) == before


def test_C082_a_log_smaller_than_the_memory_and_of_odd_size(make_pair: MakePair) -> None:
    fd = os.memfd_create("log")
    os.ftruncate(fd, 8192)
    bitmap = Bitmap()
    bitmap.map(fd, 3, 4094)  # 24 pages
    bitmap.enabled = True
    bitmap.mark(0, 100 * PAGE)
    assert os.pread(fd, 8192, 0) == b"\0" * 4094 + b"\xff" * 3 + b"\0" * 4095
    bitmap.mark(BASE, 1)
    pair = make_pair(bitmap=bitmap)
    pair.serve([], [9]).write(b"x" * 9)
    assert os.pread(fd, 8192, 0) == b"\0" * 4094 + b"\xff" * 3 + b"\0" * 4095
    os.close(fd)


@pytest.mark.parametrize(
    ("size", "offset"),
    [
        (0, 0),
        (4096, (1 << 64) - 4096),
        ((1 << 64) - 1, 1),
        (8193, 0),
        (1, 8192),
        (-1, 0),
        (1, -1),
        (1 << 61, 0),
    ],
)
def test_C082_H04_H34_logs_that_cannot_be(size: int, offset: int) -> None:
    fd = os.memfd_create("log")
    os.ftruncate(fd, 8192)
    bitmap = Bitmap()
    with pytest.raises(MemoryTableError, match="C082"):
        bitmap.map(fd, size, offset)
    assert not bitmap.mapped
    os.close(fd)


def test_C081_the_old_log_is_unmapped(log: Log) -> None:
    mappings = live_mappings()
    for _ in range(10):
        log.bitmap.map(log.fd, LOG_SIZE, log.offset)
    assert live_mappings() == mappings
    log.bitmap.unmap()
    assert live_mappings() == mappings - 1


def test_C083_the_log_eventfd_is_written_after_a_change(log: Log) -> None:
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    log.bitmap.set_notify(os.dup(fd))
    log.bitmap.mark(0, 1)
    assert os.eventfd_read(fd) == 1
    log.bitmap.mark(0, 1)  # nothing new
    with pytest.raises(BlockingIOError):
        os.eventfd_read(fd)
    log.bitmap.set_notify(None)
    log.bitmap.mark(PAGE, 1)
    with pytest.raises(BlockingIOError):
        os.eventfd_read(fd)
    os.close(fd)


def test_C080_bits_are_set_by_atomic_or_from_many_threads(log: Log) -> None:
    """Writers share every byte: no bit is ever lost."""
    threads = 4
    pages = LOG_SIZE * 8
    barrier = threading.Barrier(threads)

    def mark(first: int) -> None:
        barrier.wait()
        for page in range(first, pages, threads):
            log.bitmap.mark(page * PAGE, 1)

    workers = [threading.Thread(target=mark, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert log.bits() == b"\xff" * LOG_SIZE


def test_C081_C084_the_log_is_replaced_while_writers_run(make_pair: MakePair) -> None:
    """Every write is in the log installed when it was made, or the one after: never lost or elsewhere."""
    bitmap = Bitmap()
    pair = make_pair(bitmap=bitmap, regions=8 << 20)
    logs = []
    for index in range(40):
        fd = os.memfd_create(f"log{index}")
        os.ftruncate(fd, LOG_SIZE + 100)
        logs.append(fd)
    bitmap.map(logs[0], LOG_SIZE, 100)
    bitmap.enabled = True
    stop = threading.Event()
    written: list[set[int]] = [set(), set(), set()]

    def write(mine: set[int]) -> None:
        dice = random.Random(id(mine))
        while not stop.is_set():
            page = dice.randrange(2048)
            pair.guest.write(BASE + page * PAGE + 5, b"dirty")
            mine.add(BASE // PAGE + page)

    threads = [threading.Thread(target=write, args=(mine,)) for mine in written]
    for thread in threads:
        thread.start()
    for fd in logs[1:]:
        bitmap.map(fd, LOG_SIZE, 100)
        # C081: the old one is not touched any more, so that it can be read whole.
        previous = logs[logs.index(fd) - 1]
        assert os.pread(previous, LOG_SIZE, 100) == os.pread(previous, LOG_SIZE, 100)
    stop.set()
    for thread in threads:
        thread.join()
    union: set[int] = set()
    for fd in logs:
        union |= dirty_pages(os.pread(fd, LOG_SIZE, 100))
        assert os.pread(fd, 100, 0) == b"\0" * 100
        os.close(fd)
    assert union == written[0] | written[1] | written[2]


def test_C086_switching_on_while_writers_run_misses_nothing(make_pair: MakePair, log: Log) -> None:
    pair = with_log(make_pair, log)
    log.bitmap.enabled = False
    counter = mmap.mmap(-1, 8)
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            # Announce, then write: whatever is announced after the switch must be logged.
            struct.pack_into("<Q", counter, 0, number)
            pair.guest.write(BASE + number % 1024 * PAGE, b"x")

    thread = threading.Thread(target=write)
    thread.start()
    for _ in range(8):
        log.bitmap.enabled = True
        first = struct.unpack_from("<Q", counter)[0]
        while struct.unpack_from("<Q", counter)[0] < first + 20:
            pass
        marked = log.pages()
        for number in range(first + 1, first + 19):
            assert BASE // PAGE + number % 1024 in marked
        log.bitmap.enabled = False
        log.pages()
    stop.set()
    thread.join()


def test_a_bitmap_that_was_never_mapped() -> None:
    bitmap = Bitmap()
    assert (bitmap.mapped, bitmap.enabled, bitmap.is_dirty(0)) == (False, False, False)
    bitmap.enabled = True
    assert bitmap.enabled
    bitmap.mark(0, 100)
    bitmap.unmap()
