"""``close`` of a device: exactly once, whoever serves it and however that ends."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.support.programs import programs, run_python
from vhost_user import Device, Request, VhostUserDaemon
from vhost_user.program import ServeError, ServeOptions, run

DEVICE = """
from vhost_user import Device, serve

class Counted(Device, type="rng"):
    def __init__(self, queues: int = 1):
        self.queues = queues

    def handle(self, request):
        pass

    def close(self):
        super().close()
        print("closed", flush=True)

if __name__ == "__main__":
    serve(Counted())
"""


class Counted(Device):
    closed = 0

    def handle(self, request: Request) -> None: ...

    def close(self) -> None:
        super().close()
        self.closed += 1


@pytest.mark.parametrize("way", ["serve", "command"])
def test_a_program_closes_its_device_once(tmp_path: Path, way: str) -> None:
    (tmp_path / "counted.py").write_text(DEVICE)
    words = (
        [tmp_path / "counted.py"] if way == "serve" else ["-m", "vhost_user.cli", "serve", "counted:Counted"]
    )
    with programs() as running:
        process = running.python(
            *words,
            f"--socket-path={tmp_path / 's'}",
            cwd=tmp_path,
        )
        assert process.stdout is not None
        assert "listening" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert output.splitlines().count("closed") == 1


@pytest.mark.parametrize(
    ("options", "status"),
    [
        (["--option", "queues=0"], 1),  # no daemon can be made
        (["--socket-path=/nonexistent/socket"], 1),  # a daemon, and nowhere to listen
    ],
)
def test_the_command_closes_a_device_once_that_it_cannot_serve(
    tmp_path: Path, options: list[str], status: int
) -> None:
    (tmp_path / "counted.py").write_text(DEVICE)
    done = run_python(
        "-m",
        "vhost_user.cli",
        "serve",
        "counted:Counted",
        *[f"--socket-path={tmp_path / 's'}"] * (options[0] == "--option"),
        *options,
        cwd=tmp_path,
    )
    assert done.returncode == status, done.stderr
    assert done.stdout.splitlines().count("closed") == 1


def test_a_device_that_another_daemon_serves_is_not_closed_under_it(tmp_path: Path) -> None:
    device = Counted()
    with VhostUserDaemon("first", device):
        with pytest.raises(ServeError, match="served by daemon 'first'"):
            run(device, ServeOptions(socket_path=str(tmp_path / "s")))
        assert device.closed == 0
    assert device.closed == 1


def test_a_class_in_place_of_a_device_is_told(tmp_path: Path) -> None:
    with pytest.raises(ServeError, match=r"the daemon serves an object: Counted\(\)"):
        run(Counted, ServeOptions(socket_path=str(tmp_path / "s")))
