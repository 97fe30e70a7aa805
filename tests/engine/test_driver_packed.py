"""The driver's side of a packed ring against a device played by the test: V024 to V038, V041, V055."""

import os
from pathlib import Path

import pytest

from vhost_user.engine.driver.memory import DriverMemory
from vhost_user.engine.driver.packed import PackedDriverQueue
from vhost_user.engine.errors import DeviceBroken, QueueFull

NEXT, WRITE, INDIRECT, AVAIL, USED = 1, 2, 4, 1 << 7, 1 << 15
ENABLE, DISABLE, AT_DESCRIPTOR, RESERVED = range(4)
BUFFER = 0x1000_8000


class Device:
    """What a correct device does, with its own positions and wrap counters (V024, V025)."""

    def __init__(self, ring: PackedDriverQueue) -> None:
        self.ring = ring
        self.at, self.wrap = ring.base & 0x7FFF, bool(ring.base & 0x8000)
        self.used, self.used_wrap = (ring.base >> 16) & 0x7FFF, bool(ring.base >> 31)

    def take(self) -> tuple[int, int, list[tuple[int, int, bool]]] | None:
        """(id, number of descriptors, segments) of the next chain."""
        flags = self.ring.read_descriptor(self.at)[3]
        if bool(flags & AVAIL) != self.wrap or bool(flags & USED) == self.wrap:
            return None
        segments: list[tuple[int, int, bool]] = []
        count = 0
        while True:
            address, length, identifier, flags = self.ring.read_descriptor(self.at)
            assert bool(flags & AVAIL) == self.wrap
            assert bool(flags & USED) != self.wrap
            count += 1
            self.at += 1
            if self.at == self.ring.size:
                self.at, self.wrap = 0, not self.wrap
            if flags & INDIRECT:
                assert not flags & NEXT
                assert count == 1
                table = self.ring.memory.read(address, length)
                for i in range(0, len(table), 16):
                    entry = table[i : i + 16]
                    assert not int.from_bytes(entry[14:], "little") & ~WRITE
                    segments.append(
                        (
                            int.from_bytes(entry[:8], "little"),
                            int.from_bytes(entry[8:12], "little"),
                            bool(entry[14] & WRITE),
                        )
                    )
            else:
                segments.append((address, length, bool(flags & WRITE)))
            if not flags & NEXT:
                return identifier, count, segments

    def give(self, identifier: int, count: int, length: int) -> None:
        flags = (AVAIL | USED if self.used_wrap else 0) | (WRITE if length else 0)
        self.ring.write_descriptor(self.used, 0, length, identifier, flags)
        self.used += count
        if self.used >= self.ring.size:
            self.used, self.used_wrap = self.used - self.ring.size, not self.used_wrap

    def serve_all(self) -> int:
        served = 0
        while (taken := self.take()) is not None:
            identifier, count, segments = taken
            self.give(identifier, count, sum(length for _, length, writable in segments if writable))
            served += 1
        return served


def base(index: int, wrap: int) -> int:
    half = index | wrap << 15
    return half | half << 16


@pytest.mark.parametrize("size", [1, 2, 5, 7, 256, 1000, 32768])
def test_V024_V025_positions_wrap_and_toggle_at_any_ring_size(memory: DriverMemory, size: int) -> None:
    with PackedDriverQueue(memory, size) as ring:
        assert ring.base == 0x8000_8000
        device = Device(ring)
        assert device.take() is None
        assert ring.poll() is None
        for number in range(3 * size if size < 100 else 300):
            token = ring.add([], [(BUFFER, 9)])
            assert device.take() is None
            ring.publish()
            assert device.serve_all() == 1
            assert ring.poll() == (token, 9)
            assert ring.poll() is None
            assert ring.avail_position == ((number + 1) % size, 1 ^ ((number + 1) // size & 1))
            assert ring.used_position == ring.avail_position


@pytest.mark.parametrize("index", range(5))
@pytest.mark.parametrize("wrap", [0, 1])
@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_V029_V038_chains_wrap_at_every_offset_and_from_every_base(
    memory: DriverMemory, index: int, wrap: int, length: int
) -> None:
    start = base(index, wrap)
    with PackedDriverQueue(memory, 5, start=start) as ring:
        if start:
            assert ring.base == start
        device = Device(ring)
        assert device.take() is None
        assert ring.poll() is None
        segments = [(BUFFER + 16 * i, i + 1) for i in range(length)]
        for _ in range(12):
            token = ring.add(segments[:1], segments[1:])
            ring.publish()
            taken = device.take()
            assert taken is not None
            identifier, count, seen = taken
            assert count == length
            assert seen == [(a, n, i > 0) for i, (a, n) in enumerate(segments)]
            device.give(identifier, count, length - 1)
            assert ring.poll() == (token, length - 1)
            assert ring.free_slots == 5


def test_V026_the_first_head_of_a_batch_is_published_last(memory: DriverMemory) -> None:
    with PackedDriverQueue(memory, 8) as ring:
        device = Device(ring)
        tokens = [ring.add([(BUFFER, 1), (BUFFER, 2)]) for _ in range(3)]
        assert device.take() is None
        assert ring.read_descriptor(2)[3] & AVAIL  # heads behind the first one may be out already
        ring.publish()
        assert device.serve_all() == 3
        assert ring.poll_many() == [(token, 0) for token in tokens]


def test_V027_buffers_come_back_out_of_order_at_the_used_position(memory: DriverMemory) -> None:
    with PackedDriverQueue(memory, 8) as ring:
        device = Device(ring)
        for _ in range(5):
            tokens = [ring.add([(BUFFER, 1)] * n, [(BUFFER, 4)]) for n in (1, 2, 1)]
            ring.publish()
            taken = [device.take() for _ in range(3)]
            for i in (2, 0, 1):
                chain = taken[i]
                assert chain is not None
                device.give(chain[0], chain[1], i)
                assert ring.poll() == (tokens[i], i)
            assert ring.free_slots == 8


def test_V030_indirect_takes_one_slot_and_no_mixed_chains(memory: DriverMemory) -> None:
    with PackedDriverQueue(memory, 3, indirect=True) as ring:
        device = Device(ring)
        for _ in range(7):
            token = ring.add([(BUFFER, 3)], [(BUFFER + 8, 4), (BUFFER + 16, 5)], indirect=True)
            assert ring.free_slots == 2
            ring.publish()
            taken = device.take()
            assert taken is not None
            assert taken[1:] == (1, [(BUFFER, 3, False), (BUFFER + 8, 4, True), (BUFFER + 16, 5, True)])
            device.give(taken[0], 1, 9)
            assert ring.poll() == (token, 9)
        with pytest.raises(ValueError, match="V030"):
            ring.add([(BUFFER, 3)], [(BUFFER + 8, 4)], indirect=True, direct=1)


def test_V031_a_chain_may_fill_the_ring_and_no_more(memory: DriverMemory) -> None:
    with PackedDriverQueue(memory, 5) as ring:
        ring.add([(BUFFER, 1)] * 5)
        with pytest.raises(QueueFull):
            ring.add([(BUFFER, 1)])
        with pytest.raises(ValueError, match="does not fit a ring of 5"):
            ring.add([(BUFFER, 1)] * 6)


def test_V027_a_used_descriptor_without_the_write_flag_has_no_length(memory: DriverMemory) -> None:
    with PackedDriverQueue(memory, 4) as ring:
        token = ring.add([], [(BUFFER, 8)])
        ring.publish()
        ring.write_descriptor(0, 0, 0xFFFF, 0, AVAIL | USED)
        assert ring.poll() == (token, 0)


def test_V033_kicks_follow_the_device_event_structure(memory: DriverMemory) -> None:
    with PackedDriverQueue(memory, 4, event_idx=True) as ring:
        device = Device(ring)

        def add(count: int = 1) -> bool:
            for _ in range(count):
                ring.add([(BUFFER, 1)])
            ring.publish()
            wanted = ring.needs_kick()
            assert not ring.needs_kick()
            device.serve_all()
            ring.poll_many()
            return wanted

        assert add()
        ring.set_device_event(0, DISABLE)
        assert not add()
        ring.set_device_event(0, RESERVED)
        assert add()  # 3 counts as enabled
        index, wrap = ring.avail_position
        assert (index, wrap) == (3, 1)
        ring.set_device_event(0 | 0 << 15, AT_DESCRIPTOR)  # the first one of the next round
        assert not add()
        assert add()
        assert not add()
        index, wrap = ring.avail_position
        ring.set_device_event((index + 1) % 4 | (wrap ^ (index == 3)) << 15, AT_DESCRIPTOR)
        assert add(2)


def test_V033_descriptor_events_need_their_feature(memory: DriverMemory) -> None:
    with PackedDriverQueue(memory, 4) as ring:
        ring.set_device_event(3, AT_DESCRIPTOR)
        ring.add([(BUFFER, 1)])
        ring.publish()
        assert ring.kick()
        assert os.eventfd_read(ring.kick_fd) == 1


@pytest.mark.parametrize("event_idx", [False, True])
def test_V034_V035_calls_are_armed_and_suppressed(memory: DriverMemory, event_idx: bool) -> None:
    with PackedDriverQueue(memory, 2, event_idx=event_idx) as ring:
        device = Device(ring)
        for _ in range(5):
            ring.disable_notifications()
            assert ring.driver_event_fields[1] == DISABLE
            assert not ring.enable_notifications()
            index, wrap = ring.used_position
            if event_idx:
                assert ring.driver_event_fields == (index | wrap << 15, AT_DESCRIPTOR)
            else:
                assert ring.driver_event_fields[1] == ENABLE
            ring.add([(BUFFER, 1)])
            ring.publish()
            device.serve_all()
            assert ring.enable_notifications()
            assert ring.wait(0)
            ring.poll()


def test_V041_one_used_descriptor_stands_for_a_batch_in_order(memory: DriverMemory) -> None:
    with PackedDriverQueue(memory, 5, in_order=True) as ring:
        device = Device(ring)
        for _ in range(7):
            tokens = [ring.add([], [(BUFFER, 4)]) for _ in range(4)]
            ring.publish()
            chains = [device.take() for _ in range(4)]
            last = chains[-1]
            assert last is not None
            device.give(last[0], 4, 2)
            assert ring.poll_many() == [(tokens[0], 4), (tokens[1], 4), (tokens[2], 4), (tokens[3], 2)]
            assert ring.free_slots == 5


# what a device that lies about the ring can do


def lend(ring: PackedDriverQueue) -> None:
    ring.add([(BUFFER, 4)], [(BUFFER + 16, 10)])
    ring.publish()


@pytest.mark.parametrize(
    ("identifier", "words"), [(8, "outside the ring"), (0xFFFF, "outside the ring"), (1, "not in flight")]
)
def test_V055_H109_an_unknown_id_breaks_the_ring(memory: DriverMemory, identifier: int, words: str) -> None:
    with PackedDriverQueue(memory, 8) as ring:
        lend(ring)
        ring.write_descriptor(0, 0, 1, identifier, AVAIL | USED | WRITE)
        with pytest.raises(DeviceBroken, match=words) as caught:
            ring.poll()
        assert caught.value.rule == "V055"
        with pytest.raises(DeviceBroken):
            ring.publish()
        ring.reset()
        assert ring.poll() is None
        lend(ring)


def test_V055_H109_a_buffer_returned_twice_breaks_the_ring(memory: DriverMemory) -> None:
    with PackedDriverQueue(memory, 8) as ring:
        lend(ring)
        lend(ring)
        ring.write_descriptor(0, 0, 1, 0, AVAIL | USED | WRITE)
        ring.write_descriptor(2, 0, 1, 0, AVAIL | USED | WRITE)
        assert ring.poll() == (1, 1)
        with pytest.raises(DeviceBroken, match="not in flight"):
            ring.poll()


def test_V014_H109_a_used_length_beyond_the_buffer_breaks_the_ring(memory: DriverMemory) -> None:
    with PackedDriverQueue(memory, 8) as ring:
        lend(ring)
        ring.write_descriptor(0, 0, 11, 0, AVAIL | USED | WRITE)
        with pytest.raises(DeviceBroken, match="V014"):
            ring.poll()


def test_V055_the_number_of_descriptors_skipped_is_our_own(memory: DriverMemory) -> None:
    with PackedDriverQueue(memory, 8) as ring:
        lend(ring)
        lend(ring)
        for i in range(8):
            ring.write_descriptor(i, 0xDEAD, 0xFFFF, 0xFFFF, NEXT)  # scribbled over, nothing used
        assert ring.poll() is None
        ring.write_descriptor(0, 0, 10, 1, AVAIL | USED | WRITE | NEXT)
        assert ring.poll() == (2, 10)
        assert ring.used_position == (2, 1)


def test_the_picture_shows_positions_and_flags(memory: DriverMemory) -> None:
    with PackedDriverQueue(memory, 8, event_idx=True, index=2) as ring:
        lend(ring)
        text = ring.describe()
        assert "queue 2: packed ring of 8, event_idx" in text
        assert f"0: {BUFFER:#x}+4 id 0 next avail" in text
        assert "next to make available 2 (wrap 1)" in text


def test_closing_gives_memory_and_descriptors_back(memory: DriverMemory) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with PackedDriverQueue(memory, 7, indirect=True) as ring:
        ring.add([(BUFFER, 1)], indirect=True)
    assert memory.allocated == 0
    assert len(list(Path("/proc/self/fd").iterdir())) == before
