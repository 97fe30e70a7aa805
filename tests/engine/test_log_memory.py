"""The dirty log itself, its size, its file and its replacement while writers run: C080 to C086, H04, H34."""

from __future__ import annotations

import mmap
import os
import random
import struct
import threading

import pytest

from tests.engine.dirty_logs import BASE, LOG_SIZE, PAGE, Log, dirty_pages, with_log
from tests.engine.pair import MakePair
from vhost_user.engine.errors import MemoryTableError
from vhost_user.engine.memory.dirty_log import Bitmap
from vhost_user.engine.memory.mapping import live_mappings


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
