"""In-flight areas that are too small, hostile or truncated: C106, C107, C115, H20, H26, H38, H85."""

from __future__ import annotations

import os
import random
import struct
import threading

import pytest

from tests.support.tracked_ring import SIZE, MakeTracked, TrackedRing, in_flight
from vhost_user.engine.device.inflight import InflightArea, make_area_file
from vhost_user.engine.errors import DeviceBroken, MemoryTableError, RingError
from vhost_user.spec import inflight as layout


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
    ring.vring.recovery.set_inflight(area)
    area.close()
    ring.start()


def test_C107_an_area_for_smaller_rings_is_not_used_and_the_ring_runs(
    make_tracked: MakeTracked, packed: bool
) -> None:
    ring = make_tracked()
    fd, size = make_area_file(1, SIZE // 2, packed=packed)
    start_with(ring, fd, size, queue_size=SIZE // 2)
    os.close(fd)
    assert not ring.vring.recovery.tracked
    assert f"it is for {SIZE // 2} descriptors, and the ring has {SIZE}" in str(ring.vring.recovery.problem)
    ring.prove(random.Random(5))


def test_C107_an_area_in_the_split_layout_has_no_room_for_a_packed_ring() -> None:
    ring = TrackedRing(True, SIZE)
    fd, size = make_area_file(1, SIZE, packed=False)
    start_with(ring, fd, size)
    os.close(fd)
    assert ring.vring.recovery.problem == "it has no room for this queue"
    ring.prove(random.Random(6))
    ring.close()


def test_C106_the_area_may_begin_anywhere_in_its_file(make_tracked: MakeTracked, packed: bool) -> None:
    ring = make_tracked()
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


def test_a_version_from_the_future_is_left_alone(make_tracked: MakeTracked) -> None:
    ring = make_tracked()
    ring.kill()
    os.pwrite(ring.area_fd, struct.pack("=H", 2), 8)
    before = os.pread(ring.area_fd, ring.area_size, 0)
    ring.serve()
    assert ring.vring.recovery.problem == "its version is 2; this one knows 1"
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
    problem = str(ring.vring.recovery.problem)
    assert words in problem
    assert problem.endswith("it begins anew")
    assert ring.vring.recovery.tracked
    ring.prove(random.Random(9))
    assert in_flight(ring) == []
    ring.close()


@pytest.mark.parametrize("value", [2, 0x80, 0xFF])
def test_H26_a_mark_that_is_neither_0_nor_1_marks_nothing(
    make_tracked: MakeTracked, packed: bool, value: int
) -> None:
    ring = make_tracked()
    ring.add(2)
    ring.complete(ring.take())
    ring.base = ring.vring.base()
    ring.poll()
    ring.kill()
    for index in range(SIZE):
        os.pwrite(ring.area_fd, bytes([value]), 32 + 32 * index if packed else 16 + 16 * index)
    ring.serve()
    assert ring.vring.recovery.problem is None
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


def test_C115_H38_what_is_written_into_it_while_the_ring_runs_reaches_nobody(
    make_tracked: MakeTracked,
) -> None:
    """The area is shared: all of it changes at any time."""
    ring = make_tracked(memory=1 << 20)
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


def in_an_area_of_its_own(make_tracked: MakeTracked) -> tuple[TrackedRing, int, InflightArea]:
    """A ring that is not started yet, with the file of its area."""
    ring = make_tracked()
    fd = os.memfd_create("area")
    os.ftruncate(fd, ring.area_size)
    ring.kill()
    ring.serve(start=False)
    area = InflightArea(fd, size=ring.area_size, num_queues=1, queue_size=SIZE)
    ring.vring.recovery.set_inflight(area)
    return ring, fd, area


def test_H85_an_area_that_is_truncated_is_lost_and_the_ring_runs(make_tracked: MakeTracked) -> None:
    ring, fd, area = in_an_area_of_its_own(make_tracked)
    ring.start()
    ring.add(2)
    kept = ring.take()
    os.ftruncate(fd, 0)
    ring.complete(kept)
    assert area.lost
    ring.prove(random.Random(13))
    area.close()
    os.close(fd)


def test_H85_truncated_before_the_start(make_tracked: MakeTracked) -> None:
    ring, fd, area = in_an_area_of_its_own(make_tracked)
    os.ftruncate(fd, 0)
    ring.start()
    assert area.lost
    ring.prove(random.Random(14))
    area.close()
    os.close(fd)
