"""The daemon: how it is started, stopped and closed; C142."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.devices import Echo
from tests.support.front_end import until
from vhost_user import Device, Listener, Request, VhostUserDaemon
from vhost_user.protocol.errors import Disconnected
from vhost_user.protocol.listener import connect

if TYPE_CHECKING:
    from tests.backend.conftest import Stage
    from tests.support.front_end import FrontEnd


def works(front: FrontEnd) -> bool:
    return front.request(readable=b"abc", writable=3) == b"cba"


def test_stop_ends_a_connected_session_and_start_works_again(stage: Stage, tmp_path: Path) -> None:
    daemon = stage.daemon(Echo())
    with Listener.bind(tmp_path / "s") as listener:
        for _ in range(3):
            daemon.start(listener)
            front = stage.front_end(connect(tmp_path / "s"))
            front.bring_up()
            assert works(front)
            daemon.stop()
            daemon.stop()
            assert daemon.wait(10)
            with pytest.raises(Disconnected):
                front.receive()
            front.close()


def test_stop_ends_a_daemon_that_waits_for_a_connection(stage: Stage, tmp_path: Path) -> None:
    daemon = stage.daemon(Echo())
    with Listener.bind(tmp_path / "s") as listener:
        daemon.start(listener)
        assert not daemon.wait(0.01)
        daemon.stop()
        assert daemon.wait(10)


def test_a_daemon_runs_once_at_a_time(stage: Stage, tmp_path: Path) -> None:
    daemon = stage.daemon(Echo())
    with Listener.bind(tmp_path / "s") as listener:
        daemon.start(listener)
        with pytest.raises(RuntimeError, match="runs already"):
            daemon.start(listener)
        daemon.close()
        with pytest.raises(RuntimeError, match="closed"):
            daemon.start(listener)


def test_once_serves_one_front_end(stage: Stage, tmp_path: Path) -> None:
    daemon = stage.daemon(Echo())
    with Listener.bind(tmp_path / "s") as listener:
        daemon.start(listener, once=True)
        front = stage.front_end(connect(tmp_path / "s"))
        front.bring_up()
        front.close()
        assert daemon.wait(10)


def test_serve_listens_until_stop_and_removes_its_socket(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "s"
    daemon = stage.daemon(Echo())
    server = threading.Thread(target=daemon.serve, args=(path,), kwargs={"mode": 0o600})
    server.start()
    until(path.exists)
    assert path.stat().st_mode & 0o777 == 0o600
    front = stage.front_end(connect(path))
    front.bring_up()
    assert works(front)
    daemon.stop()
    server.join(10)
    assert not server.is_alive()
    assert not path.exists()


def test_C142_a_handler_that_never_returns_does_not_keep_close_from_returning(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("vhost_user.backend.draining.RESET_DRAIN", 0.05)
    monkeypatch.setattr("vhost_user.backend.daemon.CLOSE_PATIENCE", 1.0)
    inside, release = threading.Event(), threading.Event()

    class Stuck(Device):
        def handle(self, request: Request) -> None:
            inside.set()
            release.wait(10)
            request.write(b"late")

    daemon, front = stage.serve(Stuck())
    front.bring_up()
    front.post(writable=4)
    assert inside.wait(10)
    (worker,) = (thread for thread in threading.enumerate() if thread.name == "test-worker-0")
    daemon.close()
    assert worker.is_alive()
    assert "test-worker-0 does not end" in caplog.text
    release.set()
    worker.join(10)
    assert front.rings[0].used_index == 0


def test_close_calls_close_of_the_device_once() -> None:
    class Counted(Echo):
        closed = 0

        def close(self) -> None:
            self.closed += 1
            super().close()

    device = Counted()
    with VhostUserDaemon("test", device) as daemon:
        daemon.close()
    assert device.closed == 1


def test_two_daemons_live_side_by_side(stage: Stage) -> None:
    _, one = stage.serve(Echo())
    two_daemon, two = stage.serve(Echo())
    one.bring_up()
    two.bring_up()
    assert works(one)
    two_daemon.stop()
    assert two_daemon.wait(10)
    assert works(one)
