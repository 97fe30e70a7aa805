"""Coroutines that do not end, or raise what ends programs: the device goes on, and the program may end."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.front_end import FrontEnd, until
from tests.support.programs import programs
from vhost_user import Device, Request
from vhost_user.backend import event_loop
from vhost_user.backend.call_threads import CallThreads
from vhost_user.protocol.listener import connect

if TYPE_CHECKING:
    from tests.backend.conftest import Stage


class Misbehaving(Device):
    """Writes what it reads, backwards; one byte is a request to misbehave."""

    async def handle(self, request: Request) -> None:
        if request.readable == 1:
            await self.misbehave()
        request.write(request.read()[::-1][: request.writable])

    async def misbehave(self) -> None:
        raise NotImplementedError


def answers(front: FrontEnd) -> bool:
    return front.request(readable=b"abc", writable=3) == b"cba"


@pytest.mark.parametrize(
    "error",
    [SystemExit(3), KeyboardInterrupt("no"), GeneratorExit(), BaseException("base"), ValueError("plain")],
    ids=repr,
)
def test_whatever_a_coroutine_raises_fails_its_request_alone(
    stage: Stage, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    class Leaving(Misbehaving):
        async def misbehave(self) -> None:
            await asyncio.sleep(0)
            raise error

    _, front = stage.serve(Leaving())
    front.bring_up()
    assert front.request(readable=b"x", writable=3) == b""
    assert "a request of queue 0" in caplog.text
    assert answers(front)


def test_a_task_of_the_device_that_exits_does_not_take_the_loop_along(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    async def leave() -> None:
        raise SystemExit(3)

    device = Misbehaving()
    _, front = stage.serve(device)
    front.bring_up()
    device.loop.call_soon_threadsafe(lambda: device.loop.create_task(leave()))
    until(lambda: "the loop, which goes on" in caplog.text, "the log line")
    assert answers(front)
    device.loop.call_soon_threadsafe(device.loop.stop)
    assert answers(front)


@pytest.fixture
def _little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vhost_user.backend.draining.RESET_DRAIN", 0.05)
    monkeypatch.setattr("vhost_user.backend.handling.CANCEL_PATIENCE", 0.1)


def asked_and_left(stage: Stage, device: Misbehaving, begun: threading.Event, requests: int) -> None:
    """The front-end asks the device to misbehave, and goes once it does."""
    daemon, front = stage.serve(device)
    front.bring_up()
    for _ in range(requests):
        front.post(readable=b"x", writable=3)
    assert begun.wait(10)
    front.close()
    assert daemon.wait(10)


@pytest.mark.usefixtures("_little_patience")
def test_a_coroutine_that_swallows_cancellation_is_named_and_left_alone(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    begun = threading.Event()
    over = threading.Event()

    class Stubborn(Misbehaving):
        async def misbehave(self) -> None:
            begun.set()
            while not over.is_set():
                try:
                    await asyncio.sleep(0.01)
                except asyncio.CancelledError:
                    continue

    asked_and_left(stage, Stubborn(), begun, 2)
    until(lambda: "did not end when it was cancelled and is left alone" in caplog.text, "the warning")
    assert "Misbehaving.handle (2 times) did not end when it was cancelled" in caplog.text
    over.set()


@pytest.mark.usefixtures("_little_patience")
def test_a_loop_that_is_held_up_is_named(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    begun = threading.Event()
    over = threading.Event()

    class Blocking(Misbehaving):
        async def misbehave(self) -> None:
            begun.set()
            over.wait(60)

    asked_and_left(stage, Blocking(), begun, 1)
    until(lambda: "the loop is held up in " in caplog.text, "the warning")
    assert "Blocking.misbehave (" in caplog.text
    over.set()


def test_a_blocking_call_in_a_thread_works_and_its_threads_end_with_the_device(stage: Stage) -> None:
    class Calling(Misbehaving):
        async def misbehave(self) -> None:
            assert await asyncio.to_thread(lambda: 7) == 7
            with pytest.raises(ZeroDivisionError):
                await asyncio.to_thread(divmod, 1, 0)

    daemon, front = stage.serve(Calling())
    front.bring_up()
    for _ in range(3):
        assert front.request(readable=b"x", writable=1) == b"x"
    daemon.close()
    assert not [thread for thread in threading.enumerate() if "Calling-asyncio" in thread.name]


def test_calls_wait_for_a_free_thread_and_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vhost_user.backend.call_threads.MAX_THREADS", 2)
    calls = CallThreads("test")
    gate = threading.Event()
    made: list[int] = []

    def call(number: int) -> int:
        gate.wait(10)
        made.append(number)
        return number

    futures = [calls.submit(call, number) for number in range(20)]
    assert len([thread for thread in threading.enumerate() if thread.name.startswith("test-")]) == 2
    gate.set()
    assert [future.result(10) for future in futures] == list(range(20))
    assert sorted(made) == list(range(20))
    gate.clear()
    running = [calls.submit(call, number) for number in (20, 21)]
    waiting = calls.submit(call, 22)
    until(lambda: all(future.running() for future in running), "the calls")
    calls.shutdown(wait=False, cancel_futures=True)
    assert waiting.cancelled()
    (first, second) = calls.unfinished(time.monotonic() + 0.01)
    assert first == second
    assert first.endswith("call")
    with pytest.raises(RuntimeError, match="is closed"):
        calls.submit(call, 23)
    gate.set()
    assert calls.unfinished(time.monotonic() + 10) == []
    assert [future.result(10) for future in running] == [20, 21]


PROGRAM = """
import asyncio, sys, time
from vhost_user import Device, serve

class Stuck(Device, type="rng"):
    async def handle(self, request):
        print("begun", flush=True)
        if KIND == "swallow":
            while True:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    pass
        elif KIND == "thread":
            await asyncio.to_thread(time.sleep, 3600)
        elif KIND == "blocked":
            time.sleep(3600)

KIND = sys.argv.pop()
serve(Stuck())
"""


@pytest.mark.parametrize(
    ("kind", "warning"),
    [
        ("swallow", "Stuck.handle did not end when it was cancelled"),
        ("thread", "sleep did not return from a thread"),
        ("blocked", "the loop is held up in Stuck.handle"),
    ],
)
def test_C142_a_program_ends_whatever_its_coroutines_do(tmp_path: Path, kind: str, warning: str) -> None:
    (tmp_path / "stuck.py").write_text(PROGRAM)
    path = tmp_path / "s"
    with programs() as running:
        process = running.python(
            tmp_path / "stuck.py",
            f"--socket-path={path}",
            kind,
        )
        assert process.stdout is not None
        assert "listening" in process.stdout.readline()
        front = FrontEnd(connect(path))
        front.bring_up()
        front.post(writable=4)
        while "begun" not in (line := process.stdout.readline()):
            assert line
        process.terminate()
        _, errors = process.communicate(timeout=30)
        front.close()
    assert process.returncode == 0, errors
    assert warning in errors


def test_a_loop_that_is_closed_before_its_thread_begins_ends_in_order(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As when the first of several devices cannot be served."""
    begins = threading.Event()
    monkeypatch.setattr(event_loop, "let_memory_faults_through", begins.wait)
    thread = event_loop.EventLoopThread("early")
    ending = threading.Thread(target=thread.close)
    ending.start()
    until(lambda: thread.loop._ready, "the loop was told to stop")  # type: ignore[attr-defined]  # there is no other way
    begins.set()
    ending.join(10)
    assert not ending.is_alive()
    assert thread.loop.is_closed()
    assert caplog.records == []
