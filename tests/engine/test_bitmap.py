"""What is written is marked in the dirty log, bit for bit against an oracle: C077 to C079, C084, C086."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest

from tests.engine.dirty_logs import BASE, PAGE, Log, pages_of, with_log
from tests.engine.pair import INDIRECT, WRITE, D, MakePair, Pair
from vhost_user.engine.device.request import Request


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


def test_C079_of_a_batch_across_pages_the_second_page_is_logged_as_well(new_pair: MakePair, log: Log) -> None:
    """Only the first of a batch becomes visible at its end."""
    pair = new_pair(True, 512, bitmap=log.bitmap, log_address=0)
    ring = pair.queue.descriptor_address
    last = next(index for index in range(512) if (ring + 16 * (index + 1)) % PAGE == 0)
    for _ in range(last):
        pair.serve([b"x"]).complete()
        pair.queue.poll_many()
    for _ in range(2):
        pair.queue.add([pair.buffer(1)])
    pair.queue.publish()
    log.pages()
    pair.vring.process(lambda _request: None)
    assert log.pages() >= pages_of(ring + 16 * last, 32)


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
