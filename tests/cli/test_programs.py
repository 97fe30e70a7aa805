"""The back-end program conventions, for the command and for the per-type programs."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import command_line, environment
from tests.support.programs import programs
from vhost_user.device_types import find, names
from vhost_user.devices import FileStorage
from vhost_user.frontend import BlockDriver, RngDriver

Run = Callable[..., Any]
Start = Callable[..., Any]

BLK = [("vhost-user-blk", ()), ("vhost-user", ("serve", "blk"))]
RNG = [("vhost-user-rng", ()), ("vhost-user", ("serve", "rng"))]


@pytest.mark.parametrize(("program", "first"), BLK)
def test_C140_a_socket_path_is_listened_on(
    start: Start, image: Path, tmp_path: Path, program: str, first: tuple[str, ...]
) -> None:
    path = tmp_path / "disk.sock"
    server = start(program, *first, f"--socket-path={path}", f"--blk-file={image}")
    for _ in range(2):  # one front-end after the other
        with BlockDriver(path) as disk:
            assert disk.size == image.stat().st_size
            assert disk.read(1, 1) == image.read_bytes()[512:1024]
    status, _, errors = server.stop()
    assert (status, errors) == (0, "")


def test_C140_an_fd_may_be_a_connected_socket(start: Start) -> None:
    ours, theirs = socket.socketpair()
    number = str(theirs.fileno())
    server = start("vhost-user-rng", "--fd", number, "--seed=1", pass_fds=[theirs.fileno()])
    theirs.close()
    with RngDriver(ours) as rng:
        assert len(rng.read(16)) == 16
    server.process.wait(20)
    assert server.process.returncode == 0


def test_C140_an_fd_may_be_a_listening_socket(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "given.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        server = start("vhost-user-rng", "--fd", str(listener.fileno()), pass_fds=[listener.fileno()])
    for _ in range(2):
        with RngDriver(path) as rng:
            assert len(rng.read(16)) == 16
    assert server.stop()[0] == 0


@pytest.mark.parametrize(("program", "first"), RNG)
@pytest.mark.parametrize(
    "where",
    [[], ["--socket-path=a.sock", "--fd=3"], ["--socket-path=a.sock", "--connect=b.sock"]],
    ids=["none", "two", "path and connect"],
)
def test_C140_exactly_one_place_to_serve(
    run: Run, tmp_path: Path, program: str, first: tuple[str, ...], where: list[str]
) -> None:
    done = run(program, *first, *where)
    assert done.returncode == 2
    assert "exactly one of --socket-path=PATH, --fd=NUMBER and --connect=PATH" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", ["0", "250", "-1"])
def test_C140_an_fd_that_is_no_socket_is_named(run: Run, number: str) -> None:
    done = run("vhost-user-rng", f"--fd={number}", stdin=-3)
    assert done.returncode == 1
    assert f"descriptor {number}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("start_of_line", "expected"),
    [
        (["vhost-user-rng"], {"type": "rng", "features": []}),
        (["vhost-user-blk"], {"type": "block", "features": ["read-only", "blk-file"]}),
        (["vhost-user", "serve", "rng"], {"type": "rng", "features": []}),
        (["vhost-user", "serve", "blk"], {"type": "block", "features": ["read-only", "blk-file"]}),
    ],
)
@pytest.mark.parametrize(
    "rest", [[], ["--blk-file=/nowhere", "--nonsense", "--fd=x", "word"]], ids=["", "and others"]
)
def test_C141_capabilities_are_printed_and_all_else_is_ignored(
    run: Run, tmp_path: Path, start_of_line: list[str], expected: dict[str, Any], rest: list[str]
) -> None:
    done = run(*start_of_line, *rest, "--print-capabilities")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == expected
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("connected", [False, True])
def test_C142_ends_quickly_and_cleanly(start: Start, tmp_path: Path, number: int, connected: bool) -> None:
    path = tmp_path / "rng.sock"
    server = start("vhost-user-rng", f"--socket-path={path}")
    if connected:
        with RngDriver(path) as rng:
            assert rng.read(4)
            status, seconds, errors = server.stop(number)
    else:
        status, seconds, errors = server.stop(number)
    assert (status, errors) == (0, "")
    assert seconds < 5
    assert not path.exists()


def test_a_disk_past_the_page_cache_and_one_that_is_all_there(
    start: Start, image: Path, tmp_path: Path
) -> None:
    with image.open("ab") as file:
        file.truncate(1 << 20)
    for options in (("--blk-file=disk.img", "--direct", "--block-size=4096"), ("--memory=1M", "--populate")):
        path = tmp_path / f"{options[1]}.sock"
        start("vhost-user-blk", f"--socket-path={path}", *options)
        with BlockDriver(path) as disk:
            disk.write(8, b"x" * 4096)
            assert disk.read(8, 8) == b"x" * 4096


def test_SIGHUP_has_a_disk_look_at_its_image_again(start: Start, image: Path, tmp_path: Path) -> None:
    path = tmp_path / "disk.sock"
    server = start("vhost-user-blk", f"--socket-path={path}", f"--blk-file={image}")
    with BlockDriver(path) as disk:
        os.truncate(image, 1 << 20)
        server.process.send_signal(signal.SIGHUP)
        assert disk.config_changed.wait(10)
        assert disk.read_configuration().capacity == (1 << 20) // 512
        os.truncate(image, 1001)
        server.process.send_signal(signal.SIGHUP)
        assert server.process.stderr is not None
        while "1001 bytes long" not in (errors := server.process.stderr.readline()):
            assert "Traceback" not in errors
            assert errors, "it does not say that the image has a bad size"
        assert disk.read_configuration().capacity == (1 << 20) // 512
    status, _, errors = server.stop()
    assert status == 0
    assert "Traceback" not in errors


IN_TERMINAL = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGHUP, getattr(signal, sys.argv[1]))
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.mark.parametrize("ignored", [False, True], ids=["", "nohup"])
def test_SIGHUP_of_a_terminal_that_closes_ends_a_disk(image: Path, tmp_path: Path, ignored: bool) -> None:
    """As it does without us, unless the disk was started with nohup."""
    path = tmp_path / "disk.sock"
    command = command_line("vhost-user-blk", [f"--socket-path={path}", f"--blk-file={image}"])
    terminal, inside = pty.openpty()
    with programs() as running:
        process = running.python(
            "-c", IN_TERMINAL, "SIG_IGN" if ignored else "SIG_DFL", *command,
            stdin=inside, stderr=None, start_new_session=True, env=environment(),
        )  # fmt: skip
        os.close(inside)
        assert process.stdout is not None
        assert process.stdout.readline().startswith("listening")
        os.close(terminal)
        if ignored:
            with BlockDriver(path) as disk:
                os.truncate(image, 1 << 20)
                process.send_signal(signal.SIGHUP)
                assert disk.config_changed.wait(10)
                assert disk.read(0, 1)
        else:
            assert process.wait(20) == 0
            assert not path.exists()


def test_SIGHUP_ends_a_device_that_has_nothing_to_look_at(start: Start, tmp_path: Path) -> None:
    server = start("vhost-user-rng", f"--socket-path={tmp_path / 'rng.sock'}")
    assert server.stop(signal.SIGHUP)[0] == -signal.SIGHUP


def test_C142_stays_in_the_foreground_with_the_standard_descriptors(start: Start, tmp_path: Path) -> None:
    server = start("vhost-user-rng", f"--socket-path={tmp_path / 'rng.sock'}")
    folder = Path(f"/proc/{server.process.pid}")
    assert {"0", "1", "2"} <= {entry.name for entry in (folder / "fd").iterdir()}
    assert server.process.poll() is None
    parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
    assert int(parent) == os.getpid()


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        (["--blk-file=missing.img"], 1, "missing.img: no such image; make one with `truncate"),
        (["--blk-file=odd.img"], 1, "odd.img is 1000 bytes long"),
        (["--blk-file=."], 1, "is a directory"),
        ([], 2, "no disk given: add --blk-file=PATH"),
        (["--memory=1000"], 1, "multiple of 512"),
        (["--memory=lots"], 2, "'lots' is not a size"),
        (["--memory=1M", "--blk-file=odd.img"], 2, "not allowed with"),
        (["--memory=1M", "--num-queues=0"], 2, "'0' is not a whole number above 0"),
        (["--memory=1M", "--num-queues=1000"], 1, "num_queues is 1000: a block device has 1 to 256 queues"),
        (["--memory=1M", "--serial", "x" * 21], 1, "longer than the 20 bytes"),
        (["--memory=1M", "--block-size=100"], 1, "block_size is 100"),
        (["--memory=1M", "--direct"], 2, "--direct goes with --blk-file"),
        (["--blk-file=odd.img", "--populate"], 2, "--populate goes with --memory"),
        (["--memory=1M", "--virgl"], 2, "unrecognized arguments: --virgl"),
    ],
)
def test_C143_what_cannot_be_done_ends_early_with_a_reason(
    run: Run, tmp_path: Path, arguments: list[str], status: int, reason: str
) -> None:
    (tmp_path / "odd.img").write_bytes(bytes(1000))
    done = run("vhost-user-blk", "--socket-path=disk.sock", *arguments)
    assert done.returncode == status
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "disk.sock").exists()


def test_an_image_in_use_is_named_and_served_when_the_other_is_done(
    start: Start, image: Path, tmp_path: Path
) -> None:
    servers = []
    start("vhost-user-blk", f"--socket-path={tmp_path / 'a.sock'}", f"--blk-file={image}")
    with BlockDriver(tmp_path / "a.sock") as disk:
        assert disk.read(0, 1)
        # Both may be up, as the back-ends of a guest that migrates are.
        servers.append(start("vhost-user-blk", f"--socket-path={tmp_path / 'b.sock'}", f"--blk-file={image}"))
    with BlockDriver(tmp_path / "b.sock") as disk:
        assert disk.read(0, 1) == image.read_bytes()[:512]
    status, _, errors = servers[0].stop()
    assert status == 0
    assert f"{image}: another program has this image open" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    "words", [("check", "--only=C051", "--timeout=1"), ("fuzz", "--only=H05", "--timeout=1")]
)
def test_check_and_fuzz_pass_on_that_an_image_is_in_use(
    run: Run, image: Path, words: tuple[str, ...]
) -> None:
    other = FileStorage(image)
    other.activate()
    server = command_line("vhost-user-blk", ["--socket-path={socket}", f"--blk-file={image}"])
    done = run("vhost-user", *words, "--", *server)
    assert done.stderr.startswith("the back-end says: WARNING")
    assert f"{image}: another program has this image open" in done.stderr
    other.close()
    done = run("vhost-user", *words, "--", *server)
    assert "the back-end says" not in done.stderr


def test_C144_a_read_only_disk(start: Start, image: Path, tmp_path: Path) -> None:
    path = tmp_path / "disk.sock"
    content = image.read_bytes()
    start("vhost-user-blk", f"--socket-path={path}", f"--blk-file={image}", "--read-only")
    with BlockDriver(path) as disk:
        assert disk.read(0, 1) == content[:512]
        assert disk.queue(0).request([bytes([1]) + bytes(15), bytes(512)], 1) == b"\x01"
    assert image.read_bytes() == content


def test_C144_a_memory_disk_with_several_queues(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "disk.sock"
    start("vhost-user-blk", f"--socket-path={path}", "--memory=64K", "--num-queues=3", "--serial=abc")
    with BlockDriver(path, num_queues=3) as disk:
        assert disk.size == 64 << 10
        assert disk.get_id().rstrip(b"\0") == b"abc"
        disk.write(5, b"z" * 512)
        assert disk.read(5, 1) == b"z" * 512


def test_C145_json_files_lead_to_the_programs(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in names():
        (folder / f"vhost-user-{name}").write_text("#!/bin/sh\n")
        (folder / f"vhost-user-{name}").chmod(0o755)
    prefix = tmp_path / "usr"
    extra = {"PATH": f"{folder}:{os.environ['PATH']}"}
    done = run("vhost-user", "install-json", f"--prefix={prefix}", environment=extra)
    assert done.returncode == 0, done.stderr
    written = sorted((prefix / "share" / "qemu" / "vhost-user").iterdir())
    assert [path.name for path in written] == [
        f"50-vhost-user-python-{name}.json" for name in sorted(names())
    ]
    assert done.stdout.split() == [str(path) for path in written]
    for path, program in zip(written, sorted(names()), strict=True):
        content = json.loads(path.read_text())
        assert set(content) == {"description", "type", "binary"}
        assert content["type"] == find(program).capability_type
        assert Path(content["binary"]).is_absolute()
        assert Path(content["binary"]).name == f"vhost-user-{program}"
        assert os.access(content["binary"], os.X_OK)


def test_C145_without_a_prefix_the_files_are_the_users_own(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in names():
        (folder / f"vhost-user-{name}").touch(0o755)
    extra = {"PATH": f"{folder}:{os.environ['PATH']}", "XDG_CONFIG_HOME": str(tmp_path / "config")}
    done = run("vhost-user", "install-json", environment=extra)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "config" / "qemu" / "vhost-user").glob("50-*.json"))) == len(names())


def test_C145_a_folder_that_cannot_be_written_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run("vhost-user", "install-json", "--prefix=file")
    assert done.returncode == 1
    assert "cannot write to file/share/qemu/vhost-user" in done.stderr
    assert "Traceback" not in done.stderr


def test_C146_what_is_no_socket_is_left_alone(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    done = run("vhost-user-rng", f"--socket-path={path}")
    assert done.returncode == 1
    assert str(path) in done.stderr
    assert "Traceback" not in done.stderr
    assert path.read_text() == "data"


def test_C146_a_socket_in_use_is_left_alone(start: Start, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "rng.sock"
    start("vhost-user-rng", f"--socket-path={path}")
    done = run("vhost-user-rng", f"--socket-path={path}")
    assert done.returncode == 1
    assert str(path) in done.stderr
    with RngDriver(path) as rng:
        assert rng.read(4)


def test_C146_a_stale_socket_is_replaced_and_the_own_one_removed(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "rng.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    server = start("vhost-user-rng", f"--socket-path={path}", "--socket-mode=600")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert server.stop()[0] == 0
    assert not path.exists()


def test_C146_a_missing_directory_is_named(run: Run) -> None:
    done = run("vhost-user-rng", "--socket-path=/nowhere/at/all/rng.sock")
    assert done.returncode == 1
    assert "/nowhere/at/all" in done.stderr
    assert "Traceback" not in done.stderr
