"""Both halves of the engine together: lost kicks (V049), and the load loop, which must be able to lose."""

import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest

from vhost_user.engine.device.request import Request
from vhost_user.engine.device.vring import Vring
from vhost_user.engine.device.worker import Worker
from vhost_user.engine.driver.histogram import bucket_limit
from vhost_user.engine.driver.load import BlockLoad
from vhost_user.engine.driver.memory import DriverMemory
from vhost_user.engine.driver.packed import PackedDriverQueue
from vhost_user.engine.driver.queue import DriverQueue
from vhost_user.engine.driver.split import SplitDriverQueue
from vhost_user.engine.errors import DeviceBroken, EngineError
from vhost_user.engine.memory.guest_memory import GuestMemory
from vhost_user.engine.memory.region import MemoryRegion

Handler = Callable[[Request], object]
KINDS = [SplitDriverQueue, PackedDriverQueue]
BLOCK = 4096
SPAN = 1 << 20


@contextmanager
def device(ring: DriverQueue, handler: Handler) -> Iterator[Vring]:
    """Our own device side on the same memory, in a thread of its own."""
    region = ring.memory.regions[0]
    mapped = MemoryRegion(
        region.fd, guest_address=region.guest_address, size=region.size, user_address=region.user_address
    )
    snapshot = GuestMemory([mapped])
    vring = Vring(0, 1024)
    vring.set_features(packed=ring.packed, event_idx=ring.event_idx, in_order=ring.in_order)
    vring.set_size(ring.size)
    vring.set_memory(snapshot)
    vring.set_base(ring.base)
    vring.set_addresses(
        descriptor=ring.descriptor_address, driver=ring.driver_address, device=ring.device_address
    )
    vring.set_call(os.dup(ring.call_fd))
    vring.set_kick(os.dup(ring.kick_fd))
    vring.start()
    vring.set_enabled(True)
    worker = Worker([vring], first_listener_id=1)
    worker.update(vring)
    thread = threading.Thread(
        target=worker.run, args=(lambda _event, _events: vring.process(handler) and None,)
    )
    thread.start()
    try:
        yield vring
    finally:
        worker.stop()
        thread.join()
        worker.remove(vring)
        vring.stop()
        vring.reset()
        worker.close()
        snapshot.close()


class Disk:
    """A block device in memory with faults on order."""

    def __init__(self) -> None:
        self.data = bytearray(SPAN)
        self.status = 0
        self.served = 0
        self.corrupt = False
        self.short = False

    def handle(self, request: Request) -> None:
        self.served += 1
        kind, _, sector = request.unpack("<IIQ")
        offset = sector * 512
        if kind == 0 and not self.status:
            length = request.writable - 1
            data = bytearray(self.data[offset : offset + length])
            if self.corrupt:
                data[-1] ^= 1
            request.write(data)
        elif kind == 1 and not self.status:
            data = bytearray(request.read())
            self.data[offset : offset + len(data)] = data
        request.write_last(struct.pack("<B", self.status))
        request.complete(0) if self.short else request.complete()


@pytest.fixture
def memory() -> Iterator[DriverMemory]:
    with DriverMemory(8 << 20) as memory:
        yield memory


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("event_idx", [False, True])
def test_V018_V049_no_kick_and_no_call_is_lost(
    memory: DriverMemory, kind: type[SplitDriverQueue], event_idx: bool
) -> None:
    """Both sides go to sleep after each request, so that every lost notification would hang the loop."""
    with kind(memory, 16, event_idx=event_idx) as ring, device(ring, lambda request: request.write(b"x")):
        for _ in range(4000):
            token = ring.add([], [(0x1010_0000, 1)])
            ring.publish()
            ring.kick()
            assert ring.wait(10), ring.describe()
            assert ring.poll() == (token, 1)
        assert ring.missed_calls == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("polling", [False, True])
@pytest.mark.parametrize("depth", [1, 32])
def test_the_load_verifies_what_it_wrote(
    memory: DriverMemory, kind: type[SplitDriverQueue], polling: bool, depth: int
) -> None:
    disk = Disk()
    with kind(memory, 128, event_idx=True, indirect=True) as ring, device(ring, disk.handle):
        load = BlockLoad(
            ring,
            depth=depth,
            block_size=BLOCK,
            span=SPAN,
            read_percent=50,
            requests=2000,
            polling=polling,
            verify=True,
        )
        load.run()
        assert (load.completed, load.submitted, disk.served) == (2000, 2000, 2000)
        assert (load.errors, load.mismatches, load.length_errors, load.stalled) == (0, 0, 0, False)
        assert 500 < load.reads < 1500
        assert load.reads + load.writes == 2000
        assert load.verified > 300
        assert sum(load.buckets().values()) == 2000
        assert ring.outstanding == 0


def test_the_load_ends_after_its_time_and_when_told(memory: DriverMemory) -> None:
    disk = Disk()
    with SplitDriverQueue(memory, 64) as ring, device(ring, disk.handle):
        load = BlockLoad(ring, depth=4, span=SPAN, seconds=0.05, random=False)
        load.run()
        assert 0.05e9 <= load.elapsed < 5e9
        assert load.completed == load.submitted > 0
        endless = BlockLoad(ring, depth=4, span=SPAN, seconds=60, polling=False)
        thread = threading.Thread(target=endless.run)
        thread.start()
        while endless.completed < 10:
            pass
        with pytest.raises(EngineError, match="load loop"):
            ring.poll()
        endless.stop()
        thread.join(20)
        assert not thread.is_alive()
        assert ring.poll() is None
        with pytest.raises(RuntimeError, match="once"):
            endless.run()


def test_the_load_counts_errors(memory: DriverMemory) -> None:
    disk = Disk()
    disk.status = 1
    with SplitDriverQueue(memory, 64) as ring, device(ring, disk.handle):
        load = BlockLoad(ring, depth=4, span=SPAN, requests=50)
        load.run()
        assert (load.errors, load.first_error_status) == (50, 1)


def test_the_load_counts_mismatches(memory: DriverMemory) -> None:
    disk = Disk()
    disk.corrupt = True
    with SplitDriverQueue(memory, 64) as ring, device(ring, disk.handle):
        load = BlockLoad(ring, depth=4, span=8 * BLOCK, requests=300, read_percent=50, verify=True)
        load.run()
        assert load.mismatches == load.verified > 50


def test_V014_the_load_counts_wrong_lengths(memory: DriverMemory) -> None:
    disk = Disk()
    disk.short = True
    with SplitDriverQueue(memory, 64) as ring, device(ring, disk.handle):
        load = BlockLoad(ring, depth=4, span=SPAN, requests=20)
        load.run()
        assert load.length_errors == 20


def test_the_load_notices_a_device_that_stops_answering(memory: DriverMemory) -> None:
    with SplitDriverQueue(memory, 64) as ring:
        load = BlockLoad(ring, depth=4, span=SPAN, requests=20, stall_seconds=0.05, polling=False)
        load.run()
        assert load.stalled
        assert load.completed == 0
        assert ring.outstanding == 4


def test_H109_the_load_raises_when_the_ring_is_broken(memory: DriverMemory) -> None:
    with SplitDriverQueue(memory, 64) as ring:
        ring.set_used_index(7)
        load = BlockLoad(ring, depth=4, span=SPAN, requests=20)
        with pytest.raises(DeviceBroken, match="V054"):
            load.run()


@pytest.mark.parametrize(
    "wrong",
    [
        {"depth": 0},
        {"depth": 30},
        {"block_size": 100},
        {"read_percent": 101},
        {"span": 100},
        {"requests": None},
        {"offset": 7},
        {"indirect": True},
    ],
)
def test_loads_that_make_no_sense_are_refused(memory: DriverMemory, wrong: dict[str, Any]) -> None:
    with SplitDriverQueue(memory, 64) as ring, pytest.raises(ValueError, match=r"."):
        BlockLoad(ring, **{"depth": 4, "span": SPAN, "requests": 1, **wrong})


def test_histogram_buckets_are_3_percent_wide_and_in_order() -> None:
    limits = [bucket_limit(bucket) for bucket in range(60 * 32)]
    assert limits[:33] == list(range(33))
    assert limits == sorted(set(limits))
    assert all(after - before <= before / 32 + 1 for before, after in pairwise(limits))
