"""What several threads use at once without a lock of their own: cursors, snapshots, the marks of a batch.

With the GIL most of this cannot go wrong; CPython without it is what these tests are for: tools/free-threaded
runs them there. All were seen to fail there with what they are about taken away.
"""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest

from tests.engine.at_once import ROUNDS, THREADS, TURNS, meanwhile, together
from tests.engine.pair import MakePair, Pair, device_region, mapped
from vhost_user.engine.device.batch import Batch
from vhost_user.engine.device.header import Header
from vhost_user.engine.device.request import Request
from vhost_user.engine.errors import RequestError
from vhost_user.engine.memory.atomic import GuestMemoryAtomic
from vhost_user.engine.memory.guest_memory import GuestMemory

SEGMENTS = [3] * 400
"""Odd lengths: many an access of two bytes crosses from one descriptor into the next."""


def numbered(pair: Pair) -> Request:
    """A request whose readable bytes count up, in many descriptors, with as much room to write."""
    content = bytes(index % 251 for index in range(sum(SEGMENTS)))
    parts, at = [], 0
    for length in SEGMENTS:
        parts.append(content[at : at + length])
        at += length
    return pair.serve(parts, SEGMENTS, indirect=True)


def held_by(pair: Pair) -> list[Request]:
    """The requests that wait in the ring, in a batch of this thread that is over, and held."""
    held: list[Request] = []

    def hold(request: Request) -> None:
        request.hold()
        held.append(request)

    pair.vring.process(hold)
    return held


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


@pytest.mark.parametrize("move", ["skip_readable", "skip_writable", "advance_writable"])
def test_V009_V014_of_threads_that_skip_all_that_is_left_one_does(make_pair: MakePair, move: str) -> None:
    """Whoever is second has nothing left; moved all the same, the next access would be past the end."""
    pair = make_pair(256)
    place, answer = pair.buffer(16), pair.buffer(16)
    for _ in range(ROUNDS):
        for _ in range(128):
            pair.queue.add([place], [answer])
        pair.queue.publish()
        requests = [pair.take() for _ in range(128)]
        moved = Counter[int]()

        def skip(requests: list[Request] = requests, moved: Counter[int] = moved) -> None:
            mine = []
            for number, request in enumerate(requests):
                try:
                    getattr(request, move)(16)
                except RequestError:
                    continue
                mine.append(number)
                # Who was first is slower, so that they meet at the next.
                for _ in range(4):
                    request.segments()
            moved.update(mine)

        together(*[skip] * THREADS)
        assert set(moved.values()) == {1}
        assert all(request.readable <= 16 and request.writable <= 16 for request in requests)
        for request in requests:
            request.complete()
        assert len(pair.queue.poll_many()) == 128


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


def test_V051_a_header_is_read_once_for_all_threads(make_pair: MakePair) -> None:
    """The driver changes it meanwhile, and it takes long to read: who comes second must not read it again."""
    pair = make_pair(64)
    pair.vring.set_header(Header("<32Q"))
    at, length = pair.buffer(256)
    parts = [(at + start, min(3, length - start)) for start in range(0, length, 3)]
    parts.append(pair.buffer(b"rest"))
    numbers = iter(range(1 << 62))

    def change() -> None:
        pair.memory.write(at, bytes([next(numbers) % 251]) * length)

    for _ in range(10):
        for _ in range(64):
            pair.queue.add(parts, indirect=True)
        pair.queue.publish()
        requests = [pair.take() for _ in range(64)]
        seen: list[list[object]] = []
        # Whoever is behind is faster, because it finds what the others have read: so they meet.
        with meanwhile(change):
            together(*([lambda r=requests, seen=seen: seen.append([each.header for each in r])] * THREADS))
        for request, *fields in zip(requests, *seen, strict=True):
            assert len({id(each) for each in fields}) == 1
            assert [Batch([request]).field(index)[0] for index in range(32)] == list(request.header)
            assert request.read() == b"rest"
            request.complete()
        assert len(pair.queue.poll_many()) == 64


def test_V051_a_header_is_one_object_for_all_threads(make_pair: MakePair) -> None:
    """What makes the object may wait, and others come by meanwhile."""

    class Fields:
        def __init__(self, *numbers: int) -> None:
            time.sleep(0.001)
            self.numbers = numbers

    pair = make_pair(8)
    pair.vring.set_header(Header("<HHI", Fields))
    for _ in range(5):
        request = pair.serve([b"\1\0", b"\2\0\3", b"\0\0\0rest"])
        seen: list[Fields] = []
        together(*([lambda request=request, seen=seen: seen.append(request.header)] * THREADS))
        assert len(set(seen)) == 1
        assert request.header is seen[0]
        assert seen[0].numbers == (1, 2, 3)
        assert request.read() == b"rest"
        request.complete()
        assert pair.queue.poll() is not None


class Datum:
    """Notes its end, so that whoever gets hold of it too late sees that."""

    def __init__(self) -> None:
        self.alive = True

    def __del__(self) -> None:
        assert self.alive
        self.alive = False


def test_user_data_is_replaced_while_others_look(make_pair: MakePair) -> None:
    """Whoever takes a reference to what another thread lets go of brings an object back that has ended."""
    request = make_pair(8).serve([b"x"])
    request.user_data = Datum()

    def replace() -> None:
        for _ in range(TURNS):
            request.user_data = Datum()

    def look() -> None:
        for _ in range(2 * TURNS):
            assert request.user_data.alive

    together(replace, replace, look, look)
    request.user_data = None
    request.complete()


def test_C041_the_memory_of_a_vring_is_replaced_while_it_is_served(make_pair: MakePair) -> None:
    """Each table is dropped by the next one: whoever still loads its pointer must have a reference first."""
    pair = make_pair(8)
    regions = [device_region(region) for region in pair.memory.regions]
    place = pair.buffer(16)
    served = Counter[str]()

    def answer(request: Request, by: str) -> None:
        served[by] += 1
        request.write(request.read())

    def serve() -> None:
        pair.vring.process(lambda request: answer(request, "process"))

    def take() -> None:
        request = pair.vring.pop()
        if request is not None:
            answer(request, "pop")
            request.complete()

    with meanwhile(serve), meanwhile(take):
        returned = 0
        for turn in range(TURNS):
            if turn % 3 == 0 and pair.queue.free_slots >= 2:
                pair.queue.add([place], [place])
                pair.queue.publish()
            pair.vring.set_memory(GuestMemory(regions))
            returned += len(pair.queue.poll_many())
    pair.vring.set_memory(pair.guest)
    serve()
    returned += len(pair.queue.poll_many())
    assert returned == served.total() > 0


def test_C134_the_regions_of_a_snapshot_are_looked_at_while_it_is_closed(make_pair: MakePair) -> None:
    pair = make_pair(8)
    regions = [device_region(region) for region in pair.memory.regions]
    current = [GuestMemory(regions)]

    def look() -> None:
        snapshot = current[0]
        for _ in range(50):
            seen = snapshot.regions
            assert all(region is ours for region, ours in zip(seen, regions, strict=bool(seen)))
        repr(snapshot)

    with meanwhile(look), meanwhile(look):
        for _ in range(TURNS):
            old = current[0]
            current[0] = GuestMemory(regions)
            old.close()
            assert old.regions == ()
    current[0].close()


def test_C040_the_current_snapshot_is_taken_while_it_is_replaced(make_pair: MakePair) -> None:
    pair = make_pair(8)
    regions = [device_region(region) for region in pair.memory.regions]
    cell = GuestMemoryAtomic(GuestMemory(regions))

    def look() -> None:
        assert cell.memory().regions[0] is regions[0]

    with meanwhile(look), meanwhile(look):
        for _ in range(TURNS):
            cell.replace(GuestMemory(regions))
    cell.replace(GuestMemory())


def test_V023_a_completion_is_visible_at_once_beside_the_batch_of_another_thread(
    make_pair: MakePair,
) -> None:
    """A batch publishes its own at its end; this one is not of its thread, and nobody knows when that is."""
    pair = make_pair(8)
    pair.add([b"held"])
    held = held_by(pair)
    pair.add([b"slow"])
    entered, leave = threading.Event(), threading.Event()

    def slow(_: Request) -> None:
        entered.set()
        assert leave.wait(60)

    thread = threading.Thread(target=pair.vring.process, args=(slow,))
    thread.start()
    try:
        assert entered.wait(60)
        held.pop().complete()
        assert pair.queue.poll() is not None
        assert pair.queue.poll() is None
    finally:
        leave.set()
        thread.join(60)
    assert pair.queue.poll() is not None


def test_C134_a_request_is_not_taken_for_one_of_the_batch_of_another_thread(make_pair: MakePair) -> None:
    """That thread has pinned the memory for itself. This one asks whether it is still there: it is not."""
    pair = make_pair(8)
    pair.add([b"held"], [4])
    held = held_by(pair)
    pair.add([b"slow"], [4])
    entered, leave = threading.Event(), threading.Event()

    def slow(request: Request) -> None:
        entered.set()
        assert leave.wait(60)
        request.write(request.read())

    thread = threading.Thread(target=pair.vring.process, args=(slow,))
    thread.start()
    try:
        assert entered.wait(60)
        pair.guest.close()
        for use in (held[0].read, lambda: held[0].write(b"x"), lambda: held[0].write_last(b"x")):
            with pytest.raises(RequestError, match="session ended"):
                use()
    finally:
        leave.set()
        thread.join(60)
    # The batch itself was served to its end.
    assert pair.queue.poll() is not None
    held.pop().complete()


def test_C134_a_request_held_over_a_batch_is_looked_at_anew(make_pair: MakePair) -> None:
    """Its own batch is over: nothing has pinned the memory for this thread any more."""
    pair = make_pair(8)
    pair.add([b"held"], [4])
    held = held_by(pair)
    pair.guest.close()
    with pytest.raises(RequestError, match="session ended"):
        held[0].read()
    held.pop().complete()


def refused_within_a_batch(pair: Pair, held: Request) -> list[str]:
    """The rules by which ``held`` is refused while its thread answers the next batch."""
    raised: list[str] = []

    def answer(request: Request) -> None:
        request.write(request.read())
        try:
            held.read()
        except RequestError as error:
            raised.append(error.rule)

    pair.vring.process(answer)
    return raised


def test_C041_a_request_of_an_earlier_batch_is_not_taken_for_one_of_this(make_pair: MakePair) -> None:
    """A batch has pinned its own snapshot, not the one that an earlier request of its thread came from."""
    pair = make_pair(8)
    pair.add([b"held"], [4])
    held = held_by(pair)
    views = [memoryview(region) for region in pair.guest.regions]
    later = mapped(pair.memory)
    pair.vring.set_memory(later)
    pair.guest.close()
    pair.add([b"next"], [4])
    raised = refused_within_a_batch(pair, held[0])
    # What was looked at above stayed mapped for a view of it, so that a wrong answer is no more than one.
    del views
    assert raised == ["C134"]
    assert pair.queue.poll() is not None
    held.pop().complete()
    pair.vring.set_memory(GuestMemory())
    later.close()


def test_C134_a_request_abandoned_is_not_taken_for_one_of_this_batch(make_pair: MakePair) -> None:
    """The same thread, the same memory, and the ring as it was before somebody gave it up."""
    pair = make_pair(8)
    pair.add([b"held"], [4])
    held = held_by(pair)
    pair.vring.abandon()
    pair.add([b"next"], [4])
    assert refused_within_a_batch(pair, held[0]) == ["C134"]
    held.pop().complete()
