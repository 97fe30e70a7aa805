"""The order in which a program begins: make the device, open, confine, start; what is left when it fails."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vhost_user import Device, Listener, Request
from vhost_user.program import Opened, ServeError, ServeOptions, run, serve
from vhost_user.protocol.listener import connect

if TYPE_CHECKING:
    from tests.backend.conftest import Stage


class Dice(Device, type="rng"):
    closed = 0

    def handle(self, request: Request) -> None:
        request.write(bytes([6]) * request.writable)

    def close(self) -> None:
        self.closed += 1
        super().close()


def ended() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def options(way: str, folder: Path, theirs: socket.socket) -> ServeOptions:
    fd = os.dup(theirs.fileno()) if way == "fd" else -1  # it belongs to the program
    return {
        "path": ServeOptions(socket_path=str(folder / "s")),
        "fd": ServeOptions(fd=fd),
        "connect": ServeOptions(connect=str(folder / "vmm")),
        "reconnect": ServeOptions(connect=str(folder / "vmm"), reconnect=True),
    }[way]


@pytest.mark.parametrize("way", ["path", "fd", "connect", "reconnect"])
def test_it_is_confined_with_everything_open_and_before_any_thread(tmp_path: Path, way: str) -> None:
    device, seen = Dice(), []
    threads = threading.active_count()

    def confine(opened: Opened) -> None:
        assert threading.active_count() == threads
        assert opened.device is device
        assert (opened.connect, opened.socket is None) == (
            (str(tmp_path / "vmm"), True) if way == "reconnect" else (None, False)
        )
        assert opened.unlink == (str(tmp_path / "s") if way == "path" else None)
        if opened.socket is not None:
            os.fstat(opened.socket)
        seen.append(opened)
        threading.Timer(0.2, ended).start()

    ours, theirs = socket.socketpair()
    with ours, theirs, Listener.bind(tmp_path / "vmm"):
        run(device, options(way, tmp_path, theirs), confine=confine)
    assert len(seen) == 1
    assert device.closed == 1


@pytest.mark.parametrize("way", ["path", "fd", "connect", "reconnect"])
def test_what_confining_raises_ends_it_with_nothing_left(tmp_path: Path, way: str) -> None:
    device = Dice()

    def confine(_opened: Opened) -> None:
        raise PermissionError("the kernel has no Landlock")

    ours, theirs = socket.socketpair()
    with ours, theirs, Listener.bind(tmp_path / "vmm"), pytest.raises(PermissionError, match="Landlock"):
        run(device, options(way, tmp_path, theirs), confine=confine)
    assert device.closed == 1
    assert not (tmp_path / "s").exists()


def test_serve_hands_the_hook_on(tmp_path: Path) -> None:
    def confine(_opened: Opened) -> None:
        raise RuntimeError("called")

    with pytest.raises(RuntimeError, match="called"):
        serve(Dice(), [f"--socket-path={tmp_path / 's'}"], confine=confine)


def test_what_was_opened_is_served_after_it_was_confined(stage: Stage, tmp_path: Path) -> None:
    answers = []

    def guest() -> None:
        front = stage.front_end(connect(tmp_path / "s"))
        front.bring_up()
        answers.append(front.request(writable=4))
        front.close()
        ended()

    run(
        Dice(),
        ServeOptions(socket_path=str(tmp_path / "s")),
        confine=lambda _opened: threading.Thread(target=guest).start(),
    )
    assert answers == [bytes([6]) * 4]


@pytest.mark.parametrize(
    "make",
    [Dice, lambda: None, lambda: Dice],
    ids=["a class", "nothing", "a function that gives a class"],
)
def test_what_is_not_a_device_is_told(tmp_path: Path, make: Callable[[], Dice]) -> None:
    with pytest.raises(ServeError):
        run(make, ServeOptions(socket_path=str(tmp_path / "s")))


def test_a_function_makes_the_device_when_the_log_is_set_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, order = Dice(), []
    monkeypatch.setattr(
        "vhost_user.program.serving.log_to_stderr", lambda **_options: order.append("the log is set up")
    )

    def make() -> Dice:
        order.append("the device is made")
        threading.Timer(0.2, ended).start()
        return device

    run(make, ServeOptions(socket_path=str(tmp_path / "s")))
    assert order == ["the log is set up", "the device is made"]
    assert device.closed == 1


def test_what_making_the_device_raises_is_the_callers(tmp_path: Path) -> None:
    def make() -> Dice:
        raise LookupError("no such disk")

    with pytest.raises(LookupError, match="no such disk"):
        run(make, ServeOptions(socket_path=str(tmp_path / "s")))


def test_the_name_of_0_1_still_leads_there() -> None:
    from vhost_user import backend

    with pytest.warns(DeprecationWarning, match=r"vhost_user\.serve"):
        assert backend.serve is serve
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = backend.nothing
