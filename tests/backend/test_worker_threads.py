"""How workers end, what ends them, and that they live again."""

from __future__ import annotations

import gc
import logging
import os
import select
import socket
import threading
import warnings
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.front_end import until
from tests.support.notebook import Notebook
from vhost_user import Device, Request, VhostUserDaemon, Vring
from vhost_user.spec.features import VirtioFeature

if TYPE_CHECKING:
    from tests.backend.conftest import Stage
    from tests.support.front_end import FrontEnd


class Answering(Notebook):
    """Two queues, a worker each; ``handle_event`` of the first returns or raises ``answer``."""

    queues = 2
    answer: Any = None

    def queues_per_thread(self) -> Sequence[int | Collection[int]]:
        return [1, 1]

    def handle_event(self, device_event: int, event_set: int, vrings: Sequence[Vring], thread_id: int) -> Any:
        super().handle_event(device_event, event_set, vrings, thread_id)
        if thread_id == 0:
            if isinstance(self.answer, BaseException):
                raise self.answer
            return self.answer
        return None


def names() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def answers(front: FrontEnd, queue: int) -> bool:
    return front.request(queue, b"abc", 3) == b"cba"


def again(stage: Stage, daemon: VhostUserDaemon) -> FrontEnd:
    """Another session of the same daemon."""
    ours, theirs = socket.socketpair()
    daemon.start_connection(theirs)
    return stage.front_end(ours)


def test_True_ends_the_worker_with_a_warning_and_start_revives_it(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    device = Answering()
    device.answer = True
    daemon, front = stage.serve(device)
    front.bring_up(queues=2)
    until(lambda: "test-worker-0" not in names(), "the worker's end")
    assert (
        "test: worker 0 ended: handle_event returned True. Nobody serves queue 0 until start() is called"
        in [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    )
    assert answers(front, 1)
    front.post(0, b"abc", 3)
    assert not front.rings[0].wait(0.05)
    front.close()
    assert daemon.wait(10)
    device.answer = None
    front = again(stage, daemon)
    front.bring_up(queues=2)
    assert answers(front, 0)
    assert answers(front, 1)
    assert {"test-worker-0", "test-worker-1"} <= names()


class Number:
    """An int of another kind: true, and not True."""

    def __bool__(self) -> bool:
        return True

    def __str__(self) -> str:
        return "number"


@pytest.mark.parametrize("answer", [1, 17, "yes", Number(), [0]], ids=str)
def test_any_other_answer_is_ignored_and_told_once(
    stage: Stage, caplog: pytest.LogCaptureFixture, answer: Any
) -> None:
    device = Answering()
    device.answer = answer
    _, front = stage.serve(device)
    front.bring_up(queues=2)
    for _ in range(5):
        assert answers(front, 0)
        assert answers(front, 1)
    assert {"test-worker-0", "test-worker-1"} <= names()
    told = [record for record in caplog.records if "handle_event returned" in record.getMessage()]
    assert [record.levelno for record in told] == [logging.WARNING]
    assert "in worker 0; only True means something" in told[0].getMessage()


def test_a_number_of_requests_does_not_end_the_worker(stage: Stage) -> None:
    """``return vring.process(…)``, which is natural to write."""

    class Counting(Device):
        def handle(self, request: Request) -> None:
            request.write(request.read()[::-1][: request.writable])

        def handle_event(
            self, device_event: int, event_set: int, vrings: Sequence[Vring], thread_id: int
        ) -> Any:
            del event_set, thread_id
            return vrings[device_event].process(self.handle)

    _, front = stage.serve(Counting())
    front.bring_up()
    for _ in range(5):
        assert answers(front, 0)


def test_a_coroutine_out_of_handle_event_is_told_and_closed(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    async def later() -> None:
        raise AssertionError("nobody awaits this")

    class Lazy(Answering):
        def handle_event(
            self, device_event: int, event_set: int, vrings: Sequence[Vring], thread_id: int
        ) -> Any:
            super().handle_event(device_event, event_set, vrings, thread_id)
            return later()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, front = stage.serve(Lazy())
        front.bring_up(queues=2)
        assert answers(front, 0)
        until(lambda: "handle_event returned <coroutine" in caplog.text, "the warning")
        gc.collect()


@pytest.mark.parametrize(
    "error",
    [SystemExit(3), KeyboardInterrupt("no"), GeneratorExit(), BaseException("base"), ValueError("plain")],
    ids=repr,
)
def test_whatever_handle_event_raises_is_logged_and_the_worker_goes_on(
    stage: Stage, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    device = Answering()
    device.answer = error
    _, front = stage.serve(device)
    front.bring_up(queues=2)
    for _ in range(3):
        front.rings[0].kick()
        assert answers(front, 0)
        assert answers(front, 1)
    until(lambda: "handle_event failed for queue 0 in worker 0" in caplog.text, "the log line")
    assert type(error).__name__ in caplog.text
    assert "test-worker-0" in names()


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt("no"), GeneratorExit()], ids=repr)
def test_whatever_queue_event_raises_is_logged_and_the_queue_goes_on(
    stage: Stage, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    class Leaving(Device):
        left = False

        def queue_event(self, vring: Vring) -> None:
            while (request := vring.pop()) is not None:
                request.write(request.read()[::-1])
                request.complete()
                self.left = True
                raise error

    device = Leaving()
    _, front = stage.serve(device)
    # Every buffer brings a kick then, whatever the device armed before it raised.
    front.negotiate(features=~int(VirtioFeature.RING_EVENT_IDX | VirtioFeature.LOG_ALL))
    front.share_memory()
    front.start_ring()
    for _ in range(3):
        assert answers(front, 0)
    assert device.left
    until(lambda: "handle_event failed for queue 0 in worker 0" in caplog.text, "the log line")
    assert "test-worker-0" in names()


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt("no"), GeneratorExit()], ids=repr)
def test_whatever_handle_raises_fails_the_request_alone(
    stage: Stage, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    class Leaving(Device):
        def handle(self, request: Request) -> None:
            if request.readable == 1:
                raise error
            request.write(request.read()[::-1])

    _, front = stage.serve(Leaving())
    front.bring_up()
    assert front.request(readable=b"x", writable=3) == b""
    assert answers(front, 0)
    assert "a request of queue 0" in caplog.text


class Exiting(Answering):
    """Has an exit event for each worker."""

    def __init__(self) -> None:
        super().__init__()
        self.exit_events = [os.eventfd(0, os.EFD_NONBLOCK), os.eventfd(0, os.EFD_NONBLOCK)]

    def exit_event(self, thread_index: int) -> Any:
        return self.exit_events[thread_index], 77

    def written(self, index: int) -> bool:
        return bool(select.select([self.exit_events[index]], [], [], 0)[0])

    def release(self) -> None:
        for fd in self.exit_events:
            os.close(fd)


def test_send_exit_event_writes_it_and_ends_that_worker_alone(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    device = Exiting()
    daemon, front = stage.serve(device)
    front.bring_up(queues=2)
    daemon.get_epoll_handlers()[1].send_exit_event()
    until(lambda: "test-worker-1" not in names(), "the worker's end")
    until(lambda: "worker 1 ended: its exit event was written. Nobody serves queue 1" in caplog.text)
    assert device.written(1)
    assert not device.written(0)
    assert answers(front, 0)
    # While it is written its worker does not live again; its owner reads it.
    front.close()
    assert daemon.wait(10)
    assert os.eventfd_read(device.exit_events[1]) == 1
    front = again(stage, daemon)
    front.bring_up(queues=2)
    assert answers(front, 1)
    device.release()


def test_a_worker_without_exit_event_ends_by_send_exit_event_too(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    daemon, front = stage.serve(Answering())
    front.bring_up(queues=2)
    daemon.get_epoll_handlers()[0].send_exit_event()
    until(lambda: "worker 0 ended: it was stopped" in caplog.text)
    assert answers(front, 1)


def test_close_writes_the_exit_events_and_says_nothing_worse_than_info(
    caplog: pytest.LogCaptureFixture,
) -> None:
    device = Exiting()
    with VhostUserDaemon("test", device) as daemon:
        ours, theirs = socket.socketpair()
        daemon.start_connection(theirs)
        ours.close()
        assert daemon.wait(10)
        assert not device.written(0)
        assert not device.written(1)
    assert device.written(0)
    assert device.written(1)
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []
    device.release()


def test_an_exit_event_that_its_owner_closed_is_not_mistaken_for_another_file(stage: Stage) -> None:
    device = Exiting()
    daemon, _ = stage.serve(device)
    (handler, _) = daemon.get_epoll_handlers()
    reading, writing = os.pipe()
    os.dup2(writing, device.exit_events[0])
    daemon.close()
    handler.send_exit_event()  # after the end it does nothing
    assert select.select([reading], [], [], 0)[0] == []
    for fd in (reading, writing, *device.exit_events):
        os.close(fd)


@pytest.mark.parametrize("full", [True, False])
def test_an_exit_event_that_cannot_be_written_keeps_nobody(stage: Stage, full: bool) -> None:
    reading, writing = os.pipe()
    event = os.eventfd((1 << 32) - 1)
    if full:
        os.eventfd_write(event, (1 << 64) - 1 - (1 << 32))

    class Odd(Notebook):
        def exit_event(self, thread_index: int) -> int:
            del thread_index
            return event if full else reading

    if full:
        # Written already, so the worker ends when it begins. It blocks: a write would never return.
        daemon, _ = stage.serve(Odd())
        until(lambda: "test-worker-0" not in names(), "the worker's end")
    else:
        daemon, front = stage.serve(Odd())
        front.bring_up()
        assert answers(front, 0)
    closing = threading.Thread(target=daemon.close)
    closing.start()
    closing.join(10)
    assert not closing.is_alive()
    assert "test-worker-0" not in names()
    for fd in (reading, writing, event):
        os.close(fd)


def test_an_exit_event_may_be_an_object_that_nobody_else_keeps(stage: Stage) -> None:
    class Holder:
        def __init__(self) -> None:
            self.fd = os.eventfd(0)

        def fileno(self) -> int:
            return self.fd

        def __del__(self) -> None:
            os.close(self.fd)

    class Careless(Notebook):
        def exit_event(self, thread_index: int) -> Holder:
            del thread_index
            return Holder()

    daemon, front = stage.serve(Careless())
    front.bring_up()
    assert answers(front, 0)
    daemon.get_epoll_handlers()[0].send_exit_event()
    until(lambda: "test-worker-0" not in names(), "the worker's end")


def test_a_session_that_finds_a_worker_ended_says_so(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    device = Answering()
    device.answer = True
    daemon = stage.daemon(device)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("\0" + f"vhost-user-test-{os.getpid()}")
        listening.listen()
        daemon.start(listening)
        for session in range(2):
            peer = socket.socket(socket.AF_UNIX)
            peer.connect(listening.getsockname())
            front = stage.front_end(peer)
            front.bring_up(queues=2)
            assert answers(front, 1)
            until(lambda: "test-worker-0" not in names(), "the worker's end")
            front.close()
            until(lambda: not daemon.connected, "the session's end")
            assert ("worker 0 has ended: nobody serves queue 0" in caplog.text) == (session == 1)
        daemon.stop()
        assert daemon.wait(10)
