"""The in-flight area as it is written, found, and found wrong: C106 to C117, H20, H26, H38, H85."""

from __future__ import annotations

import os
import random
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.tracked_ring import TrackedRing
from vhost_user.engine.device.batch import Batch
from vhost_user.engine.device.inflight import InflightArea, make_area_file
from vhost_user.engine.device.request import Request
from vhost_user.engine.errors import DeviceBroken, MemoryTableError, RingError, RingStateError
from vhost_user.spec import inflight as layout

Make = Callable[..., TrackedRing]
SIZE = 16


@pytest.fixture
def make(packed: bool) -> Iterator[Make]:
    made: list[TrackedRing] = []

    def one(size: int = SIZE, **options: Any) -> TrackedRing:
        made.append(TrackedRing(packed, size, **options))
        return made[-1]

    yield one
    for ring in made:
        ring.close()


def states(ring: TrackedRing) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """Header and states as the specification lays them out."""
    data = os.pread(ring.area_fd, ring.area_size, 0)
    header, state, start = (
        (layout.PACKED_HEADER, layout.PACKED_DESCRIPTOR, layout.PACKED_HEADER_SIZE)
        if ring.packed
        else (layout.SPLIT_HEADER, layout.SPLIT_DESCRIPTOR, layout.SPLIT_HEADER_SIZE)
    )
    end = start + state.size * ring.queue.size
    return header.unpack_from(data), list(state.iter_unpack(data[start:end]))


def in_flight(ring: TrackedRing) -> list[int]:
    return [index for index, state in enumerate(states(ring)[1]) if state[0]]


def test_C108_a_zeroed_area_is_made_ready(make: Make, packed: bool) -> None:
    ring = make()
    header, entries = states(ring)
    if packed:
        assert header == (0, 1, SIZE, 0, 0, 0, 0, 1, 1)
        assert [entry[1] for entry in entries] == list(range(1, SIZE + 1))
    else:
        assert header == (0, 1, SIZE, 0, 0)
    assert in_flight(ring) == []
    assert ring.vring.tracked
    assert ring.vring.inflight_problem is None


def test_C109_C112_what_is_taken_is_recorded_with_its_order(make: Make, packed: bool) -> None:
    ring = make()
    ring.add(3, descriptors=3)
    taken = ring.take()
    _, entries = states(ring)
    marked = [entries[index] for index in in_flight(ring)]
    assert [entry[4 if packed else 2] for entry in marked] == [0, 1, 2]
    if packed:
        assert [entry[3] for entry in marked] == [3, 3, 3]
        assert [entry[5] for entry in marked] == [request.head for request in taken]
        first, last = marked[0], entries[marked[0][2]]
        assert isinstance(ring.queue.size, int)
        assert (first[8], first[7]) == taken[0].segments()[0][:2]
        assert (last[8], last[7]) == taken[0].segments()[-1][:2]
    else:
        assert in_flight(ring) == sorted(request.head for request in taken)
    ring.complete(taken[1:2])
    assert len(in_flight(ring)) == 2
    ring.complete([taken[2], taken[0]])
    assert in_flight(ring) == []
    header, _ = states(ring)
    if packed:
        assert header[5:] == (9, 9, 1, 1)
        assert header[3] == header[4]
    else:
        assert header[4] == 3


def test_C110_C113_C117_they_are_taken_again_first_in_order_and_without_a_kick(make: Make) -> None:
    ring = make()
    ring.add(4)
    taken = ring.take()
    ring.complete([taken[1]])
    ring.kill()
    later = ring.add(1)
    ring.serve()
    assert ring.vring.recovering == 3
    again = ring.take()
    assert [ring.number_of(request) for request in again] == [0, 2, 3, *later]
    assert [request.recovered for request in again] == [True, True, True, False]
    assert ring.vring.recovering == 0
    ring.complete(again)
    assert ring.poll() == [1, 0, 2, 3, *later]


def test_C111_the_base_of_the_front_end_does_not_matter(make: Make, packed: bool) -> None:
    ring = make()
    ring.add(5)
    ring.complete(ring.take(3))
    ring.kill()
    ring.base = 0x8007_8007 if packed else 4711
    ring.serve()
    ring.prove(random.Random(1))


def test_C116_a_reset_leaves_nothing_to_take_again(make: Make) -> None:
    ring = make()
    ring.add(3)
    kept = ring.take()
    ring.vring.abandon()
    ring.vring.forget_inflight()
    assert in_flight(ring) == []
    del kept


def test_a_recovered_request_that_is_put_back_comes_again(make: Make) -> None:
    ring = make()
    ring.add(3)
    kept = ring.take()
    ring.kill()
    ring.serve()
    first, second = ring.take(2)
    ring.vring.put_back(second)
    ring.vring.put_back(first)
    assert ring.vring.recovering == 3
    del kept, first, second
    ring.prove(random.Random(2))


def test_C060_recovered_requests_that_are_held_go_back_as_never_taken(make: Make) -> None:
    """A stop gives them back: the next start, with an area or without, finds them where the base says."""
    ring = make()
    ring.add(3)
    kept = ring.take()
    ring.kill()
    ring.serve()
    again = ring.take()
    ring.vring.stop()
    assert ring.vring.give_back() == (3, 0)
    assert in_flight(ring) == []
    ring.base = ring.vring.base()
    ring.vring.set_inflight(None)
    ring.vring.set_base(ring.base)
    ring.vring.start()
    assert not ring.vring.tracked
    del kept, again
    ring.prove(random.Random(3))


def test_C055_what_is_abandoned_stays_in_the_area(make: Make) -> None:
    ring = make()
    ring.add(3)
    kept = ring.take()
    ring.vring.stop()
    ring.vring.abandon()
    assert len(in_flight(ring)) == 3
    for request in kept:
        request.complete()
    assert ring.poll() == []
    ring.vring.start()
    assert ring.vring.recovering == 3
    ring.prove(random.Random(4))


def test_C107_the_area_comes_before_the_start(make: Make) -> None:
    ring = make()
    with pytest.raises(RingStateError, match="while the ring is started") as caught:
        ring.vring.set_inflight(None)
    assert caught.value.rule == "C107"


# ---------------------------------------------------------------------- requests that must not be repeated


@pytest.mark.parametrize("batches", [False, True])
def test_interrupted_requests_are_asked_about_before_anything_else(make: Make, batches: bool) -> None:
    ring = make()
    ring.add(4)
    kept = ring.take()
    ring.kill()
    ring.serve()
    ring.add(2)
    asked: list[int] = []
    handled: list[int] = []

    def interrupted(request: Request) -> bool:
        asked.append(ring.number_of(request))
        assert handled == [number for number in asked[:-1] if number % 2]
        if asked[-1] % 2:
            return True
        ring.complete([request])
        return False

    def handle(request: Request) -> None:
        handled.append(ring.number_of(request))
        ring.answer(request)

    def handle_batch(batch: Batch) -> None:
        for request in batch:
            handle(request)

    ring.vring.set_interrupted(interrupted)
    if batches:
        ring.vring.process_batch(handle_batch)
    else:
        ring.vring.process(handle)
    assert asked == [0, 1, 2, 3]
    assert handled == [1, 3, 4, 5]
    assert sorted(ring.poll()) == [0, 1, 2, 3, 4, 5]
    del kept


def test_what_interrupted_raises_fails_that_request_alone(make: Make) -> None:
    ring = make()
    ring.add(2)
    kept = ring.take()
    ring.kill()
    ring.serve()
    failed: list[int] = []

    def interrupted(request: Request) -> bool:
        raise RuntimeError(f"{ring.number_of(request)}")

    def on_error(request: Request, error: BaseException) -> None:
        failed.append(int(str(error)))
        ring.complete([request])

    ring.vring.set_interrupted(interrupted)
    ring.vring.process(ring.answer, on_error)
    assert failed == [0, 1]
    assert ring.poll() == [0, 1]
    del kept


# ---------------------------------------------------------------------- areas that are wrong


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"size": 64}, "2 queues take"),
        ({"offset": 4}, "multiple of 8"),
        ({"num_queues": 0}, "0 queues"),
        ({"queue_size": 40000}, "40000"),
        ({"offset": 1 << 20}, "of its file"),
        ({"size": 1 << 62, "offset": 1 << 62}, "out of range"),
    ],
)
def test_C107_H38_an_area_that_is_smaller_than_it_says_is_refused(
    numbers: dict[str, int], words: str
) -> None:
    fd, size = make_area_file(2, 64, packed=False)
    try:
        given = {"size": size, "num_queues": 2, "queue_size": 64, **numbers}
        with pytest.raises(MemoryTableError, match=words) as caught:
            InflightArea(fd, **given)  # type: ignore[arg-type]
        assert caught.value.rule == "C107"
    finally:
        os.close(fd)


def test_C106_H85_the_file_cannot_be_truncated() -> None:
    fd, size = make_area_file(1, 64, packed=True)
    try:
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 0)
        assert os.fstat(fd).st_size == size == layout.region_size(64, packed=True)
    finally:
        os.close(fd)


def start_with(ring: TrackedRing, fd: int, size: int, *, queue_size: int = SIZE, offset: int = 0) -> None:
    """Another device takes over, with another area."""
    ring.kill()
    ring.serve(start=False)
    area = InflightArea(fd, size=size, offset=offset, num_queues=1, queue_size=queue_size)
    ring.vring.set_inflight(area)
    area.close()
    ring.start()


def test_C107_an_area_for_smaller_rings_is_not_used_and_the_ring_runs(make: Make, packed: bool) -> None:
    ring = make()
    fd, size = make_area_file(1, SIZE // 2, packed=packed)
    start_with(ring, fd, size, queue_size=SIZE // 2)
    os.close(fd)
    assert not ring.vring.tracked
    assert f"it is for {SIZE // 2} descriptors, and the ring has {SIZE}" in str(ring.vring.inflight_problem)
    ring.prove(random.Random(5))


def test_C107_an_area_in_the_split_layout_has_no_room_for_a_packed_ring() -> None:
    ring = TrackedRing(True, SIZE)
    fd, size = make_area_file(1, SIZE, packed=False)
    start_with(ring, fd, size)
    os.close(fd)
    assert ring.vring.inflight_problem == "it has no room for this queue"
    ring.prove(random.Random(6))
    ring.close()


def test_C106_the_area_may_begin_anywhere_in_its_file(make: Make, packed: bool) -> None:
    ring = make()
    fd = os.memfd_create("area")
    size = layout.region_size(SIZE, packed=packed)
    os.ftruncate(fd, size + 4096 + 64)
    start_with(ring, fd, size, offset=4096 + 64)
    ring.add(2)
    kept = ring.take()
    assert os.pread(fd, 4096 + 64, 0) == bytes(4096 + 64)
    assert struct.unpack("=H", os.pread(fd, 2, 4096 + 64 + 8)) == (1,)
    ring.complete(kept)
    os.close(fd)
    ring.prove(random.Random(7))


def test_a_version_from_the_future_is_left_alone(make: Make) -> None:
    ring = make()
    ring.kill()
    os.pwrite(ring.area_fd, struct.pack("=H", 2), 8)
    before = os.pread(ring.area_fd, ring.area_size, 0)
    ring.serve()
    assert ring.vring.inflight_problem == "its version is 2; this one knows 1"
    ring.prove(random.Random(8))
    assert os.pread(ring.area_fd, ring.area_size, 0) == before


def split_state(index: int, inflight: int, following: int, counter: int) -> tuple[int, bytes]:
    return 16 + 16 * index, layout.SPLIT_DESCRIPTOR.pack(inflight, following, counter)


def packed_state(index: int, **fields: int) -> tuple[int, bytes]:
    names = ("inflight", "next", "last", "num", "counter", "id", "flags", "len", "addr")
    return 32 + 32 * index, layout.PACKED_DESCRIPTOR.pack(*(fields.get(name, 0) for name in names))


HOSTILE: list[tuple[bool, str, list[tuple[int, bytes]], str]] = [
    (False, "H38 another count", [(10, struct.pack("=H", 9))], "for 9 descriptors"),
    (False, "H20 last batch outside", [(12, struct.pack("=HH", 40000, 1))], "leads to entry 40000"),
    (False, "C115 used index far away", [(14, struct.pack("=H", 2000))], "behind the ring's"),
    (
        False,
        "C115 more in flight than there are",
        [split_state(i, 1, 0, i) for i in range(9)],
        "9 requests are in flight",
    ),
    (True, "H38 another count", [(10, struct.pack("=H", 9))], "for 9 descriptors"),
    (True, "C115 position outside", [(16, struct.pack("=HHBB", 7, 700, 1, 1))], "position is 700"),
    (True, "C115 wrap counter", [(16, struct.pack("=HHBB", 4, 4, 9, 9))], "wrap counter 9"),
    (True, "C115 loop in the free list", [packed_state(15, next=9)], "leads back into itself"),
    (True, "C115 entries that are nowhere", [(12, struct.pack("=HH", 15, 15))], "neither free nor in flight"),
    (
        True,
        "C115 a chain that crosses the free list",
        [(12, struct.pack("=HH", 4, 4)), packed_state(0, inflight=1, next=1, last=5, num=6)],
        "is not one",
    ),
    (
        True,
        "H26 a chain without descriptors",
        [(12, struct.pack("=HH", 4, 4)), packed_state(0, inflight=1, next=1, last=0, num=0)],
        "chain of 0 descriptors",
    ),
    (
        True,
        "C115 a loop in a chain",
        [(12, struct.pack("=HH", 4, 4)), packed_state(0, inflight=1, next=0, last=3, num=4)],
        "is not one",
    ),
]


@pytest.mark.parametrize(
    ("kind", "writes", "words"),
    [
        pytest.param(kind, writes, words, id=f"{'packed' if kind else 'split'} {name}")
        for kind, name, writes, words in HOSTILE
    ],
)
def test_C115_what_makes_no_sense_is_told_and_begun_anew(
    kind: bool, writes: list[tuple[int, bytes]], words: str
) -> None:
    ring = TrackedRing(kind, SIZE)
    ring.add(2)
    ring.complete(ring.take())
    ring.poll()
    ring.base = ring.vring.base()
    ring.kill()
    for place, data in writes:
        os.pwrite(ring.area_fd, data, place)
    ring.serve()
    problem = str(ring.vring.inflight_problem)
    assert words in problem
    assert problem.endswith("it begins anew")
    assert ring.vring.tracked
    ring.prove(random.Random(9))
    assert in_flight(ring) == []
    ring.close()


@pytest.mark.parametrize("value", [2, 0x80, 0xFF])
def test_H26_a_mark_that_is_neither_0_nor_1_marks_nothing(make: Make, packed: bool, value: int) -> None:
    ring = make()
    ring.add(2)
    ring.complete(ring.take())
    ring.base = ring.vring.base()
    ring.poll()
    ring.kill()
    for index in range(SIZE):
        os.pwrite(ring.area_fd, bytes([value]), 32 + 32 * index if packed else 16 + 16 * index)
    ring.serve()
    assert ring.vring.inflight_problem is None
    assert in_flight(ring) == []
    ring.prove(random.Random(10))


@pytest.mark.parametrize("seed", range(300))
def test_C115_no_area_does_more_than_break_its_ring(packed: bool, seed: int) -> None:
    """Random bytes, and an area in use with a few bytes changed."""
    chance = random.Random(seed)
    ring = TrackedRing(packed, SIZE)
    ring.add(3)
    ring.kept = ring.take()
    ring.complete([ring.kept.pop(1)])
    ring.kill()
    if seed % 3 == 0:
        head = os.pread(ring.area_fd, 12, 0)
        os.pwrite(ring.area_fd, head + chance.randbytes(ring.area_size - 12), 0)
    for _ in range(chance.randrange(1, 6)):
        place = chance.randrange(8, ring.area_size)
        data = chance.choice([b"\0", b"\1", b"\xff", b"\x0f", b"\x10", chance.randbytes(1)])
        os.pwrite(ring.area_fd, data * chance.choice([1, 2]), min(place, ring.area_size - 2))
    ring.serve()
    try:
        for _ in range(3):
            for request in ring.take():
                request.complete(0)
            ring.queue.poll_many()
            ring.queue.add([], [(ring.memory.allocate(8), 8)])
            ring.queue.publish()
    except (RingError, DeviceBroken):
        pass  # the driver may find its device broken: it wrote the area itself
    ring.close()


def test_C115_H38_what_is_written_into_it_while_the_ring_runs_reaches_nobody(make: Make) -> None:
    """The area is shared: all of it changes at any time."""
    ring = make(memory=1 << 20)
    stop = threading.Event()

    def scribble() -> None:
        chance = random.Random(11)
        while not stop.is_set():
            os.pwrite(ring.area_fd, chance.randbytes(ring.area_size), 0)

    thread = threading.Thread(target=scribble)
    thread.start()
    try:
        chance = random.Random(12)
        for _ in range(300):
            ring.add(chance.randrange(1, 5), indirect=chance.random() < 0.5)
            taken = ring.take()
            chance.shuffle(taken)
            ring.complete(taken)
            assert len(ring.poll()) == len(taken)
    finally:
        stop.set()
        thread.join()
    assert sorted(ring.answered) == list(range(ring.number))


def test_H85_an_area_that_is_truncated_is_lost_and_the_ring_runs(make: Make) -> None:
    ring = make()
    fd = os.memfd_create("area")
    os.ftruncate(fd, ring.area_size)
    ring.kill()
    ring.serve(start=False)
    area = InflightArea(fd, size=ring.area_size, num_queues=1, queue_size=SIZE)
    ring.vring.set_inflight(area)
    ring.start()
    ring.add(2)
    kept = ring.take()
    os.ftruncate(fd, 0)
    ring.complete(kept)
    assert area.lost
    ring.prove(random.Random(13))
    area.close()
    os.close(fd)


def test_H85_truncated_before_the_start(make: Make) -> None:
    ring = make()
    fd = os.memfd_create("area")
    os.ftruncate(fd, ring.area_size)
    ring.kill()
    ring.serve(start=False)
    area = InflightArea(fd, size=ring.area_size, num_queues=1, queue_size=SIZE)
    ring.vring.set_inflight(area)
    os.ftruncate(fd, 0)
    ring.start()
    assert area.lost
    ring.prove(random.Random(14))
    area.close()
    os.close(fd)
