"""What several threads use at once without a lock of their own: cursors, snapshots, the marks of a batch.

With the GIL most of this cannot go wrong; CPython without it is what these tests are for: tools/free-threaded
runs them there.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.engine.pair import MakePair, Pair, mapped
from vhost_user.engine.device.header import Header
from vhost_user.engine.device.request import Request
from vhost_user.engine.errors import RequestError
from vhost_user.engine.memory.atomic import GuestMemoryAtomic
from vhost_user.engine.memory.guest_memory import GuestMemory

THREADS = 3
ROUNDS = 20
SEGMENTS = [3] * 40
"""Odd lengths: many an access of two bytes crosses from one descriptor into the next."""


def together(*bodies: Callable[[], object]) -> None:
    """Run each in a thread of its own, from the same moment on; the first exception of one is raised here."""
    gate = threading.Barrier(len(bodies))
    problems: list[BaseException] = []

    def run(body: Callable[[], object]) -> None:
        try:
            gate.wait(30)
            body()
        except BaseException as error:  # noqa: BLE001 (raised below)
            problems.append(error)

    threads = [threading.Thread(target=run, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
        assert not thread.is_alive()
    if problems:
        raise problems[0]


@contextmanager
def meanwhile(body: Callable[[], object]) -> Iterator[None]:
    """Repeat ``body`` in a thread of its own while the block runs."""
    stop = threading.Event()
    problems: list[BaseException] = []

    def run() -> None:
        try:
            while not stop.is_set():
                body()
        except BaseException as error:  # noqa: BLE001 (raised below)
            problems.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(90)
    assert not thread.is_alive()
    if problems:
        raise problems[0]


def numbered(pair: Pair) -> Request:
    """A request whose readable bytes count up, in many descriptors, with as much room to write."""
    content = bytes(index % 251 for index in range(sum(SEGMENTS)))
    parts, at = [], 0
    for length in SEGMENTS:
        parts.append(content[at : at + length])
        at += length
    return pair.serve(parts, SEGMENTS, indirect=True)


def test_V009_readers_of_one_request_get_each_byte_once(make_pair: MakePair) -> None:
    pair = make_pair(8)
    for _ in range(ROUNDS):
        request = numbered(pair)
        found: list[list[bytes]] = [[] for _ in range(THREADS)]

        def read(mine: list[bytes], request: Request = request) -> None:
            while data := request.read(2):
                mine.append(data)

        together(*(lambda mine=mine: read(mine) for mine in found))
        taken = Counter(byte for mine in found for data in mine for byte in data)
        assert taken == Counter(index % 251 for index in range(sum(SEGMENTS)))
        assert request.readable == 0
        request.complete()
        assert pair.queue.poll() is not None


def test_V014_writers_of_one_request_never_write_to_the_same_place(make_pair: MakePair) -> None:
    pair = make_pair(8)
    for _ in range(ROUNDS):
        request = numbered(pair)
        written = [0] * THREADS

        def write(number: int, request: Request = request, written: list[int] = written) -> None:
            while True:
                try:
                    request.write(bytes([number + 1, number + 1]))
                except RequestError:
                    return
                written[number] += 2

        together(*(lambda number=number: write(number) for number in range(THREADS)))
        content = b"".join(
            pair.guest.read(address, length) for address, length, writable in request.segments() if writable
        )
        assert request.writable == 0
        assert [content.count(number + 1) for number in range(THREADS)] == written
        request.complete()
        assert pair.queue.poll() is not None


def test_V051_a_header_is_decoded_once_for_all_threads(make_pair: MakePair) -> None:
    made: list[object] = []

    class Fields:
        def __init__(self, *numbers: int) -> None:
            self.numbers = numbers
            made.append(self)

    pair = make_pair(8)
    pair.vring.set_header(Header("<HHI", Fields))
    for _ in range(ROUNDS):
        request = pair.serve([b"\1\0", b"\2\0\3", b"\0\0\0rest"])
        seen: list[object] = []
        together(*([lambda request=request, seen=seen: seen.append(request.header)] * THREADS))
        assert len({id(fields) for fields in seen}) == 1
        assert seen[0].numbers == (1, 2, 3)  # type: ignore[attr-defined]
        assert request.read() == b"rest"
        request.complete()
        assert pair.queue.poll() is not None
    assert len(made) == ROUNDS


def test_user_data_is_replaced_while_others_look(make_pair: MakePair) -> None:
    request = make_pair(8).serve([b"x"])

    def replace() -> None:
        for number in range(20 * ROUNDS):
            request.user_data = [number]

    def look() -> None:
        for _ in range(20 * ROUNDS):
            data = request.user_data
            assert data is None or len(data) == 1

    together(replace, replace, look, look)
    request.user_data = None
    request.complete()


def test_C041_the_memory_of_a_vring_is_replaced_while_it_is_served(make_pair: MakePair) -> None:
    """Each table is dropped by the next one: whoever still loads its pointer must have a reference first."""
    pair = make_pair(8)
    place = pair.buffer(16)
    served = 0

    def handler(request: Request) -> None:
        nonlocal served
        served += 1
        request.write(request.read())

    def serve() -> None:
        pair.vring.process(handler)

    with meanwhile(serve):
        returned = 0
        for turn in range(10 * ROUNDS):
            if turn % 3 == 0 and pair.queue.free_slots >= 2:
                pair.queue.add([place], [place])
                pair.queue.publish()
            pair.vring.set_memory(mapped(pair.memory))
            returned += len(pair.queue.poll_many())
    pair.vring.set_memory(pair.guest)
    serve()
    returned += len(pair.queue.poll_many())
    assert returned == served > 0


def test_C134_the_regions_of_a_snapshot_are_looked_at_while_it_is_closed(make_pair: MakePair) -> None:
    pair = make_pair(8)
    current = [mapped(pair.memory)]

    def look() -> None:
        for region in current[0].regions:
            assert region.size > 0
        repr(current[0])

    with meanwhile(look), meanwhile(look):
        for _ in range(10 * ROUNDS):
            old = current[0]
            current[0] = mapped(pair.memory)
            together_closed = old.regions
            old.close()
            assert old.regions == ()
            del together_closed, old
    current[0].close()


def test_C040_the_current_snapshot_is_taken_while_it_is_replaced(make_pair: MakePair) -> None:
    pair = make_pair(8)
    cell = GuestMemoryAtomic(mapped(pair.memory))

    def look() -> None:
        assert len(cell.memory().regions) == 1

    with meanwhile(look), meanwhile(look):
        for _ in range(10 * ROUNDS):
            cell.replace(mapped(pair.memory))
    cell.replace(GuestMemory())


@pytest.mark.parametrize("held", [1, 5])
def test_V023_requests_of_earlier_batches_are_used_while_another_batch_is_served(
    make_pair: MakePair, held: int
) -> None:
    """A thread asks without a lock whether a request is of the batch that it serves itself.

    For all others the answer is no. Were it yes, the completion would wait for the end of a batch that is not
    this thread's, and an access would go without a pin.
    """
    pair = make_pair(64)
    place, answer = pair.buffer(b"abcd"), pair.buffer(4)
    waiting: list[Request] = []
    ready = threading.Semaphore(0)
    total = 10 * ROUNDS

    def handler(request: Request) -> None:
        request.hold()
        waiting.append(request)
        ready.release()

    def complete() -> None:
        for _ in range(total // 2):
            assert ready.acquire(timeout=60)
            request = waiting.pop()
            request.write(request.read(2))
            request.write(request.read(2))
            request.complete()

    returned = 0

    def drive() -> None:
        nonlocal returned
        sent = 0
        while returned < total:
            while sent < total and pair.queue.free_slots >= 2 and pair.queue.outstanding < held:
                pair.queue.add([place], [answer])
                pair.queue.publish()
                sent += 1
            done = pair.queue.poll_many()
            assert all(length == 4 for _, length in done)
            returned += len(done)
            if not done:
                time.sleep(0.0005)  # the other threads may need this CPU

    def serve() -> None:
        if not pair.vring.process(handler):
            time.sleep(0.0005)

    with meanwhile(serve):
        together(complete, complete, drive)
    assert returned == total
    assert pair.memory.read(answer[0], 4) == b"abcd"
