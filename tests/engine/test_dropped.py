"""Requests that nobody completes, and sessions that end while much is copied."""

from __future__ import annotations

import gc
import mmap
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine.pair import INDIRECT, WRITE, D, MakePair, Pair
from vhost_user.engine.blk.fast_path import MemoryFastPath
from vhost_user.engine.blk.file_fast_path import FileFastPath
from vhost_user.engine.device.batch import Batch
from vhost_user.engine.device.header import Header
from vhost_user.engine.device.request import Request
from vhost_user.engine.errors import RequestError


def in_a_cycle(request: Request) -> None:
    """What a handler does that keeps an error in a local of the frame that it passed."""
    try:
        Path(f"/no such file, and {request!r} is in this frame").stat()
    except OSError as error:
        failure = error
    assert failure is not None


def given_back(pair: Pair, count: int) -> None:
    gc.collect()
    assert pair.vring.in_flight == 0
    assert pair.vring.drain(0)
    assert [length for _, length in pair.queue.poll_many()] == [0] * count
    assert pair.vring.statistics()["dropped"] == count


def test_H49_a_request_dropped_in_a_reference_cycle_is_given_back(make_pair: MakePair) -> None:
    pair = make_pair()
    gc.disable()
    try:
        in_a_cycle(pair.serve([b"data"], [4]))
        assert pair.vring.in_flight == 1
    finally:
        gc.enable()
    given_back(pair, 1)


def test_H49_requests_that_hold_each_other_are_given_back(make_pair: MakePair) -> None:
    pair = make_pair()
    one, two = pair.serve([b"1"]), pair.serve([b"2"])
    one.user_data, two.user_data = two, one
    del one, two
    given_back(pair, 2)


def test_H49_a_held_request_that_the_handler_dropped_in_a_cycle_is_given_back(make_pair: MakePair) -> None:
    pair = make_pair()
    for _ in range(3):
        pair.add([b"data"], [4])

    def handler(request: Request) -> None:
        request.hold()
        in_a_cycle(request)

    assert pair.vring.process(handler) == 3
    given_back(pair, 3)


def test_H49_held_requests_of_a_batch_dropped_in_a_cycle_are_given_back(make_pair: MakePair) -> None:
    pair = make_pair()
    for _ in range(3):
        pair.add([b"data"], [4])

    def handler(batch: Batch) -> None:
        for request in batch:
            request.hold()
            request.user_data = batch

    assert pair.vring.process_batch(handler) == 3
    given_back(pair, 3)


def test_H49_a_cycle_that_completes_its_request_itself_may_do_so(make_pair: MakePair) -> None:
    """Finalizers run in no order: whoever comes second is told so, and nothing else happens."""
    pair = make_pair()
    told: list[RequestError] = []

    class Keeper:
        def __init__(self, request: Request) -> None:
            self.request = request
            self.me = self

        def __del__(self) -> None:
            try:
                self.request.complete()
            except RequestError as error:
                told.append(error)

    Keeper(pair.serve([b"data"], [4]))
    gc.collect()
    assert pair.vring.in_flight == 0
    assert len(pair.queue.poll_many()) == 1
    assert len(told) <= 1


# ---------------------------------------------------------------------- the end of a session
HUGE = 3 << 30


def huge(pair: Pair, count: int, flags: int, header: bytes = b"") -> None:
    """Chains of 3 GiB, all in the same megabyte."""
    address, _ = pair.buffer(1 << 20)
    pieces = [D(address, 1 << 20, flags) for _ in range(HUGE >> 20)]
    if header:
        pieces.insert(0, D(*pair.buffer(header)))
        pieces.append(D(*pair.buffer(1), WRITE))
    table = pair.table(*pieces)
    for head in range(count):
        pair.offer(D(*table, INDIRECT), head=head)


def give_up_during(pair: Pair, work: Callable[[], object]) -> None:
    """Give the ring up while ``work`` is at its first request, and wait for it."""
    thread = threading.Thread(target=work)
    thread.start()
    deadline = time.monotonic() + 20
    while pair.vring.in_flight == 0 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    assert thread.is_alive()
    pair.vring.stop()
    pair.vring.abandon()
    thread.join(60)
    assert not thread.is_alive()


@pytest.mark.parametrize("name", ["write", "fill", "read_to", "file", "batch"])
def test_C134_huge_copies_end_with_their_session(make_pair: MakePair, name: str) -> None:
    pair = make_pair(64, regions=16 << 20)
    writes = name in ("fill", "write", "file", "batch")
    huge(pair, 64, WRITE if writes else 0)
    source = bytearray(0)
    zero = os.open("/dev/zero", os.O_RDWR)
    sink = memoryview(_anonymous(HUGE)) if name in ("read_to", "write") else memoryview(source)
    errors: list[BaseException] = []

    def handler(request: Request) -> None:
        if name == "fill":
            request.fill(7)
        elif name == "write":
            request.write_from(sink)
        elif name == "read_to":
            request.read_to(sink)
        elif name == "file":
            request.write_from_file(zero, -1)

    def work() -> None:
        if name == "batch":
            pair.vring.process_batch(lambda batch: batch.fill(7), lambda _r, error: errors.append(error))
        else:
            pair.vring.process(handler, lambda _r, error: errors.append(error))

    try:
        give_up_during(pair, work)
        # The one at hand was cut off; the others never began.
        assert "while it was copied" in str(errors[0])
    finally:
        sink.release()
        os.close(zero)


def _anonymous(size: int) -> mmap.mmap:
    return mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_C134_the_fast_path_ends_with_its_session(make_pair: MakePair, kind: str) -> None:
    pair = make_pair(64, regions=16 << 20)
    fd = os.memfd_create("disk")
    os.ftruncate(fd, 1 << 33)
    header = (0).to_bytes(16, "little")
    huge(pair, 64, WRITE, header)
    if kind == "memory":
        with mmap.mmap(fd, 1 << 32) as disk:
            fast_path: MemoryFastPath | FileFastPath = MemoryFastPath(disk)
            give_up_during(pair, lambda: pair.vring.process(lambda _: None, fast_path=fast_path))
            assert fast_path.statistics()["accepted"] == 0
            fast_path.close()
    else:
        fast_path = FileFastPath(fd, 1 << 33)
        give_up_during(pair, lambda: pair.vring.process(lambda _: None, fast_path=fast_path))
        assert fast_path.statistics()["accepted"] == 0
        fast_path.close()
    os.close(fd)


# ---------------------------------------------------------------------- what is made once
def test_V051_a_header_is_made_once() -> None:
    """A second, wrong format left offsets behind that led past the copied header."""
    header = Header("<IIQ")
    for wrong in ("<250xQ", "<I", "<5000xI"):
        with pytest.raises((TypeError, ValueError)):
            header.__init__(wrong)
    assert (header.format, header.size) == ("<IIQ", 16)


def test_V051_a_header_that_was_refused_decodes_as_before(make_pair: MakePair) -> None:
    pair = make_pair()
    header = Header("<IIQ")
    pair.vring.set_header(header)
    request = pair.serve([bytes(range(16))])
    with pytest.raises((TypeError, ValueError)):
        header.__init__("<5000xIIQ")
    assert request.header == (0x03020100, 0x07060504, 0x0F0E0D0C0B0A0908)


@pytest.mark.parametrize("path", ["memory", "file"])
def test_a_fast_path_is_made_once(path: str) -> None:
    fd = os.memfd_create("disk")
    os.ftruncate(fd, 4096)
    made: MemoryFastPath | FileFastPath = (
        MemoryFastPath(bytearray(4096)) if path == "memory" else FileFastPath(fd, 4096)
    )
    with pytest.raises(RuntimeError, match="made once"):
        made.__init__(*((bytearray(8192),) if path == "memory" else (fd, 4096)))
    made.close()
    os.close(fd)
