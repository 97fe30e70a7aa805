"""Programs that users write around a device: options, logs, output that nobody reads, signals, sockets."""

from __future__ import annotations

import grp
import os
import signal
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.devices import Dice
from tests.support.front_end import until
from tests.support.programs import programs
from vhost_user import Listener, SocketError, VhostUserDaemon
from vhost_user.program.serving import serve
from vhost_user.protocol.listener import connect

if TYPE_CHECKING:
    from tests.backend.conftest import Stage

DEVICE = """
import logging, os, signal, sys, threading
from vhost_user import Device, Request, VhostUserDaemon, serve

class Dice(Device, type="rng"):
    def handle(self, request: Request) -> None:
        logging.getLogger("dice").info("thrown")
        request.write(bytes([6]) * request.writable)
"""

Run = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Runs the program: its text after the device of above, its arguments."""
    # Buffered output fails a second time when the interpreter ends.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with programs() as running:

        def start(text: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
            program = tmp_path / f"program{len(running.started)}.py"
            program.write_text(DEVICE + text)
            return running.python(program, *arguments, **{"env": environment, **options})

        yield start


def connected(stage: Stage, path: Path) -> None:
    """A front-end that has one request carried out, once the program listens."""
    end = time.monotonic() + 20
    while True:
        try:
            front = stage.front_end(connect(path))
            break
        except SocketError:
            assert time.monotonic() < end
            time.sleep(0.01)
    front.bring_up()
    assert front.request(writable=4) == bytes([6]) * 4
    front.close()


def test_a_program_of_ones_own_traces(stage: Stage, run: Run, tmp_path: Path) -> None:
    process = run("serve(Dice())", f"--socket-path={tmp_path / 's'}", "--trace", "--once")
    connected(stage, tmp_path / "s")
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "GET_FEATURES" in errors
    assert "SET_VRING_KICK" in errors


@pytest.mark.parametrize(("option", "seen"), [("--verbose", True), ("--trace", True), ("--once", False)])
def test_the_authors_own_log_is_seen_with_verbose(
    stage: Stage, run: Run, tmp_path: Path, option: str, seen: bool
) -> None:
    process = run("serve(Dice())", f"--socket-path={tmp_path / 's'}", option, "--once")
    connected(stage, tmp_path / "s")
    _, errors = process.communicate(timeout=20)
    assert ("INFO dice: thrown" in errors) is seen


def test_logging_that_the_program_set_up_stays_and_trace_is_shown_by_it(
    stage: Stage, run: Run, tmp_path: Path
) -> None:
    text = "logging.basicConfig(format='mine: %(message)s')\nserve(Dice())"
    process = run(text, f"--socket-path={tmp_path / 's'}", "--trace", "--once")
    connected(stage, tmp_path / "s")
    _, errors = process.communicate(timeout=20)
    lines = errors.splitlines()
    assert any("GET_FEATURES" in line for line in lines)
    assert all(line.startswith("mine: ") for line in lines)
    assert "thrown" not in errors


def test_the_version_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        serve(Dice(), ["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("vhost-user ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--socket-path="], "--socket-path= is empty: give a path, such as --socket-path=/tmp/device.sock"),
        (["--connect="], "--connect= is empty"),
        (["--socket-path=/x", "--socket-group=nobodies"], "no group of this name here; `getent group`"),
        (["--socket-path=/x", "--socket-owner=no-body"], "no user of this name here; `getent passwd`"),
        (["--fd=3", "--socket-group=0"], "--socket-group goes with --socket-path only"),
        (["--connect=/x", "--socket-mode=600"], "--socket-mode goes with --socket-path only"),
    ],
)  # fmt: skip
def test_C143_options_that_make_no_sense_are_named(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        serve(Dice(), arguments)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def full() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def without_reader() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.parametrize("output", [full, without_reader])
def test_C142_a_hint_that_cannot_be_printed_keeps_nobody_from_serving(
    stage: Stage, run: Run, tmp_path: Path, output: Callable[[], int]
) -> None:
    fd = output()
    process = run("serve(Dice())", f"--socket-path={tmp_path / 's'}", stdout=fd)
    os.close(fd)
    connected(stage, tmp_path / "s")
    process.terminate()
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")


@pytest.mark.parametrize(
    ("prelude", "options"),
    [("sys.stdout.close()", {}), ("", {"preexec_fn": lambda: os.close(1)})],
    ids=["by the program", "by its parent"],
)
def test_C142_a_closed_standard_output_keeps_nobody_from_serving(
    stage: Stage, run: Run, tmp_path: Path, prelude: str, options: dict[str, Any]
) -> None:
    process = run(f"{prelude}\nserve(Dice())", f"--socket-path={tmp_path / 's'}", **options)
    connected(stage, tmp_path / "s")
    process.terminate()
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")


def test_a_qemu_line_of_ones_own_that_fails_keeps_nobody_from_serving(
    stage: Stage, run: Run, tmp_path: Path
) -> None:
    text = "class Own(Dice):\n    def qemu_device(self): raise ValueError('no line')\nserve(Own())"
    process = run(text, f"--socket-path={tmp_path / 's'}", "--once")
    connected(stage, tmp_path / "s")
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "there is no QEMU line: ValueError: no line" in out


DAEMON = """
with VhostUserDaemon("dice", Dice()) as daemon:
    try:
        daemon.serve(sys.argv[1])
    finally:
        print("cleaned up", flush=True)
print("went on", flush=True)
"""


@pytest.mark.parametrize("visited", [False, True])
def test_C142_sigterm_leaves_no_socket_of_a_daemon_that_serves_in_the_main_thread(
    stage: Stage, run: Run, tmp_path: Path, visited: bool
) -> None:
    path = tmp_path / "s"
    process = run(DAEMON, path)
    if visited:
        connected(stage, path)
    until(path.exists, timeout=20)
    process.terminate()
    out, errors = process.communicate(timeout=20)
    assert (process.returncode, out, errors) == (0, "cleaned up\n", "")
    assert not path.exists()


def test_C142_a_handler_of_the_programs_own_stays(stage: Stage, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "s"
    text = """
daemon = VhostUserDaemon("dice", Dice())
def own(number, frame):
    print("own", flush=True)
    daemon.stop()
signal.signal(signal.SIGTERM, own)
daemon.serve(sys.argv[1])
assert signal.getsignal(signal.SIGTERM) is own
daemon.close()
print("went on", flush=True)
"""
    process = run(text, path)
    connected(stage, path)
    process.terminate()
    out, errors = process.communicate(timeout=20)
    assert (process.returncode, out, errors) == (0, "own\nwent on\n", "")


def test_C142_after_serving_the_signal_is_as_it_was(stage: Stage, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with VhostUserDaemon("test", Dice()) as daemon:

        def visit() -> None:
            connected(stage, tmp_path / "s")
            daemon.stop()

        visitor = threading.Thread(target=visit)
        visitor.start()
        daemon.serve(tmp_path / "s")
        visitor.join()
    assert signal.getsignal(signal.SIGTERM) is before


def test_C146_a_socket_is_given_to_a_group_whose_members_may_connect(
    stage: Stage, run: Run, tmp_path: Path
) -> None:
    group = grp.getgrgid(os.getgid()) if os.getuid() else grp.getgrnam("daemon")
    process = run("serve(Dice())", f"--socket-path={tmp_path / 's'}", f"--socket-group={group.gr_name}")
    connected(stage, tmp_path / "s")
    status = (tmp_path / "s").stat()
    assert (status.st_gid, stat.S_IMODE(status.st_mode)) == (group.gr_gid, 0o660)
    process.terminate()
    process.communicate(timeout=20)


def test_C146_a_mode_that_is_asked_for_is_kept_with_a_group(tmp_path: Path) -> None:
    with Listener.bind(tmp_path / "s", group=os.getgid(), owner=os.getuid(), mode=0o600):
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600


def test_C146_a_socket_that_cannot_be_given_away_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_keywords: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(
        SocketError, match=r"cannot be given to group 7 \(Operation not permitted\): only root"
    ):
        Listener.bind(tmp_path / "s", group=7)
    assert not (tmp_path / "s").exists()


def test_what_is_not_a_socket_is_named(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with pytest.raises(TypeError, match=r"not '.*/s'; Listener\.bind\('.*/s'\) listens at a path"):
        Listener(path)  # type: ignore[arg-type]
    with VhostUserDaemon("test", Dice()) as daemon:
        with pytest.raises(TypeError, match=r"Listener\.bind"):
            daemon.start(path)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"for a path there are start_client\(\) and serve\(\)"):
            daemon.start_connection(path)  # type: ignore[arg-type]
        for pair in (socket.socketpair(), (socket.socket(socket.AF_UNIX),)):
            for each in pair:
                with each, pytest.raises(SocketError, match=r"does not listen: call its listen\(\) first"):
                    daemon.start(each)


@pytest.mark.parametrize("meet", [Listener.bind, connect])
def test_an_empty_path_is_named(meet: Callable[[str], object]) -> None:
    with pytest.raises(SocketError, match="the socket path is empty"):
        meet("")
