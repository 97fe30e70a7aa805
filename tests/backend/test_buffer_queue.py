"""Receive and event queues: buffers wait, data waits, nothing is lost when the queue stops. C053 to C060."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.engine.pair import Pair
from vhost_user.backend.buffer_queue import BufferQueue
from vhost_user.backend.queues import Queue
from vhost_user.engine.device.vring import Vring
from vhost_user.engine.errors import RequestError

Bind = Callable[..., BufferQueue]


class Stub:
    """A device with one queue, as far as a queue needs one."""

    def __init__(self, vring: Vring) -> None:
        self._vring = vring
        self.bound: dict[int, Queue] = {}

    def vring(self, index: int) -> Vring:
        assert index == 0
        return self._vring

    def bound_queue(self, declared: Queue) -> Queue:
        return self.bound.setdefault(declared.index, declared.bind(self))


@pytest.fixture(params=[False, True], ids=["split", "packed"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    made = Pair(request.param)
    yield made
    made.close()


@pytest.fixture
def bind(pair: Pair) -> Bind:
    return lambda **options: BufferQueue(0, **options).bind(Stub(pair.vring))


def stop(pair: Pair, queue: BufferQueue) -> tuple[float | None, tuple[int, int]]:
    """What the framework does on GET_VRING_BASE."""
    pair.vring.stop()
    patience = queue.stopping()
    pair.vring.drain(patience or 0)
    given = pair.vring.give_back()
    queue.stopped()
    return patience, given


def start_again(pair: Pair) -> None:
    pair.vring.set_base(pair.vring.base())
    pair.vring.start()


def received(pair: Pair) -> list[int]:
    """Lengths of what the driver got back."""
    return [length for _, length in pair.queue.poll_many()]


def test_posted_data_goes_into_the_next_buffer(pair: Pair, bind: Bind) -> None:
    queue = bind()
    pair.add([], [16])
    pair.add([], [16])
    assert queue.post(b"first")
    assert queue.post(bytearray(b"second!"))
    assert received(pair) == [5, 7]
    assert len(queue) == 0


def test_data_waits_for_buffers_and_keeps_its_order(pair: Pair, bind: Bind) -> None:
    queue = bind(backlog=3)
    assert [queue.post(bytes(length)) for length in (1, 2, 3)] == [True] * 3
    pair.add([], [8])
    assert queue.post(bytes(9)) is False  # its place is behind the three, and there is none
    assert queue.available()
    assert received(pair) == [1]
    assert queue.post(bytes(4))
    for _ in range(3):
        pair.add([], [8])
    queue.available()
    assert received(pair) == [2, 3, 4]
    assert queue.dropped == 1


def test_the_oldest_is_dropped_where_that_was_asked_for(pair: Pair, bind: Bind) -> None:
    queue = bind(backlog=2, overflow="drop-oldest")
    for length in (1, 2, 3, 4):
        assert queue.post(bytes(length))
    assert queue.dropped == 2
    pair.add([], [8])
    pair.add([], [8])
    queue.available()
    assert received(pair) == [3, 4]


def test_a_backlog_of_nothing_refuses_what_meets_no_buffer(pair: Pair, bind: Bind) -> None:
    for overflow in ("refuse", "drop-oldest"):
        queue = bind(backlog=0, overflow=overflow)
        assert queue.post(b"x") is False
        assert len(queue) == 0
    pair.add([], [8])
    assert bind(backlog=0).post(b"x")


def test_a_stream_fills_buffers_however_it_was_cut(pair: Pair, bind: Bind) -> None:
    queue = bind(stream=True)
    queue.post(b"0123456789")
    pair.add([], [4])
    pair.add([], [4])
    queue.available()
    assert received(pair) == [4, 4]
    pair.add([], [4])
    queue.available()
    assert received(pair) == [2]


def test_a_message_too_long_for_its_buffer_is_dropped_and_the_buffer_kept(
    pair: Pair, bind: Bind, caplog: pytest.LogCaptureFixture
) -> None:
    queue = bind()
    pair.add([], [4])
    queue.post(b"12345")
    assert "a message of 5 bytes does not fit into a buffer of 4" in caplog.text
    assert received(pair) == []
    queue.post(b"1234")
    assert received(pair) == [4]


def test_V011_a_buffer_that_is_not_mapped_costs_no_data(pair: Pair, bind: Bind) -> None:
    queue = bind()
    pair.queue.add([], [(1 << 50, 8)])
    pair.queue.publish()
    pair.add([], [8])
    queue.post(b"data")
    assert received(pair) == [0, 4]


def test_a_buffer_is_chosen_by_what_it_says(pair: Pair, bind: Bind) -> None:
    pair.vring.set_header(None)
    queue = bind()
    tokens = [pair.add([bytes([line])], [1]) for line in (3, 5, 7)]
    lines: list[int] = []

    def wants_five(buffer: Any) -> bool:
        lines.append(buffer.read(1)[0])
        return lines[-1] == 5

    chosen = queue.take_where(wants_five)
    assert chosen is not None
    assert lines == [3, 5]
    chosen.write(b"!")
    chosen.complete()
    assert pair.queue.poll_many() == [(tokens[1], 1)]
    assert queue.take_where(lambda _: False) is None
    rest = [queue.take(), queue.take()]
    assert [buffer.head for buffer in rest if buffer is not None] != []
    assert queue.take() is None
    for buffer in rest:
        assert buffer is not None
        buffer.complete(0)


def test_C053_buffers_that_wait_go_back_unused_when_the_queue_stops(pair: Pair, bind: Bind) -> None:
    queue = bind()
    for _ in range(3):
        pair.add([], [8])
    assert queue.has_buffer
    queue.take_where(lambda _: False)
    before = pair.vring.base()
    assert stop(pair, queue) == (0.0, (3, 0))
    assert pair.vring.base() != before
    assert received(pair) == []
    assert queue.post(b"late")
    start_again(pair)
    queue.available()
    assert received(pair) == [4]
    queue.post(b"x")
    assert received(pair) == [1]


def test_C053_what_is_taken_after_a_restart_is_not_what_went_back(pair: Pair, bind: Bind) -> None:
    queue = bind()
    pair.add([], [8])
    assert queue.has_buffer
    stop(pair, queue)
    start_again(pair)
    buffer = queue.take()
    assert buffer is not None
    assert buffer.alive
    buffer.complete(0)


def test_C053_a_buffer_in_somebodys_hand_has_a_moment_and_is_dead_then(pair: Pair, bind: Bind) -> None:
    queue = bind()
    pair.add([], [8])
    pair.add([], [8])
    quick, slow = queue.take(), queue.take()
    assert quick is not None
    assert slow is not None
    timer = threading.Timer(0.01, quick.complete, (3,))
    timer.start()
    patience, given = stop(pair, queue)
    timer.join()
    assert patience is not None
    assert patience > 0
    assert given == (1, 0)
    assert received(pair) == [3]
    with pytest.raises(RequestError):
        slow.write(b"x")
    slow.complete(1)
    assert received(pair) == []


def test_a_coroutine_gets_a_buffer_as_soon_as_there_is_one(pair: Pair, bind: Bind) -> None:
    queue = bind()

    async def main() -> int:
        task = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        assert not task.done()
        pair.add([], [8])
        threading.Thread(target=queue.available).start()
        buffer = await asyncio.wait_for(task, 10)
        buffer.complete(0)
        return buffer.writable

    assert asyncio.run(main()) == 8


def test_send_waits_while_the_backlog_is_full(pair: Pair, bind: Bind) -> None:
    queue = bind(backlog=2)

    async def main() -> None:
        for _ in range(2):
            await queue.send(b"x")
        task = asyncio.create_task(queue.send(b"y"))
        await asyncio.sleep(0.01)
        assert not task.done()
        pair.add([], [8])
        threading.Thread(target=queue.available).start()
        await asyncio.wait_for(task, 10)

    asyncio.run(main())
    assert len(queue) == 2


def test_many_threads_post_and_nothing_is_lost(pair: Pair, bind: Bind) -> None:
    queue = bind(backlog=1000)
    threads = [threading.Thread(target=lambda: [queue.post(b"x") for _ in range(100)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    got = 0
    given = 0
    while got < 400:
        if given - got < 8:  # a thread may need this CPU before it posts
            pair.add([], [1])
            given += 1
        queue.available()
        got += len(received(pair))
    for thread in threads:
        thread.join()
    assert got == 400
    assert len(queue) == 0


def test_the_end_of_a_session_empties_the_backlog(pair: Pair, bind: Bind) -> None:
    queue = bind()
    queue.post(b"for a driver that is gone")
    queue.ended()
    assert len(queue) == 0
    pair.add([], [64])
    queue.available()
    assert received(pair) == []


def test_the_callback_hears_of_buffers_that_nothing_waits_for(pair: Pair) -> None:
    called: list[object] = []
    declared = BufferQueue(0)
    declared.on_available(called.append)
    stub = Stub(pair.vring)
    queue = declared.bind(stub)
    queue.available()
    assert called == []
    pair.add([], [8])
    queue.available()
    assert called == [stub]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Queue(256), "numbers 0 to 255"),
        (lambda: Queue(0, size=100), "not a power of two"),
        (lambda: BufferQueue(0, backlog=-1), "backlog of -1"),
        (
            lambda: BufferQueue(0, overflow="explode"),  # type: ignore[arg-type]  # the mistake
            "'refuse' or 'drop-oldest'",
        ),
    ],
)
def test_declarations_that_make_no_sense_are_refused(make: Callable[[], object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()


def test_a_declaration_is_not_a_queue() -> None:
    with pytest.raises(RuntimeError, match="is a declaration"):
        BufferQueue(0).take()
