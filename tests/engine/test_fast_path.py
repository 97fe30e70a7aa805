"""The compiled fast paths: what they take, what they decline, and that nothing under way is lost."""

from __future__ import annotations

import os
import select
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.engine.pair import MakePair, Pair
from vhost_user.engine.blk.fast_path import BlockFastPath, MemoryFastPath
from vhost_user.engine.blk.file_fast_path import FileFastPath, liburing_built
from vhost_user.engine.device.header import Header
from vhost_user.engine.device.request import Request
from vhost_user.engine.device.worker import Worker
from vhost_user.engine.memory.dirty_log import Bitmap

SECTORS = 512
SIZE = SECTORS * 512
PATIENCE = 10.0
READ, WRITE, FLUSH = 0, 1, 4

Make = Callable[..., BlockFastPath]


def header(kind: int, sector: int) -> bytes:
    return struct.pack("<IIQ", kind, 0, sector)


@pytest.fixture
def content() -> bytes:
    return os.urandom(SIZE)


@pytest.fixture(params=["memory", "file", "io_uring"])
def disk(request: pytest.FixtureRequest, tmp_path: Path, content: bytes) -> Iterator[Make]:
    """Makes the fast path of each kind, with ``content`` in its disk."""
    made: list[BlockFastPath] = []
    path = tmp_path / "disk"
    path.write_bytes(content)
    fd = os.open(path, os.O_RDWR)

    def make(*, read_only: bool = False) -> BlockFastPath:
        if request.param == "memory":
            fast_path: BlockFastPath = MemoryFastPath(bytearray(content), read_only=read_only)
        else:
            fast_path = FileFastPath(fd, SIZE, read_only=read_only, io_uring=request.param == "io_uring")
            assert fast_path.uses_io_uring == (request.param == "io_uring")
        made.append(fast_path)
        return fast_path

    yield make
    for fast_path in made:
        fast_path.close()
    os.close(fd)


class Handler:
    """The device's handler: remembers what it was given, answers with a status of 9."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def __call__(self, request: Request) -> None:
        self.seen.append(request.header if request.readable_total >= 16 else ())
        if request.writable_total:
            request.write_last(b"\x09")


def process(pair: Pair, fast_path: BlockFastPath, handler: Handler, *, expect: int) -> list[tuple[int, int]]:
    """Process until ``expect`` chains came back: again whenever the fast path's fd is readable."""
    used: list[tuple[int, int]] = []
    poll = select.poll()
    if fast_path.fd >= 0:
        poll.register(fast_path.fd, select.POLLIN)
    pair.vring.process(handler, fast_path=fast_path)
    while True:
        used += pair.queue.poll_many()
        if len(used) >= expect:
            return used
        assert poll.poll(PATIENCE * 1000), f"nothing finished: {pair.queue.describe()}"
        os.eventfd_read(fast_path.fd)
        pair.vring.process(handler, fast_path=fast_path)


def prepared(make_pair: MakePair, size: int = 64, **options: object) -> Pair:
    pair = make_pair(size, **options)
    pair.vring.set_header(Header("<IIQ"))
    return pair


def test_reads_and_writes_bypass_the_handler(make_pair: MakePair, disk: Make, content: bytes) -> None:
    pair, fast_path, handler = prepared(make_pair), disk(), Handler()
    new = os.urandom(1024)
    pair.add([header(WRITE, 8), new], [1])
    (used,) = process(pair, fast_path, handler, expect=1)
    assert used[1] == 1
    buffer = pair.buffer(4097)
    pair.queue.add([pair.buffer(header(READ, 8))], [buffer])
    pair.queue.publish()
    (used,) = process(pair, fast_path, handler, expect=1)
    assert used[1] == 4097
    assert pair.memory.read(*buffer) == new + content[8 * 512 + 1024 : 8 * 512 + 4096] + b"\0"
    assert handler.seen == []
    assert (fast_path.accepted, fast_path.declined) == (2, 0)


def test_V009_any_framing_is_taken(make_pair: MakePair, disk: Make, content: bytes) -> None:
    pair, fast_path, handler = prepared(make_pair), disk(), Handler()
    data = [pair.buffer(length) for length in (1, 511, 700, 324, 1)]
    raw = header(READ, 3)
    pair.queue.add([pair.buffer(raw[at : at + 1]) for at in range(16)], data)
    pair.queue.publish()
    ((_, length),) = process(pair, fast_path, handler, expect=1)
    got = b"".join(pair.memory.read(*part) for part in data)
    assert length == 1537
    assert got == content[3 * 512 : 3 * 512 + 1536] + b"\0"
    assert handler.seen == []


@pytest.mark.parametrize(
    ("readable", "writable"),
    [
        ([header(FLUSH, 0)], [1]),
        ([header(7, 0)], [1]),
        ([header(READ, SECTORS)], [513]),
        ([header(READ, SECTORS - 1)], [1025]),
        ([header(READ, 1 << 63)], [513]),
        ([header(READ, (1 << 64) - 1)], [513]),
        ([header(READ, 0)], [100]),
        ([header(WRITE, SECTORS), bytes(512)], [1]),
        ([header(WRITE, 0), bytes(100)], [1]),
        ([header(READ, 0)[:15]], [513]),
        ([header(WRITE, 0), bytes(512)], []),
    ],
)
def test_H76_what_is_not_plain_is_left_to_the_handler(
    make_pair: MakePair, disk: Make, readable: list[bytes], writable: list[int]
) -> None:
    pair, fast_path, handler = prepared(make_pair), disk(), Handler()
    pair.add(readable, writable)
    process(pair, fast_path, handler, expect=1)
    assert len(handler.seen) == 1
    assert fast_path.accepted == 0


def test_V011_a_buffer_that_is_not_mapped_is_left_to_the_handler(make_pair: MakePair, disk: Make) -> None:
    pair, fast_path, handler = prepared(make_pair), disk(), Handler()
    pair.queue.add([pair.buffer(header(READ, 0))], [(1 << 40, 512), pair.buffer(1)])
    pair.queue.publish()
    process(pair, fast_path, handler, expect=1)
    assert len(handler.seen) == 1


def test_V004_a_ring_that_breaks_behind_what_was_taken_is_reported(make_pair: MakePair, disk: Make) -> None:
    pair, fast_path, handler = prepared(make_pair), disk(), Handler()
    pair.queue.add([pair.buffer(header(READ, 0))], [pair.buffer(513)])
    if pair.packed:
        pair.queue.publish()
        pair.ring.write_descriptor(2, 0, 24, 0, 4 | 1 << 7)
    else:
        pair.split.write_avail(1, 0xFFFF)
        pair.queue.publish()
        pair.split.set_avail_index(2)
    process(pair, fast_path, handler, expect=1)
    # What is queued elsewhere is looked after by a later call; the broken ring is not taken from again.
    assert [error.rule for error in pair.errors] == ["V030" if pair.packed else "V004"]
    assert handler.seen == []


def test_writes_of_a_read_only_disk_and_write_through_go_to_the_handler(
    make_pair: MakePair, disk: Make
) -> None:
    pair, handler = prepared(make_pair), Handler()
    through = disk()
    through.write_through = True
    for fast_path in (disk(read_only=True), through):
        pair.add([header(WRITE, 0), bytes(512)], [1])
        pair.add([header(READ, 0)], [513])
        process(pair, fast_path, handler, expect=2)
        assert (fast_path.accepted, fast_path.declined) == (1, 1)
    through.enabled = False
    pair.add([header(READ, 0)], [513])
    process(pair, through, handler, expect=1)
    assert [seen[0] for seen in handler.seen] == [WRITE, WRITE, READ]


def test_the_handler_gets_only_the_declined_of_a_batch(make_pair: MakePair, disk: Make) -> None:
    pair, fast_path, handler = prepared(make_pair, 256), disk(), Handler()
    for number in range(100):
        pair.add([header(FLUSH if number % 7 == 0 else READ, number % 8)], [1 if number % 7 == 0 else 513])
    used = process(pair, fast_path, handler, expect=100)
    assert len(used) == len({token for token, _ in used}) == 100
    assert len(handler.seen) == 15
    assert fast_path.accepted == 85


def test_C078_C084_what_the_fast_path_writes_is_logged(make_pair: MakePair, disk: Make) -> None:
    bitmap = Bitmap()
    log = os.memfd_create("log")
    os.ftruncate(log, 1 << 16)
    bitmap.map(log, 1 << 16)
    pair, fast_path, handler = prepared(make_pair, bitmap=bitmap), disk(), Handler()
    buffer = pair.memory.allocate(3 * 4096, 4096)
    pair.queue.add([pair.buffer(header(READ, 0))], [(buffer, 4096), (buffer + 2 * 4096, 1)])
    pair.queue.publish()
    bitmap.enabled = True
    process(pair, fast_path, handler, expect=1)
    assert [bitmap.is_dirty(buffer + page * 4096) for page in range(3)] == [True, False, True]
    os.close(log)


def test_a_short_file_is_the_handlers_to_explain(make_pair: MakePair, tmp_path: Path) -> None:
    path = tmp_path / "short"
    path.write_bytes(bytes(SIZE))
    fd = os.open(path, os.O_RDWR)
    for io_uring in (False, True):
        pair, handler = prepared(make_pair), Handler()
        fast_path = FileFastPath(fd, SIZE, io_uring=io_uring)
        os.ftruncate(fd, 4096)
        pair.add([header(READ, 7)], [1025])
        ((_, length),) = process(pair, fast_path, handler, expect=1)
        assert len(handler.seen) == 1
        assert length <= 1025
        os.ftruncate(fd, SIZE)
        fast_path.close()
    os.close(fd)


@contextmanager
def served(pair: Pair, fast_path: BlockFastPath, handler: Handler) -> Iterator[None]:
    """The ring in a worker of its own, as a device has it."""
    worker = Worker([pair.vring], first_listener_id=2)

    def dispatch(event: int, _events: int) -> None:
        if event == 2:
            os.eventfd_read(fast_path.fd)
        pair.vring.process(handler, fast_path=fast_path)

    if fast_path.fd >= 0:
        worker.register_listener(fast_path.fd, select.EPOLLIN, 2)
    thread = threading.Thread(target=worker.run, args=(dispatch,))
    thread.start()
    worker.update(pair.vring)
    try:
        yield
    finally:
        worker.stop()
        thread.join()
        worker.close()


def test_reads_that_wait_for_the_disk_are_not_forgotten(make_pair: MakePair, tmp_path: Path) -> None:
    """They complete in the submitter's context, not in a kernel worker's: the eventfd tells of them too."""
    assert liburing_built(), "these tests want liburing-dev when the engine is built"
    blocks = 256
    content = os.urandom(blocks * 4096)
    path = tmp_path / "cold"
    path.write_bytes(content)
    fd = os.open(path, os.O_RDWR)
    os.fsync(fd)
    pair, handler = prepared(make_pair), Handler()
    fast_path = FileFastPath(fd, len(content), io_uring=True)
    buffer = pair.buffer(4097)
    request = pair.buffer(16)
    with served(pair, fast_path, handler):
        for turn in range(blocks):
            block = turn * 37 % blocks
            if turn % 16 == 0:
                # Out of the page cache, so that reads have to wait.
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            pair.memory.write(request[0], header(READ, block * 8))
            pair.queue.add([request], [buffer])
            pair.queue.publish()
            pair.queue.kick()
            assert pair.queue.wait(PATIENCE), f"turn {turn}: {pair.queue.describe()}"
            assert pair.queue.poll() is not None
            assert pair.memory.read(*buffer) == content[block * 4096 : block * 4096 + 4096] + b"\0"
    assert handler.seen == []
    fast_path.close()
    os.close(fd)


def test_C134_a_session_may_end_with_requests_in_the_kernel(make_pair: MakePair, tmp_path: Path) -> None:
    """Their memory stays mapped until the kernel is done with it, and no longer."""
    path = tmp_path / "disk"
    path.write_bytes(os.urandom(1 << 20))
    fd = os.open(path, os.O_RDWR)
    os.fsync(fd)
    for _ in range(20):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        pair, handler = prepared(make_pair), Handler()
        fast_path = FileFastPath(fd, 1 << 20, io_uring=True)
        for number in range(16):
            pair.add([header(READ, number * 128)], [65537])
        pair.vring.process(handler, fast_path=fast_path)
        pair.vring.stop()
        pair.vring.abandon()
        pair.vring.reset()
        pair.guest.close()
        fast_path.close()
        assert fast_path.statistics()["under_way"] == 0
        assert handler.seen == []
    os.close(fd)


def test_C054_draining_waits_for_the_kernel(make_pair: MakePair, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(os.urandom(1 << 20))
    fd = os.open(path, os.O_RDWR)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    pair, handler = prepared(make_pair), Handler()
    fast_path = FileFastPath(fd, 1 << 20, io_uring=True)
    with served(pair, fast_path, handler):
        for number in range(16):
            pair.add([header(READ, number * 128)], [65537])
        pair.queue.kick(force=True)
        while pair.vring.statistics()["requests"] < 16:
            os.sched_yield()
        pair.vring.stop()
        assert pair.vring.drain(PATIENCE)
        assert len(pair.queue.poll_many()) == 16
    fast_path.close()
    os.close(fd)


def test_large_requests_are_shared_with_the_kernel_and_the_last_is_done_here(make_pair: MakePair) -> None:
    """On a file in memory, where nothing has to be waited for: other CPUs copy while this thread does."""
    block, count = 256 << 10, 5
    content = os.urandom(count * block)
    fd = os.memfd_create("disk")
    os.write(fd, content)
    fast_path = FileFastPath(fd, len(content))
    pair, handler = prepared(make_pair), Handler()
    buffers = []
    for number in range(count):
        buffers.append(pair.buffer(block + 1))
        pair.queue.add([pair.buffer(header(READ, number * block // 512))], [buffers[-1]])
    pair.queue.publish()
    assert len(process(pair, fast_path, handler, expect=count)) == count
    for number, buffer in enumerate(buffers):
        assert pair.memory.read(*buffer) == content[number * block : (number + 1) * block] + b"\0"

    # One alone has nobody to share with: it never leaves this thread.
    new = os.urandom(block)
    chain = [pair.buffer(header(WRITE, 0) + new)], [pair.buffer(1)]
    for _ in range(20):
        pair.queue.add(*chain)
        pair.queue.publish()
        assert pair.vring.process(handler, fast_path=fast_path) == 1
        assert fast_path.statistics()["under_way"] == 0
        assert [length for _, length in pair.queue.poll_many()] == [1]
    assert os.pread(fd, block, 0) == new
    assert handler.seen == []
    assert (fast_path.accepted, fast_path.declined) == (count + 20, 0)
    fast_path.close()
    os.close(fd)


def test_closing_waits_for_a_call_that_is_inside(make_pair: MakePair, content: bytes) -> None:
    pair = prepared(make_pair)
    disk = bytearray(content)
    fast_path = MemoryFastPath(disk)
    inside, go_on, closed = threading.Event(), threading.Event(), threading.Event()

    def handler(_request: Request) -> None:
        inside.set()
        assert go_on.wait(PATIENCE)

    pair.add([header(FLUSH, 0)], [1])
    serving = threading.Thread(target=pair.vring.process, args=(handler,), kwargs={"fast_path": fast_path})
    serving.start()
    assert inside.wait(PATIENCE)

    def close() -> None:
        fast_path.close()
        closed.set()

    closing = threading.Thread(target=close)
    closing.start()
    assert not closed.wait(0.05)
    go_on.set()
    serving.join()
    closing.join()
    disk.extend(b"no longer exported")
