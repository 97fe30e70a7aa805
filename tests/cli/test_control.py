"""``vhost-user control`` and the control socket of a program."""

from __future__ import annotations

import json
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.programs import serving
from vhost_user.frontend import BlockDriver

Run = Callable[..., Any]
Start = Callable[..., Any]


@pytest.fixture
def served(start: Start, tmp_path: Path, image: Path) -> tuple[Any, str]:
    """A disk with a control socket, and the path of that."""
    server = start(
        "vhost-user",
        *("serve", "blk", f"--socket-path={tmp_path / 's'}", f"--blk-file={image}"),
        *("--num-queues=2", f"--control={tmp_path / 'c'}"),
    )
    return server, str(tmp_path / "c")


def test_help(run: Run) -> None:
    done = run("vhost-user", "control", "--help")
    assert done.returncode == 0
    for words in ("--control=PATH", "NAME=VALUE", "exit status", "queues queue=0"):
        assert words in done.stdout
    assert "control" in run("vhost-user", "--help").stdout
    assert "--control PATH" in run("vhost-user", "serve", "blk", "--help").stdout


def test_what_can_be_asked(served: tuple[Any, str], run: Run, tmp_path: Path) -> None:
    server, path = served
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
    listing = run("vhost-user", "control", path)
    assert listing.returncode == 0
    assert "queues [queue]" in listing.stdout
    with BlockDriver(str(tmp_path / "s"), num_queues=2) as disk:
        assert disk.read(0, 1) == bytes(range(256)) * 2
        status = json.loads(run("vhost-user", "control", path, "status").stdout)
        assert status["connected"]
        assert status["pid"] == server.process.pid
        assert status["rings"] == {"running": 2}
        queue = json.loads(run("vhost-user", "control", path, "queues", "queue=0").stdout)[0]
        assert queue["counters"]["requests"] == 1
        done = run("vhost-user", "control", path, "queues", "queue=1", "--compact")
        reply = json.loads(done.stdout)
        assert done.stdout.count("\n") == 1
        assert reply["ok"]
        assert reply["result"][0]["queue"] == 1
    assert server.stop()[0] == 0
    assert not Path(path).exists()


def test_stop_ends_the_program(served: tuple[Any, str], run: Run) -> None:
    server, path = served
    assert json.loads(run("vhost-user", "control", path, "stop").stdout) == {"stopping": True}
    assert server.process.wait(20) == 0
    assert not Path(path).exists()


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["nonsense"], 1, "there is no command 'nonsense'; there are help, status"),
        (["queues", "queue=one"], 1, "queue is a whole number, not 'one'"),
        (["queues", 'queue="1"'], 1, "queue is a whole number, not '1'"),
        (["queues", "one"], 2, "'one' is not NAME=VALUE"),
        (["queues", "--timeout=0"], 2, "--timeout=0 is not more than 0 seconds"),
    ],
)
def test_what_cannot_be_asked(
    served: tuple[Any, str], run: Run, arguments: list[str], status: int, words: str
) -> None:
    done = run("vhost-user", "control", served[1], *arguments)
    assert done.returncode == status
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_nobody_there(run: Run, tmp_path: Path) -> None:
    done = run("vhost-user", "control", str(tmp_path / "nothing"), "status")
    assert done.returncode == 1
    assert "a device is served with a control socket by --control=" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_socket_of_front_ends_is_not_one(start: Start, run: Run, tmp_path: Path) -> None:
    start("vhost-user", "serve", "rng", f"--socket-path={tmp_path / 's'}")
    done = run("vhost-user", "control", str(tmp_path / "s"), "status", "--timeout=5")
    assert done.returncode == 1
    assert "is it a control socket" in done.stderr


def test_after_a_kill_the_next_takes_its_place(
    served: tuple[Any, str], start: Start, run: Run, tmp_path: Path
) -> None:
    server, path = served
    server.stop(signal.SIGKILL)
    assert Path(path).exists()
    start("vhost-user", "serve", "rng", f"--socket-path={tmp_path / 's'}", f"--control={path}")
    assert json.loads(run("vhost-user", "control", path, "status").stdout)["device"] == "Rng"


def test_a_living_one_is_not_replaced(served: tuple[Any, str], run: Run, tmp_path: Path) -> None:
    done = run("vhost-user", "serve", "rng", f"--socket-path={tmp_path / 't'}", f"--control={served[1]}")
    assert done.returncode == 1
    assert f"{served[1]} is in use by a live process" in done.stderr
    assert not (tmp_path / "t").exists()
    done = run("vhost-user", "serve", "rng", f"--socket-path={tmp_path / 't'}", "--control=")
    assert done.returncode == 2
    assert "--control= is empty" in done.stderr


def test_a_program_has_commands_of_its_own(run: Run, tmp_path: Path) -> None:
    """The example of docs/control-socket.md, as it stands there."""
    page = Path(__file__).parents[2] / "docs" / "control-socket.md"
    example = page.read_text().partition("```python\n")[2].partition("```")[0]
    (tmp_path / "dice.py").write_text(example)
    command = [sys.executable, "dice.py", f"--socket-path={tmp_path / 's'}", f"--control={tmp_path / 'c'}"]
    with serving(command, "listening on", cwd=tmp_path):
        done = run("vhost-user", "control", str(tmp_path / "c"), "sides", "number=20")
        assert json.loads(done.stdout) == {"sides": 20}
        done = run("vhost-user", "control", str(tmp_path / "c"), "sides", "number=0")
        assert "there are no dice with 0 sides" in done.stderr
