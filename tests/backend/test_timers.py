"""Timers of a device: in its worker, from any thread, as long as the daemon lives."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.devices import Echo
from tests.support.front_end import until
from vhost_user import VhostUserDaemon
from vhost_user.backend.timers import Timers

if TYPE_CHECKING:
    from tests.backend.conftest import Stage

PATIENCE = 10.0


def test_call_later_calls_in_the_worker_and_once(stage: Stage) -> None:
    device = Echo()
    stage.serve(device)
    called = threading.Event()
    seen: list[tuple[object, str]] = []

    def call(word: object) -> None:
        seen.append((word, threading.current_thread().name))
        called.set()

    timer = device.call_later(0.01, call, "word")
    assert timer.active
    assert called.wait(PATIENCE)
    device.post(int).result(PATIENCE)  # the worker has come round once more
    assert seen == [("word", "test-worker-0")]
    assert not timer.active


def test_timers_are_called_in_the_order_they_are_due(stage: Stage) -> None:
    device = Echo()
    stage.serve(device)
    seen: list[int] = []
    done = threading.Event()
    device.call_later(0.06, done.set)
    for number in (4, 1, 3, 2):
        device.call_later(number / 100, seen.append, number)
    assert done.wait(PATIENCE)
    assert seen == [1, 2, 3, 4]


def test_one_that_is_cancelled_calls_nothing(stage: Stage) -> None:
    device = Echo()
    stage.serve(device)
    seen: list[str] = []
    done = threading.Event()
    first = device.call_later(0.01, seen.append, "first")
    device.call_later(0.02, done.set)
    first.cancel()
    first.cancel()
    assert done.wait(PATIENCE)
    assert seen == []
    assert "over" in repr(first)


def test_every_comes_again_until_it_is_cancelled_even_by_itself(stage: Stage) -> None:
    device = Echo()
    stage.serve(device)
    seen: list[int] = []
    done = threading.Event()

    def call() -> None:
        seen.append(len(seen))
        if len(seen) == 3:
            timer.cancel()
            device.call_later(0.05, done.set)

    timer = device.every(0.005, call)
    assert "every" in repr(timer)
    assert done.wait(PATIENCE)
    assert seen == [0, 1, 2]


def test_a_missed_beat_is_left_out() -> None:
    calls: list[float] = []
    timers = Timers(lambda callback, arguments: callback(*arguments))
    try:
        timer = timers.add(0.01, lambda: calls.append(time.monotonic()), again=True)
        began = timer.due
        time.sleep(0.055)
        timers.expired()
        assert len(calls) == 1
        beats = (timer.due - began) / 0.01
        assert beats == pytest.approx(round(beats), abs=1e-3)  # the beat is kept
        assert timer.due > calls[0]
    finally:
        timers.close()
    assert not timer.active


def test_an_exception_is_logged_and_the_next_beat_comes(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    device = Echo()
    stage.serve(device)
    done = threading.Event()
    seen: list[int] = []

    def call() -> None:
        seen.append(1)
        if len(seen) == 2:
            done.set()
        raise SystemExit("no device ends its worker")

    with caplog.at_level(logging.ERROR):
        timer = device.every(0.005, call)
        assert done.wait(PATIENCE)
        timer.cancel()
    device.post(int).result(PATIENCE)
    assert "called by a timer, failed: no device ends its worker" in caplog.text


def test_any_thread_may_set_timers(stage: Stage) -> None:
    device = Echo()
    stage.serve(device)
    seen: list[int] = []
    done = threading.Event()

    def work(number: int) -> None:
        for step in range(50):
            device.call_later(step / 10000, seen.append, number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    device.call_later(0.05, done.set)
    assert done.wait(PATIENCE)
    assert sorted(seen) == sorted([0, 1, 2, 3] * 50)


def test_timers_outlive_sessions_and_end_with_the_daemon(stage: Stage) -> None:
    device = Echo()
    _, front = stage.serve(device)
    front.bring_up()
    ticks: list[int] = []
    timer = device.every(0.005, ticks.append, 1)
    front.close()
    before = len(ticks)
    until(lambda: len(ticks) >= before + 3)
    daemon = device._daemon
    assert isinstance(daemon, VhostUserDaemon)
    daemon.close()
    assert not timer.active
    with pytest.raises(RuntimeError, match="no daemon was made"):
        device.call_later(1, print)


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_a_time_that_is_none_is_refused(stage: Stage, seconds: float) -> None:
    device = Echo()
    stage.serve(device)
    with pytest.raises(ValueError, match="number of seconds"):
        device.call_later(seconds, print)
    with pytest.raises(ValueError, match="positive number of seconds"):
        device.every(0, print)


def test_an_async_callback_is_refused_in_words(stage: Stage) -> None:
    device = Echo()
    stage.serve(device)

    async def call() -> None: ...

    with pytest.raises(TypeError, match="call_later: the callback is an async function"):
        device.call_later(0, call)


def test_before_there_is_a_daemon_there_is_no_timer() -> None:
    with pytest.raises(RuntimeError, match="no daemon was made for this Echo yet"):
        Echo().every(1, print)


def test_post_gives_what_the_call_returned_or_raised(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    device = Echo()
    stage.serve(device)
    assert device.post(lambda: threading.current_thread().name).result(PATIENCE) == "test-worker-0"

    async def on_the_loop(word: str) -> str:
        return word + threading.current_thread().name

    assert device.post(on_the_loop, "in ").result(PATIENCE) == "in Echo-asyncio"
    with caplog.at_level(logging.ERROR), pytest.raises(ZeroDivisionError):
        device.post(lambda: 1 // 0).result(PATIENCE)
    device.post(int).result(PATIENCE)
    assert "division" in caplog.text


def test_what_was_posted_and_is_not_run_is_cancelled_at_the_end() -> None:
    device = Echo()
    with VhostUserDaemon("test", device):  # no worker runs
        future = device.post(int)
    assert future.cancelled()
