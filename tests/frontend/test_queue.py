"""Queues as objects: threads, batches, asyncio, buffers left with the device (V012, V023, V053, V056)."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from collections.abc import Callable

import pytest

from vhost_user import Device, Request
from vhost_user.engine.driver.split import SplitDriverQueue
from vhost_user.frontend import DeviceBroken, PeerTimeout, Queue, QueueFull, VirtioDriver

Serve = Callable[[Device], socket.socket]


class Double(Device, type="rng"):
    """Writes what it read, twice."""

    def handle(self, request: Request) -> None:
        data = request.read()
        request.write((data + data)[: request.writable])


class Reorder(Device, type="rng"):
    """Answers in groups of eight, shuffled."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[Request] = []

    def handle(self, request: Request) -> None:
        request.hold()
        self.held.append(request)
        if len(self.held) == 8:
            random.Random(3).shuffle(self.held)
            for each in self.held:
                each.write(each.read())
                each.complete()
            self.held.clear()


@pytest.mark.parametrize("packed", [False, True])
def test_many_requests_make_few_kicks(serve: Serve, packed: bool) -> None:
    device = Double()
    device.packed = True
    with VirtioDriver(serve(device), packed=packed, queue_size=64) as driver:
        queue = driver.queue(0)
        before = queue.ring.kicks
        wanted = [bytes([i & 255]) * 2 for i in range(300)]
        assert queue.request_many((data[:1], 2) for data in wanted) == wanted
        assert queue.ring.kicks - before < 100
        assert queue.memory.allocated < 100_000  # every buffer came back


def test_V009_framing_is_free(serve: Serve) -> None:
    with VirtioDriver(serve(Double())) as driver:
        queue = driver.queue(0)
        wanted = b"hello!" * 2
        parts = [bytes([byte]) for byte in b"hello!"]
        assert queue.request(parts, [1] * 12) == wanted
        assert queue.request(parts, [5, 7], indirect=True) == wanted
        with queue.submit(parts, [5, 7], indirect=True, direct=3) as pending:
            assert pending.wait() == wanted
        assert queue.request(memoryview(b"hello!"), 12) == wanted
        assert queue.request(bytearray(b"hello!"), [12]) == wanted


def test_V023_answers_find_their_requests_in_any_order(serve: Serve) -> None:
    with VirtioDriver(serve(Reorder())) as driver:
        wanted = [bytes([i]) * 3 for i in range(16)]
        assert driver.queue(0).request_many((data, 3) for data in wanted) == wanted


def test_threads_share_a_queue(serve: Serve) -> None:
    errors: list[BaseException] = []
    with VirtioDriver(serve(Double()), queue_size=16) as driver:
        queue = driver.queue(0)

        def work(number: int) -> None:
            try:
                for i in range(100):
                    data = bytes([number, i])
                    assert queue.request(data, 4) == data + data
            except BaseException as error:  # noqa: BLE001  # shown by the assertion below
                errors.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert errors == []


def test_asyncio_awaits_many_requests_at_once(serve: Serve) -> None:
    with VirtioDriver(serve(Reorder()), queue_size=16) as driver:
        queue = driver.queue(0)

        async def main() -> list[bytes]:
            return await asyncio.gather(*(queue.request_async(bytes([i]), 1) for i in range(32)))

        assert asyncio.run(main()) == [bytes([i]) for i in range(32)]
        assert queue.pending == {}


def test_asyncio_time_out(serve: Serve) -> None:
    with VirtioDriver(serve(Reorder())) as driver:
        queue = driver.queue(0)

        async def main() -> None:
            async with asyncio.timeout(0.05):
                await queue.request_async(b"x", 1)

        with pytest.raises(TimeoutError):
            asyncio.run(main())


def test_buffers_left_with_the_device_come_back_filled(serve: Serve) -> None:
    class Slow(Device, type="rng"):
        def __init__(self) -> None:
            super().__init__()
            self.count = 0

        def handle(self, request: Request) -> None:
            self.count += 1
            request.write(b"event %d" % self.count)

    with VirtioDriver(serve(Slow())) as driver:
        queue = driver.queue(0)
        queue.post(16, count=3)
        events = queue.completed(minimum=3)
        assert [event.written for event in events] == [b"event 1", b"event 2", b"event 3"]
        assert [event.length for event in events] == [7, 7, 7]
        for event in events:
            event.release()
        assert queue.completed() == []


def test_a_request_that_is_never_answered_times_out_with_a_picture(serve: Serve) -> None:
    with VirtioDriver(serve(Reorder())) as driver:
        with pytest.raises(PeerTimeout, match=r"1 in flight"):
            driver.queue(0).request(b"x", 1, timeout=0.05)
        with pytest.raises(PeerTimeout):
            driver.queue(0).completed(minimum=1, timeout=0.01)


def test_a_full_ring_is_told_or_waited_for(serve: Serve) -> None:
    with VirtioDriver(serve(Reorder()), queue_size=4, indirect=False) as driver:
        queue = driver.queue(0)
        for _ in range(2):
            queue.submit(b"x", 1)
        allocated = queue.memory.allocated
        with pytest.raises(QueueFull):
            queue.submit(b"x", 1)
        assert queue.memory.allocated == allocated
        with pytest.raises(ValueError, match="does not fit"):
            queue.submit([b"x"] * 5)


def test_V053_a_broken_ring_ends_every_request(serve: Serve) -> None:
    with VirtioDriver(serve(Reorder())) as driver:
        queue = driver.queue(0)
        pending = [queue.submit(b"x", 1) for _ in range(3)]
        ring = queue.ring
        assert isinstance(ring, SplitDriverQueue)
        ring.set_used_index(9)
        with pytest.raises(DeviceBroken, match="V054"):
            queue.reap()
        for each in pending:
            with pytest.raises(DeviceBroken):
                each.wait()
        with pytest.raises(DeviceBroken):
            queue.request(b"x", 1)


def test_V056_poison_shows_what_was_written_beyond_the_length(serve: Serve) -> None:
    class Under(Device, type="rng"):
        def handle(self, request: Request) -> None:
            request.write(b"abcdef")
            request.complete(2)

    with VirtioDriver(serve(Under())) as driver:
        queue: Queue = driver.queue(0)
        queue.poison = True
        with queue.submit(b"", 8) as pending:
            assert pending.wait() == b"ab"
            assert not pending.tail_is_untouched
            assert pending.data == b"abcdef\xa5\xa5"
