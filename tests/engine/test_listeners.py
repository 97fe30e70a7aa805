"""The worker: listeners, doorbells that come and go, how its loop ends (C053, C066, C067, H82)."""

from __future__ import annotations

import os
import select
import signal
import threading

import pytest

from tests.engine.pair import MakePair
from tests.engine.serving import PATIENCE, echo, round_trip, running
from vhost_user.engine.device.request import Request
from vhost_user.engine.device.worker import Worker


def test_C067_a_kick_pipe_that_was_closed_is_not_spun_on(make_pair: MakePair) -> None:
    pair = make_pair()
    out, into = os.pipe()
    pair.vring.set_kick(out)
    listener = os.eventfd(0, os.EFD_NONBLOCK)
    heard = threading.Semaphore(0)

    def dispatch(event: int, _events: int) -> None:
        if event == 16:
            os.eventfd_read(listener)
            heard.release()
        else:
            pair.vring.process(echo)

    with running(pair, dispatch=dispatch) as worker:
        round_trip(pair, pipe=into)
        os.close(into)
        worker.register_listener(listener, select.EPOLLIN, 16)
        before = worker.statistics()["wakeups"]
        for _ in range(20):
            os.eventfd_write(listener, 1)
            assert heard.acquire(timeout=PATIENCE)
        # Each event wakes it once; a pipe left in the set would be ready all the time in between.
        assert worker.statistics()["wakeups"] - before < 30
    os.close(listener)


def test_H82_a_busy_ring_starves_no_listener(make_pair: MakePair) -> None:
    busy = make_pair(64)
    heard = threading.Event()
    listener = os.eventfd(0, os.EFD_NONBLOCK)
    place = busy.buffer(4)

    def refill(request: Request) -> None:
        request.complete()
        busy.queue.poll_many()
        busy.queue.add([place])
        busy.queue.publish()

    def dispatch(event: int, events: int) -> None:
        if event == 99:
            assert events & select.EPOLLIN
            os.eventfd_read(listener)
            heard.set()
        else:
            busy.vring.process(refill, None, 16)

    with running(busy, dispatch=dispatch) as worker:
        busy.add([b"first"])
        busy.queue.kick()
        worker.register_listener(listener, select.EPOLLIN, 99)
        for _ in range(10):
            heard.clear()
            os.eventfd_write(listener, 1)
            assert heard.wait(PATIENCE)
        worker.unregister_listener(listener, select.EPOLLIN, 99)
    os.close(listener)


def test_listeners_ids_cannot_collide(make_pair: MakePair) -> None:
    pair = make_pair()
    fd = os.eventfd(0)
    worker = Worker([pair.vring], first_listener_id=3)
    for wrong in (0, 2, -1, 1 << 32, (1 << 64) - 1):
        with pytest.raises(ValueError, match="listener id"):
            worker.register_listener(fd, select.EPOLLIN, wrong)
    worker.register_listener(fd, select.EPOLLIN, 3)
    with pytest.raises(ValueError, match="in use"):
        worker.register_listener(fd, select.EPOLLIN, 3)
    with pytest.raises(OSError, match="event 4"):
        worker.register_listener(fd, select.EPOLLIN, 4)
    with pytest.raises(OSError, match="Bad file"):
        worker.register_listener(-1, select.EPOLLIN, 5)
    for wrong_fd, wrong in ((fd, 4), (fd + 1000, 3)):
        with pytest.raises(ValueError, match="no listener"):
            worker.unregister_listener(wrong_fd, select.EPOLLIN, wrong)
    worker.unregister_listener(fd, select.EPOLLIN, 3)
    worker.register_listener(fd, select.EPOLLIN, 3)
    os.close(fd)
    worker.close()


def test_the_exit_event_ends_the_loop() -> None:
    worker = Worker([], first_listener_id=0)
    fd = os.eventfd(0)
    worker.set_exit_event(fd)
    thread = threading.Thread(target=worker.run, args=(lambda _event, _events: None,))
    thread.start()
    os.eventfd_write(fd, 1)
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert select.select([fd], [], [], 0)[0]  # not ours to read
    worker.close()
    os.close(fd)


def test_stop_before_run_is_remembered_once() -> None:
    worker = Worker([], first_listener_id=0)
    worker.stop()
    worker.run(lambda _event, _events: None)
    worker.close()


def test_stop_from_a_signal_handler_in_the_main_thread() -> None:
    """The loop waits in C without the interpreter; a signal must still get its handler run."""
    worker = Worker([], first_listener_id=0)
    before = signal.signal(signal.SIGUSR1, lambda _number, _frame: worker.stop())
    main = threading.get_ident()
    timer = threading.Timer(0.05, lambda: signal.pthread_kill(main, signal.SIGUSR1))
    timer.start()
    try:
        worker.run(lambda _event, _events: None)
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)
        worker.close()


def test_a_true_answer_of_dispatch_ends_the_loop(make_pair: MakePair) -> None:
    pair = make_pair()
    worker = Worker([pair.vring], first_listener_id=1)
    worker.update(pair.vring)
    events: list[int] = []
    pair.add([b"x"])
    pair.queue.kick()

    def dispatch(event: int, _events: int) -> bool:
        events.append(event)
        return True

    worker.run(dispatch)
    assert events == [0]
    worker.remove(pair.vring)
    worker.close()


def test_an_exception_of_dispatch_is_the_callers(make_pair: MakePair) -> None:
    pair = make_pair()
    worker = Worker([pair.vring], first_listener_id=1)
    worker.update(pair.vring)

    def dispatch(_event: int, _events: int) -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError):
        worker.run(dispatch)
    worker.remove(pair.vring)
    worker.close()


def test_C053_a_stopped_ring_is_not_watched(make_pair: MakePair) -> None:
    pair = make_pair()
    events: list[int] = []
    reached = threading.Event()
    listener = os.eventfd(0, os.EFD_NONBLOCK)

    def dispatch(event: int, _events: int) -> None:
        events.append(event)
        if event == 16:
            os.eventfd_read(listener)
            reached.set()

    with running(pair, dispatch=dispatch) as worker:
        pair.vring.stop()
        worker.update(pair.vring)
        worker.register_listener(listener, select.EPOLLIN, 16)
        os.eventfd_write(listener, 1)
        assert reached.wait(PATIENCE)
        reached.clear()
        events.clear()
        pair.queue.kick(force=True)
        os.eventfd_write(listener, 1)
        assert reached.wait(PATIENCE)
        assert events == [16]
    os.close(listener)


def test_several_descriptors_share_a_listener_id() -> None:
    class Source:
        """A file object, as far as epoll cares."""

        def __init__(self) -> None:
            self.fd = os.eventfd(0)

        def fileno(self) -> int:
            return self.fd

    worker = Worker([], first_listener_id=1)
    first, second = Source(), os.eventfd(0)
    seen: list[tuple[int, int]] = []
    came = threading.Semaphore(0)

    def dispatch(event: int, events: int) -> None:
        seen.append((event, events))
        for fd in (first.fd, second):
            if select.select([fd], [], [], 0)[0]:
                os.eventfd_read(fd)
        came.release()

    worker.register_listener(first, select.EPOLLIN, 7)
    worker.register_listener(second, select.EPOLLIN, 7)
    with pytest.raises(ValueError, match=r"listener id 7 is in use for fd .*; modify_listener\(\)"):
        worker.register_listener(first, select.EPOLLIN, 7)
    with pytest.raises(TypeError, match="fileno"):
        worker.register_listener("first", select.EPOLLIN, 7)  # type: ignore[arg-type]  # that is the point
    thread = threading.Thread(target=worker.run, args=(dispatch,))
    thread.start()
    for fd in (first.fd, second):
        os.eventfd_write(fd, 1)
        assert came.acquire(timeout=PATIENCE)
    assert seen == [(7, select.EPOLLIN)] * 2
    # Other events: an eventfd can always be written.
    worker.modify_listener(first, select.EPOLLOUT | select.EPOLLONESHOT, 7)
    assert came.acquire(timeout=PATIENCE)
    assert seen[2] == (7, select.EPOLLOUT)
    with pytest.raises(ValueError, match="no listener with id 8"):
        worker.modify_listener(first, select.EPOLLIN, 8)
    worker.unregister_listener(first, select.EPOLLIN, 7)
    with pytest.raises(ValueError, match="no listener with id 7"):
        worker.unregister_listener(first, select.EPOLLIN, 7)
    with pytest.raises(ValueError, match="no listener with id 7"):
        worker.modify_listener(first, select.EPOLLIN, 7)
    # The other one stays.
    os.eventfd_write(second, 1)
    assert came.acquire(timeout=PATIENCE)
    # One that was closed has left the poll set by itself; its number may be registered again.
    os.close(second)
    assert os.dup2(first.fd, second) == second
    worker.register_listener(second, select.EPOLLIN, 7)
    os.eventfd_write(second, 1)
    assert came.acquire(timeout=PATIENCE)
    worker.stop()
    thread.join(PATIENCE)
    worker.close()
    os.close(first.fd)
    os.close(second)


def test_send_exit_event_writes_the_event_and_ends_the_loop() -> None:
    for fd in (os.eventfd(0), None):
        worker = Worker([], first_listener_id=0)
        if fd is not None:
            worker.set_exit_event(fd)
        thread = threading.Thread(target=worker.run, args=(lambda _event, _events: None,))
        thread.start()
        worker.send_exit_event()
        thread.join(PATIENCE)
        assert not thread.is_alive()
        worker.close()
        worker.send_exit_event()  # after the end it does nothing
        if fd is not None:
            assert os.eventfd_read(fd) == 1
            os.close(fd)


# ---------------------------------------------------------------------- events that are out of date
def test_C066_a_listener_taken_out_in_the_same_batch_is_not_dispatched() -> None:
    """The first of two that are ready takes the other one out."""
    worker = Worker([], first_listener_id=0)
    fds = {number: os.eventfd(1, os.EFD_NONBLOCK) for number in (5, 6)}
    seen: list[int] = []

    def dispatch(event: int, _events: int) -> bool:
        seen.append(event)
        os.eventfd_read(fds[event])
        other = 11 - event
        if len(seen) == 1:
            worker.unregister_listener(fds[other], select.EPOLLIN, other)
        worker.stop()
        return False

    for number, fd in fds.items():
        worker.register_listener(fd, select.EPOLLIN, number)
    worker.run(dispatch)
    assert len(seen) == 1
    worker.close()
    for fd in fds.values():
        os.close(fd)


def test_C066_an_event_of_the_listener_before_under_the_same_id_is_dropped() -> None:
    worker = Worker([], first_listener_id=0)
    fds = {number: os.eventfd(1, os.EFD_NONBLOCK) for number in (5, 6)}
    quiet = os.eventfd(0, os.EFD_NONBLOCK)
    seen: list[int] = []

    def dispatch(event: int, _events: int) -> bool:
        seen.append(event)
        other = 11 - event
        if len(seen) == 1:
            worker.unregister_listener(fds[other], select.EPOLLIN, other)
            worker.register_listener(quiet, select.EPOLLIN, other)
        worker.stop()
        return False

    for number, fd in fds.items():
        worker.register_listener(fd, select.EPOLLIN, number)
    worker.run(dispatch)
    assert len(seen) == 1
    worker.close()
    for fd in (*fds.values(), quiet):
        os.close(fd)


def test_C066_a_stale_hang_up_leaves_the_new_kick_alone(make_pair: MakePair) -> None:
    """The hang-up of the old pipe is on its way when the new kick is registered under the same position."""
    pair = make_pair()
    listener = os.eventfd(0, os.EFD_NONBLOCK)
    out, into = os.pipe()
    pair.vring.set_kick(out)
    new = os.eventfd(0, os.EFD_NONBLOCK)
    replaced = threading.Event()

    def dispatch(event: int, _events: int) -> None:
        if event == 16:
            os.eventfd_read(listener)
            # In this batch the hang-up follows.
            worker.remove(pair.vring)
            pair.vring.set_kick(os.dup(new))
            worker.update(pair.vring)
            replaced.set()
        else:
            pair.vring.process(echo)

    with running(pair, dispatch=dispatch) as worker:
        worker.register_listener(listener, select.EPOLLIN, 16)
        round_trip(pair, pipe=into)
        os.eventfd_write(listener, 1)
        os.close(into)
        assert replaced.wait(PATIENCE)
        for _ in range(3):
            token = pair.add([b"ping"], [4])
            os.eventfd_write(new, 1)
            assert pair.queue.wait(PATIENCE), pair.queue.describe()
            assert pair.queue.poll() == (token, 4)
    os.close(new)
    os.close(listener)


# ---------------------------------------------------------------------- handlers that raise
