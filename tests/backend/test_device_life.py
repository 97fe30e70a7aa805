"""setup, started, spawn, background, shutdown: when, in which thread, and what comes of their mistakes."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.front_end import PATIENCE, until
from vhost_user import U16, BufferQueue, Config, Device, Queue, Request, VhostUserDaemon
from vhost_user.frontend import VirtioDriver
from vhost_user.spec.features import DeviceStatus
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.structs import U64

if TYPE_CHECKING:
    from tests.backend.conftest import Stage


class Lived(Device, type="console"):
    """Writes its life down; no method calls super()."""

    def __init__(self) -> None:
        self.life: list[tuple[str, str]] = []

    def note(self, what: str) -> None:
        self.life.append((what, threading.current_thread().name))

    @property
    def names(self) -> list[str]:
        return [what for what, _ in self.life]

    def setup(self) -> None:
        self.note("setup")

    def queue_started(self, _queue: int) -> None:
        self.note("queue_started")

    def started(self) -> object:
        self.note("started")
        return None

    def handle(self, _request: Request) -> None:
        self.note("handle")

    def queue_stopping(self, _queue: int) -> None:
        self.note("queue_stopping")

    def reset(self) -> None:
        self.note("reset")

    def shutdown(self) -> None:
        self.note("shutdown")


def test_the_life_of_a_device_in_order_and_in_its_threads(stage: Stage) -> None:
    device = Lived()
    daemon, front = stage.serve(device)
    front.bring_up()
    front.request(writable=4)
    front.stop_ring()
    front.close()
    daemon.wait(PATIENCE)
    daemon.close()
    daemon.close()
    here = threading.current_thread().name
    assert device.life == [
        ("setup", here),
        ("queue_started", "test-control"),
        ("started", "test-control"),
        ("handle", "test-worker-0"),
        ("queue_stopping", "test-control"),
        ("reset", "test-control"),
        ("shutdown", here),
    ]


def test_C131_with_a_status_the_driver_is_ready_at_driver_ok(stage: Stage) -> None:
    device = Lived()
    _, front = stage.serve(device)
    front.negotiate()
    front.share_memory()
    status = DeviceStatus.ACKNOWLEDGE | DeviceStatus.DRIVER | DeviceStatus.FEATURES_OK
    front.call(FrontendRequest.SET_STATUS, U64(int(status)))
    front.start_ring()
    front.enable()
    front.call(FrontendRequest.GET_QUEUE_NUM)
    assert "started" not in device.names
    front.call(FrontendRequest.SET_STATUS, U64(int(status | DeviceStatus.DRIVER_OK)))
    front.enable()
    front.call(FrontendRequest.GET_QUEUE_NUM)
    assert device.names.count("started") == 1  # once


def test_C075_after_a_reset_the_next_driver_is_told_of_again(stage: Stage) -> None:
    device = Lived()
    _, front = stage.serve(device)
    front.bring_up()
    front.call(FrontendRequest.RESET_DEVICE)
    front.call(FrontendRequest.GET_QUEUE_NUM)
    assert device.names.count("started") == 1
    front.enable()
    front.call(FrontendRequest.GET_QUEUE_NUM)
    assert device.names.count("started") == 2


def test_C056_a_vm_that_goes_on_is_no_new_driver_and_one_that_boots_again_is(stage: Stage) -> None:
    device = Lived()
    _, front = stage.serve(device)
    front.bring_up()
    front.request(writable=4)
    base = front.stop_ring()
    assert base == 1
    front.start_ring(base=base)
    front.call(FrontendRequest.GET_QUEUE_NUM)
    assert device.names.count("started") == 1
    front.request(writable=4)
    front.stop_ring()
    front.rings.pop(0).close()  # a driver that boots makes its rings anew
    front.start_ring(base=0)
    front.call(FrontendRequest.GET_QUEUE_NUM)
    assert device.names.count("started") == 2


class Tasks(Device, type="console"):
    """Its tasks say how they end."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.begun: list[str] = []

    async def run(self, name: str) -> None:
        self.begun.append(name)
        try:
            await asyncio.sleep(3600)
        finally:
            self.ended.append(name)

    def setup(self) -> None:
        self.background(self.run("background"))

    async def started(self) -> None:
        self.spawn(self.run("spawned"))
        await self.run("started")

    def handle(self, request: Request) -> None: ...


@pytest.mark.parametrize("end", ["reset", "reboot", "disconnect"])
def test_C134_tasks_of_the_session_end_with_it_and_the_background_goes_on(stage: Stage, end: str) -> None:
    device = Tasks()
    daemon, front = stage.serve(device)
    front.bring_up()
    until(lambda: sorted(device.begun) == ["background", "spawned", "started"])
    if end == "reset":
        front.call(FrontendRequest.RESET_DEVICE)
        front.call(FrontendRequest.GET_QUEUE_NUM)
    elif end == "reboot":
        front.request(writable=1)
        front.stop_ring()
        front.configure_ring(base=0)
    else:
        front.close()
        daemon.wait(PATIENCE)
    assert sorted(device.ended) == ["spawned", "started"]
    daemon.close()
    assert sorted(device.ended) == ["background", "spawned", "started"]


def test_a_task_that_comes_too_late_is_not_begun(stage: Stage) -> None:
    device = Tasks()
    daemon, front = stage.serve(device)
    front.bring_up()
    held, go_on = threading.Event(), threading.Event()

    def hold_up() -> None:
        held.set()
        go_on.wait(PATIENCE)

    device.loop.call_soon_threadsafe(hold_up)
    assert held.wait(PATIENCE)
    late = device.spawn(device.run("late"))
    front.close()
    until(lambda: device._session > 0)
    go_on.set()
    daemon.wait(PATIENCE)
    until(late.cancelled)
    assert "late" not in device.begun


def test_what_tasks_raise_is_logged_and_in_their_future(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    device = Tasks()
    stage.serve(device)

    async def fails() -> None:
        raise LookupError("nothing there")

    async def answers() -> int:
        return 42

    assert device.background(answers()).result(PATIENCE) == 42
    with caplog.at_level(logging.ERROR), pytest.raises(LookupError):
        device.spawn(fails()).result(PATIENCE)
    assert "fails failed: nothing there" in caplog.text
    with pytest.raises(TypeError, match="is not a coroutine"):
        device.spawn(answers)  # type: ignore[arg-type]  # that is the mistake


def test_who_cancels_the_future_cancels_the_task(stage: Stage) -> None:
    device = Tasks()
    stage.serve(device)
    future = device.spawn(device.run("cancelled"))
    until(lambda: "cancelled" in device.begun)
    assert future.cancel()
    until(lambda: "cancelled" in device.ended)
    until(lambda: not device._session_tasks)


def test_threads_that_use_the_loop_first_get_the_same(stage: Stage) -> None:
    device = Lived()
    stage.serve(device)
    barrier = threading.Barrier(4)
    loops: set[int] = set()

    def use() -> None:
        barrier.wait(PATIENCE)
        loops.add(id(device.loop))

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loops) == 1


def test_spawn_without_a_daemon_is_refused() -> None:
    device = Tasks()
    with pytest.raises(RuntimeError, match="no daemon was made"):
        device.spawn(device.run("nowhere"))


class BadSetup(Lived):
    def setup(self) -> None:
        self.every(1, print)
        self.background(_forever())
        raise FileNotFoundError("there is no /dev/leds")


async def _forever() -> None:
    await asyncio.sleep(3600)


def test_an_error_in_setup_refuses_the_daemon_in_words() -> None:
    device = BadSetup()
    with pytest.raises(ValueError, match=r"BadSetup\.setup failed: FileNotFoundError: there is no /dev/leds"):
        VhostUserDaemon("test", device)
    assert device.life == []  # no shutdown without a setup
    device.setup = lambda: None  # type: ignore[method-assign]
    with VhostUserDaemon("test", device):
        pass
    assert device.names == ["shutdown"]


def test_errors_in_started_and_shutdown_are_logged_and_kill_nothing(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    class Bad(Lived):
        def started(self) -> object:
            raise SystemExit("started")

        def shutdown(self) -> None:
            raise SystemExit("shutdown")

    device = Bad()
    daemon, front = stage.serve(device)
    with caplog.at_level(logging.ERROR):
        front.bring_up()
        front.request(writable=4)
        daemon.close()
    assert "driver_ready failed" in caplog.text
    assert "Bad.shutdown failed: shutdown" in caplog.text


@pytest.mark.parametrize("into", [False, True], ids=["always", "into a queue"])
def test_shutdown_is_a_place_for_unlisten(caplog: pytest.LogCaptureFixture, into: bool) -> None:
    """The workers are gone by then, and a descriptor that is listened to is not to be closed before."""

    class Listens(Device, type="console"):
        buffers = BufferQueue(0)

        def setup(self) -> None:
            self.ours, self.theirs = socket.socketpair()
            self.listen(self.theirs, lambda _events: None, into=self.buffers if into else None)

        def shutdown(self) -> None:
            self.unlisten(self.theirs)
            with pytest.raises(ValueError, match="is not listened to"):
                self.unlisten(self.theirs)
            self.ours.close()
            self.theirs.close()

    caplog.set_level(logging.WARNING)
    with VhostUserDaemon("test", Listens()):
        pass
    assert caplog.messages == []


def test_async_setup_and_shutdown_are_refused_in_words() -> None:
    class Odd(Lived):
        async def setup(self) -> None: ...  # type: ignore[override]

    with pytest.raises(TypeError, match=r"Odd\.setup is an async function: nobody awaits it"):
        VhostUserDaemon("test", Odd())


class OddConfig(Config):
    cols = U16(80)


class Terminal(Device, type="console"):
    config = OddConfig()
    to_guest = BufferQueue(0, stream=True)
    from_guest = Queue(1)

    @from_guest.handler
    def typed(self, request: Request) -> None:
        self.to_guest.post(request.read(100).upper())


def test_start_and_stop_in_a_repl(tmp_path: Path) -> None:
    device = Terminal()
    assert repr(device) == "<Terminal console; not served>"
    path = tmp_path / "terminal.sock"
    for _ in range(2):
        daemon = device.start(path)
        assert f"served at {path}, nobody connected" in repr(device)
        with VirtioDriver(path, num_queues=2) as driver:
            assert driver.queue(0).submit(writable=10)
            driver.queue(1).request(b"hello")
            assert "a front-end is connected; features 0x" in repr(device)
            assert "queue 1 (from_guest) runs" in repr(device)
        assert daemon.connected in {True, False}
        device.stop()
        device.stop()
        assert not path.exists()
        assert "not served" in repr(device)


def test_start_says_when_the_device_is_served_already(tmp_path: Path, stage: Stage) -> None:
    device = Terminal()
    stage.serve(device)
    with pytest.raises(ValueError, match="is served by daemon 'test' already"):
        device.start(tmp_path / "second.sock")
    assert not (tmp_path / "second.sock").exists()
