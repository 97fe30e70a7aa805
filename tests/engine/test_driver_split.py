"""The driver's side of a split ring against a device played by the test: V001 to V018, V041."""

import os
import threading
from pathlib import Path

import pytest

from vhost_user.engine.driver.memory import DriverMemory
from vhost_user.engine.driver.split import SplitDriverQueue
from vhost_user.engine.errors import DeviceBroken, EngineError, QueueFull

NEXT, WRITE, INDIRECT = 1, 2, 4
BUFFER = 0x1000_8000


class Device:
    """What a correct device does, step by step, seen from the ring's memory only."""

    def __init__(self, ring: SplitDriverQueue) -> None:
        self.ring = ring
        self.seen = self.used = ring.base

    def take(self) -> int | None:
        if self.ring.avail_index == self.seen:
            return None
        head = self.ring.read_avail(self.seen)
        self.seen = (self.seen + 1) & 0xFFFF
        return head

    def chain(self, head: int) -> list[tuple[int, int, bool]]:
        """(address, length, writable) of each descriptor, indirect ones included."""
        found: list[tuple[int, int, bool]] = []
        while True:
            address, length, flags, following = self.ring.read_descriptor(head)
            if flags & INDIRECT:
                assert not flags & (NEXT | WRITE)
                table = self.ring.memory.read(address, length)
                return found + _table(table)
            found.append((address, length, bool(flags & WRITE)))
            if not flags & NEXT:
                return found
            head = following

    def give(self, head: int, length: int) -> None:
        self.ring.write_used(self.used, head, length)
        self.used = (self.used + 1) & 0xFFFF
        self.ring.set_used_index(self.used)

    def serve_all(self) -> int:
        count = 0
        while (head := self.take()) is not None:
            self.give(head, sum(length for _, length, writable in self.chain(head) if writable))
            count += 1
        return count


def _table(table: bytes) -> list[tuple[int, int, bool]]:
    found = []
    position = 0
    while True:
        entry = table[16 * position : 16 * position + 16]
        flags = int.from_bytes(entry[12:14], "little")
        assert not flags & INDIRECT
        found.append(
            (
                int.from_bytes(entry[:8], "little"),
                int.from_bytes(entry[8:12], "little"),
                bool(flags & WRITE),
            )
        )
        if not flags & NEXT:
            assert position == len(table) // 16 - 1
            return found
        position = int.from_bytes(entry[14:], "little")


@pytest.mark.parametrize("size", [1, 2, 256, 32768])
@pytest.mark.parametrize("start", [0, 65530, 65535])
def test_V002_indices_wrap_at_65536_and_slots_at_the_ring_size(
    memory: DriverMemory, size: int, start: int
) -> None:
    with SplitDriverQueue(memory, size, start=start) as ring:
        device = Device(ring)
        assert ring.base == start == ring.used_index
        for _ in range(20):
            token = ring.add([(BUFFER, 8)])
            ring.publish()
            assert device.serve_all() == 1
            assert ring.poll() == (token, 0)
            assert ring.poll() is None
        assert ring.avail_index == (start + 20) & 0xFFFF
        assert ring.used_position == (start + 20) & 0xFFFF


@pytest.mark.parametrize("size", [0, 3, 65536, 32769, 100])
def test_C070_ring_sizes_that_do_not_exist_are_refused(memory: DriverMemory, size: int) -> None:
    with pytest.raises(ValueError, match="C070"):
        SplitDriverQueue(memory, size)
    assert memory.allocated == 0


def test_V005_a_chain_may_fill_the_whole_ring_and_no_more(memory: DriverMemory) -> None:
    with SplitDriverQueue(memory, 8) as ring:
        device = Device(ring)
        segments = [(BUFFER + 16 * i, 16) for i in range(8)]
        ring.add(segments[:3], segments[3:])
        assert ring.free_slots == 0
        ring.publish()
        head = device.take()
        assert head is not None
        assert device.chain(head) == [(a, n, i >= 3) for i, (a, n) in enumerate(segments)]
        with pytest.raises(ValueError, match="does not fit a ring of 8"):
            ring.add([*segments, (BUFFER, 1)])
        with pytest.raises(QueueFull):
            ring.add([(BUFFER, 1)])
        device.give(head, 5 * 16)
        assert ring.poll() is not None
        assert ring.free_slots == 8


def test_V007_V008_indirect_and_mixed_chains_describe_the_same_buffers(memory: DriverMemory) -> None:
    readable = [(BUFFER, 3), (BUFFER + 3, 1)]
    writable = [(BUFFER + 16, 5), (BUFFER + 32, 6)]
    wanted = [(a, n, False) for a, n in readable] + [(a, n, True) for a, n in writable]
    with SplitDriverQueue(memory, 4, indirect=True) as ring:
        device = Device(ring)
        for direct in range(4):
            ring.add(readable, writable, indirect=True, direct=direct)
            assert ring.free_slots == 4 - direct - 1
            ring.publish()
            head = device.take()
            assert head is not None
            assert device.chain(head) == wanted
            device.give(head, 11)
            assert ring.poll() is not None
            assert ring.free_slots == 4
        with pytest.raises(ValueError, match="leave no indirect table"):
            ring.add(readable, writable, indirect=True, direct=4)


def test_V007_indirect_descriptors_need_their_feature(memory: DriverMemory) -> None:
    with SplitDriverQueue(memory, 4) as ring, pytest.raises(ValueError, match="not negotiated"):
        ring.add([(BUFFER, 1)], indirect=True)


def test_V015_nothing_is_visible_before_publish_and_a_batch_appears_at_once(memory: DriverMemory) -> None:
    with SplitDriverQueue(memory, 8) as ring:
        device = Device(ring)
        tokens = [ring.add([(BUFFER, 1)]) for _ in range(5)]
        assert device.take() is None
        assert not ring.needs_kick()
        ring.publish()
        assert device.serve_all() == 5
        assert ring.poll_many(3) == [(token, 0) for token in tokens[:3]]
        assert ring.poll_many() == [(token, 0) for token in tokens[3:]]


def test_V023_buffers_may_come_back_in_any_order(memory: DriverMemory) -> None:
    with SplitDriverQueue(memory, 16) as ring:
        device = Device(ring)
        tokens = [ring.add([(BUFFER, 1)], [(BUFFER + 8, i + 1)]) for i in range(8)]
        ring.publish()
        heads = [device.take() for _ in range(8)]
        for i in (3, 0, 7, 1, 2, 6, 5, 4):
            head = heads[i]
            assert head is not None
            device.give(head, i)
            assert ring.poll() == (tokens[i], i)
        assert ring.free_slots == 16


def test_V018_kicks_follow_the_flag_without_event_idx(memory: DriverMemory) -> None:
    with SplitDriverQueue(memory, 8) as ring:
        ring.add([(BUFFER, 1)])
        ring.publish()
        assert ring.needs_kick()
        assert not ring.needs_kick()  # asked and answered
        ring.set_used_flags(1)
        ring.add([(BUFFER, 1)])
        ring.publish()
        assert not ring.kick()
        assert ring.kicks_suppressed == 1
        assert ring.kick(force=True)
        assert os.eventfd_read(ring.kick_fd) == 1


def test_V018_kicks_follow_avail_event_with_event_idx(memory: DriverMemory) -> None:
    with SplitDriverQueue(memory, 8, event_idx=True, start=65534) as ring:
        device = Device(ring)

        def add(count: int) -> bool:
            for _ in range(count):
                ring.add([(BUFFER, 1)])
            ring.publish()
            wanted = ring.needs_kick()
            device.serve_all()
            ring.poll_many()
            return wanted

        assert add(1)  # the first one: the device waits at the starting index
        assert not add(1)  # it did not ask again
        ring.set_avail_event(0)
        assert add(3)  # passes index 0
        ring.set_used_flags(1)  # ignored with EVENT_IDX
        ring.set_avail_event(ring.avail_index + 1)
        assert not add(1)
        assert add(1)


@pytest.mark.parametrize("event_idx", [False, True])
def test_V016_V017_calls_are_armed_and_suppressed(memory: DriverMemory, event_idx: bool) -> None:
    with SplitDriverQueue(memory, 8, event_idx=event_idx) as ring:
        device = Device(ring)
        ring.disable_notifications()
        if event_idx:
            assert ring.used_event == 0xFFFF
            assert ring.avail_flags == 0
        else:
            assert ring.avail_flags == 1
        assert not ring.enable_notifications()
        assert ring.used_event == 0
        assert ring.avail_flags == 0
        ring.add([(BUFFER, 1)])
        ring.publish()
        device.serve_all()
        assert ring.enable_notifications()  # looked again: there is something already
        ring.poll()
        assert not ring.enable_notifications()
        if event_idx:
            assert ring.used_event == 1


def test_wait_returns_on_a_call_and_after_the_time_out(memory: DriverMemory) -> None:
    with SplitDriverQueue(memory, 8, event_idx=True) as ring:
        device = Device(ring)
        assert not ring.wait(0.01)
        token = ring.add([(BUFFER, 1)])
        ring.publish()

        def serve() -> None:
            device.serve_all()
            os.eventfd_write(ring.call_fd, 1)

        thread = threading.Thread(target=serve)
        thread.start()
        assert ring.wait(10)
        thread.join()
        assert ring.poll() == (token, 0)


def test_V019_spurious_calls_are_no_used_buffers(memory: DriverMemory) -> None:
    with SplitDriverQueue(memory, 8) as ring:
        os.eventfd_write(ring.call_fd, 3)
        assert not ring.wait(0.02)
        assert ring.poll() is None
        assert ring.calls == 3


def test_C068_a_call_eventfd_made_blocking_by_the_device_blocks_nobody(memory: DriverMemory) -> None:
    with SplitDriverQueue(memory, 8) as ring:
        os.set_blocking(ring.call_fd, True)
        assert ring.call_count() == 0
        os.eventfd_write(ring.call_fd, 2)
        assert ring.call_count() == 2
        assert not ring.wait(0.01)


def test_a_device_that_owes_a_call_is_noticed(memory: DriverMemory) -> None:
    with SplitDriverQueue(memory, 8) as ring:
        device = Device(ring)
        ring.add([(BUFFER, 1)])
        ring.publish()
        timer = threading.Timer(0.02, device.serve_all)  # serves, and never signals
        timer.start()
        assert ring.wait(0.2)
        timer.join()
        assert ring.missed_calls == 1


def test_V041_one_used_entry_stands_for_a_batch_in_order(memory: DriverMemory) -> None:
    with SplitDriverQueue(memory, 8, in_order=True, start=65533) as ring:
        for _ in range(4):
            tokens = [ring.add([(BUFFER, 1)], [(BUFFER + 8, 4)]) for _ in range(3)]
            heads = [ring.read_avail(ring.used_position + i) for i in range(3)]
            assert heads == [(heads[0] + 2 * i) % 8 for i in range(3)]  # descriptors in ring order
            ring.publish()
            ring.write_used(ring.used_position, heads[2], 1)
            ring.set_used_index(ring.used_position + 3)
            assert ring.poll_many() == [(tokens[0], 4), (tokens[1], 4), (tokens[2], 1)]
            assert ring.free_slots == 8


def test_V041_a_batch_longer_than_the_index_moved_breaks_the_ring(memory: DriverMemory) -> None:
    with SplitDriverQueue(memory, 8, in_order=True) as ring:
        for _ in range(3):
            ring.add([(BUFFER, 1)])
        ring.publish()
        ring.write_used(0, 2, 0)
        ring.set_used_index(1)
        with pytest.raises(DeviceBroken, match="V041"):
            ring.poll()


def test_the_picture_names_what_is_in_flight(memory: DriverMemory) -> None:
    with SplitDriverQueue(memory, 8, event_idx=True, index=3) as ring:
        ring.add([(BUFFER, 4)], [(BUFFER + 16, 10)])
        text = ring.describe()
        assert "queue 3: split ring of 8, event_idx" in text
        assert f"head 0, token 1: 0: {BUFFER:#x}+4 next → 1: {BUFFER + 16:#x}+10 writable" in text
        assert "1 not published" in text


def test_closing_gives_memory_and_descriptors_back(memory: DriverMemory) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    ring = SplitDriverQueue(memory, 8, indirect=True)
    ring.add([(BUFFER, 4), (BUFFER, 4)], indirect=True)
    ring.close()
    ring.close()
    assert memory.allocated == 0
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    for use in (ring.poll, ring.publish, ring.kick, ring.reset, lambda: ring.wait(0)):
        with pytest.raises(EngineError, match="closed"):
            use()
    with pytest.raises(ValueError, match="closed"):
        ring.write_avail(0, 0)
