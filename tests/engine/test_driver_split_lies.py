"""What a device that lies about a split ring can do to its driver: V013, V014, V053, V054, H109."""

import pytest

from vhost_user.engine.driver.memory import DriverMemory
from vhost_user.engine.driver.split import SplitDriverQueue
from vhost_user.engine.errors import DeviceBroken

BUFFER = 0x1000_8000


def lend(ring: SplitDriverQueue) -> int:
    ring.add([(BUFFER, 4)], [(BUFFER + 16, 10)])
    ring.publish()
    return ring.read_avail(ring.avail_index - 1)


@pytest.mark.parametrize("identifier", [8, 0xFFFF, 0xFFFF_FFFF, 0x1_0000])
def test_V053_H109_used_id_out_of_range_breaks_the_ring(memory: DriverMemory, identifier: int) -> None:
    with SplitDriverQueue(memory, 8) as ring:
        lend(ring)
        ring.write_used(0, identifier, 0)
        ring.set_used_index(1)
        with pytest.raises(DeviceBroken, match="outside the ring") as caught:
            ring.poll()
        assert caught.value.rule == "V053"
        assert caught.value.queue == 0
        assert "1 in flight" in caught.value.picture
        with pytest.raises(DeviceBroken):  # and it stays broken
            ring.add([(BUFFER, 1)])
        assert ring.broken_by is caught.value
        ring.reset()
        lend(ring)


def test_V053_H109_a_head_that_was_never_lent_breaks_the_ring(memory: DriverMemory) -> None:
    with SplitDriverQueue(memory, 8) as ring:
        head = lend(ring)
        ring.write_used(0, head + 1, 0)  # the second descriptor of the chain is no head
        ring.set_used_index(1)
        with pytest.raises(DeviceBroken, match="not in flight"):
            ring.poll_many()


def test_V053_H109_a_buffer_returned_twice_breaks_the_ring(memory: DriverMemory) -> None:
    with SplitDriverQueue(memory, 8) as ring:
        head = lend(ring)
        lend(ring)
        ring.write_used(0, head, 1)
        ring.write_used(1, head, 1)
        ring.set_used_index(2)
        assert len(ring.poll_many()) == 1  # the first was good
        with pytest.raises(DeviceBroken, match=r"not in flight .*V053"):
            ring.poll_many()


def test_V053_a_buffer_returned_before_it_was_published_breaks_the_ring(memory: DriverMemory) -> None:
    with SplitDriverQueue(memory, 8) as ring:
        lend(ring)
        ring.add([(BUFFER, 4)])
        ring.write_used(0, ring.read_avail(1), 0)
        ring.set_used_index(1)
        with pytest.raises(DeviceBroken, match="not made available yet"):
            ring.poll()


@pytest.mark.parametrize("length", [11, 0xFFFF_FFFF])
def test_V014_H109_a_used_length_beyond_the_buffer_breaks_the_ring(memory: DriverMemory, length: int) -> None:
    with SplitDriverQueue(memory, 8) as ring:
        ring.write_used(0, lend(ring), length)
        ring.set_used_index(1)
        with pytest.raises(DeviceBroken, match=f"used length {length} is more than the 10"):
            ring.poll()
    with SplitDriverQueue(memory, 8) as ring:
        ring.tolerate_length = True
        ring.write_used(0, lend(ring), length)
        ring.set_used_index(1)
        assert ring.poll() == (1, 10)


@pytest.mark.parametrize("jump", [2, 9, 0x8000, 0xFFFF])
def test_V054_H109_a_used_index_that_jumps_breaks_the_ring(memory: DriverMemory, jump: int) -> None:
    with SplitDriverQueue(memory, 8) as ring:
        lend(ring)
        ring.set_used_index(jump)
        with pytest.raises(DeviceBroken, match=f"moved by {jump} with 1 buffers") as caught:
            ring.poll()
        assert caught.value.rule == "V054"


def test_V013_what_the_device_scribbles_over_our_parts_changes_nothing(memory: DriverMemory) -> None:
    with SplitDriverQueue(memory, 8) as ring:
        first, second = lend(ring), lend(ring)
        for i in range(8):
            ring.write_descriptor(i, 0xDEAD, 0xFFFF, 0xFFFF, 0xFFFF)
            ring.write_avail(i, 0xFFFF)
        ring.write_used(0, first, 10)
        ring.write_used(1, second, 10)
        ring.set_used_index(2)
        assert ring.poll_many() == [(1, 10), (2, 10)]
        assert ring.free_slots == 8
        assert len({lend(ring) for _ in range(4)}) == 4
