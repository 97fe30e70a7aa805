"""The command ``vhost-user``: help, own devices, what it prints, and how fast it is ready."""

from __future__ import annotations

import json
import os
import random
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vhost_user.device_types import names
from vhost_user.frontend import BlockDriver, RngDriver

Run = Callable[..., Any]
Start = Callable[..., Any]

EXAMPLES = Path(__file__).parents[2] / "examples"

DICE = """\
import os
import random
from vhost_user import Device, Request

class Dice(Device, type="rng"):
    def __init__(self, sides=6, name="dice", loaded=False):
        super().__init__()
        if not isinstance(loaded, bool) or not isinstance(name, str):
            raise TypeError(f"loaded is {loaded!r}, name is {name!r}")
        if not 2 <= sides <= 255:
            raise ValueError(f"dice with {sides} sides do not exist")
        self.sides = range(1, sides + 1)

    def handle(self, request: Request) -> None:
        request.write(bytes(random.choices(self.sides, k=request.writable)))

class NoDevice:
    pass
"""


@pytest.fixture
def dice(tmp_path: Path) -> Path:
    path = tmp_path / "dice_module.py"
    path.write_text(DICE)
    return path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], ["serve", "install-json", "examples:", "--blk-file=disk.img", "dice:Dice"]),
        ([], ["serve", "install-json", "examples:"]),
        (["serve", "--help"], ["rng", "blk", "module:Class"]),
        (
            ["serve", "blk", "--help"],
            ["--blk-file", "--memory", "--num-queues", "--socket-path", "examples:"],
        ),
        (["serve", "rng", "--help"], ["--source", "--seed", "--fd", "examples:"]),
        (["serve", "dice:Dice", "--help"], ["--option KEY=VALUE", "--connect", "examples:"]),
        (["install-json", "--help"], ["--prefix"]),
    ],
)
def test_help_teaches(run: Run, arguments: list[str], words: list[str]) -> None:
    done = run("vhost-user", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    for word in words:
        assert word in done.stdout


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [["--help"], ["serve", "--help"], ["serve", "rng", "--help"]])
def test_a_reader_that_has_seen_enough_is_no_failure(run: Run, words: list[str], unbuffered: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = run("vhost-user", *words, stdout=writing, environment={"PYTHONUNBUFFERED": unbuffered})
    finally:
        os.close(writing)
    assert done.stderr == ""
    assert done.returncode in {0, 141}  # argparse does not tell when it writes at once


@pytest.mark.parametrize("program", ["vhost-user", "vhost-user-rng", "vhost-user-blk"])
def test_version(run: Run, program: str) -> None:
    done = run(program, "--version")
    assert done.returncode == 0
    assert re.fullmatch(rf"{program} (\d+\.\d+\S*|\(not installed\))\n", done.stdout)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["serve"], "name the device right after `serve`"),
        (["serve", "--socket-path=x", "blk"], "name the device right after `serve`"),
        (["serve", "nothing"], f"there is no device 'nothing': use {', '.join(names())}, module:Class"),
        (["dance"], "invalid choice"),
        (["serve", "rng", "--blk-file=x"], "unrecognized arguments: --blk-file=x"),
        (["serve", "rng", "--socket-path=x", "--seed=y"], "'y' is not a whole number"),
        (["serve", "rng", "--socket-path=x", "--seed=1", "--source=y"], "not allowed with"),
    ],
)
def test_wrong_arguments_are_named(run: Run, arguments: list[str], reason: str) -> None:
    done = run("vhost-user", *arguments)
    assert done.returncode == 2
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_the_qemu_lines_to_paste_are_printed(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "disk.sock"
    server = start("vhost-user", "serve", "blk", f"--socket-path={path}", "--memory=1M", "--num-queues=4")
    assert f"listening on {path}\n" in server.said
    assert "memory-backend-memfd,id=mem,size=512M,share=on" in server.said
    assert f"-chardev socket,id=vhost0,path={path}" in server.said
    assert "-device vhost-user-blk-pci,chardev=vhost0,num-queues=4" in server.said


def test_trace_shows_every_message_in_words(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "rng.sock"
    server = start("vhost-user", "serve", "rng", f"--socket-path={path}", "--trace")
    with RngDriver(path) as rng:
        rng.read(4)
    status, _, errors = server.stop()
    assert status == 0
    for name in ("GET_FEATURES", "SET_VRING_KICK", "GET_VRING_BASE"):
        assert name in errors


def test_trace_json_writes_every_message_to_a_file(start: Start, tmp_path: Path) -> None:
    path, trace = tmp_path / "rng.sock", tmp_path / "trace"
    server = start("vhost-user", "serve", "rng", f"--socket-path={path}", f"--trace-json={trace}")
    with RngDriver(path) as rng:
        rng.read(4)
    assert server.stop()[0] == 0
    names = {json.loads(line)["message"] for line in trace.read_text().splitlines()}
    assert {"GET_FEATURES", "SET_VRING_KICK", "GET_VRING_BASE"} <= names


def test_a_trace_that_cannot_be_written_is_told_at_once(run: Run, tmp_path: Path) -> None:
    path = f"{tmp_path}/missing/trace"
    done = run("vhost-user", "serve", "rng", f"--socket-path={tmp_path}/s", f"--trace-json={path}")
    assert done.returncode != 0
    assert f"--trace-json={path}: No such file or directory" in done.stderr


def test_seed_and_source_feed_the_entropy_device(start: Start, tmp_path: Path) -> None:
    first = tmp_path / "a.sock"
    start("vhost-user", "serve", "rng", f"--socket-path={first}", "--seed=5")
    with RngDriver(first) as rng:
        assert rng.read(32) == random.Random(5).randbytes(32)
    noise, second = tmp_path / "noise", tmp_path / "b.sock"
    noise.write_bytes(b"0123456789")
    start("vhost-user", "serve", "rng", f"--socket-path={second}", f"--source={noise}")
    with RngDriver(second) as rng:
        assert rng.read(10) == b"0123456789"


def test_a_source_that_cannot_be_opened_is_named(run: Run) -> None:
    done = run("vhost-user", "serve", "rng", "--socket-path=a.sock", "--source=/nowhere/noise")
    assert done.returncode == 1
    assert "cannot open the entropy source /nowhere/noise: No such file" in done.stderr


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (os.mkfifo, "a FIFO"),
        (os.mkdir, "a directory"),
        (lambda _path: None, "No such file"),
        (None, "is empty"),
    ],
)
def test_a_source_that_may_have_no_bytes_is_named(
    run: Run, tmp_path: Path, make: Callable[[Path], None] | None, kind: str
) -> None:
    path = tmp_path / "noise"
    if make is not None:
        make(path)
    done = run("vhost-user", "serve", "rng", "--socket-path=a.sock", f"--source={path if make else ''}")
    assert done.returncode in (1, 2)
    assert kind in done.stderr
    assert str(path) in done.stderr or make is None
    assert "Traceback" not in done.stderr


def test_connect_goes_to_a_front_end_that_listens(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "vmm.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(20)
        server = start("vhost-user", "serve", "blk", f"--connect={path}", "--memory=64K")
        connection, _ = listener.accept()
    assert "server=on,wait=off" in server.said
    with BlockDriver(connection) as disk:
        assert disk.size == 64 << 10
    server.process.wait(20)
    assert server.process.returncode == 0


def test_connect_to_nobody_is_named(run: Run, tmp_path: Path) -> None:
    done = run("vhost-user", "serve", "rng", f"--connect={tmp_path / 'nobody.sock'}")
    assert done.returncode == 1
    assert "nobody.sock" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["dice_module:Dice", "dice_module.py:Dice"])
def test_a_device_of_the_current_directory(start: Start, tmp_path: Path, dice: Path, name: str) -> None:
    assert dice.exists()
    path = tmp_path / "dice.sock"
    options = ["--option", "sides=20", "--option=name=x", "--option=loaded=true"]
    server = start("vhost-user", "serve", name, f"--socket-path={path}", *options)
    assert "vhost-user-rng-pci" in server.said
    with RngDriver(path) as rng:
        thrown = set(rng.read(2000))
    assert thrown == set(range(1, 21))


def test_the_first_example_is_served_by_name(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "dice.sock"
    start("vhost-user", "serve", f"{EXAMPLES / 'dice.py'}:Dice", f"--socket-path={path}")
    with RngDriver(path) as rng:
        assert set(rng.read(1000)) == set(range(1, 7))


def test_capabilities_of_an_own_device(run: Run, dice: Path) -> None:
    assert dice.exists()
    done = run("vhost-user", "serve", "dice_module:Dice", "--print-capabilities")
    assert (done.returncode, done.stdout) == (0, '{"type": "rng", "features": []}\n')


@pytest.mark.parametrize(
    ("asked", "status", "reason"),
    [
        (("nowhere:Dice", []), 1, "there is no module 'nowhere' in"),
        (("nowhere.py:Dice", []), 1, "there is no file"),
        (("dice_module:Cube", []), 1, "module 'dice_module' has no 'Cube'; it has Dice"),
        (("dice_module:NoDevice", []), 1, "dice_module:NoDevice is not a device: derive the class from"),
        (("dice_module:random", []), 1, "is not a device"),
        (("dice_module:", []), 2, f"is not a device: use {', '.join(names())}, module:Class"),
        (("dice_module:Dice", ["--option", "colour=red"]), 2, "it takes sides, name, loaded"),
        (("dice_module:Dice", ["--option", "sides"]), 2, "write it as --option key=value"),
        (("dice_module:Dice", ["--option", "sides=1"]), 1, "ValueError: dice with 1 sides do not exist"),
        (("broken:Dice", []), 1, "SyntaxError"),
        (("needy:Dice", []), 1, "it needs the module 'no_such_library', which is not installed"),
        (("empty:Dice", []), 1, "it has no device class at all"),
    ],
)
def test_what_is_wrong_with_an_own_device_is_named(
    run: Run, dice: Path, asked: tuple[str, list[str]], status: int, reason: str
) -> None:
    folder = dice.parent
    (folder / "broken.py").write_text("def (:\n")
    (folder / "needy.py").write_text("import no_such_library\n")
    (folder / "empty.py").touch()
    name, options = asked
    done = run("vhost-user", "serve", name, "--socket-path=dice.sock", *options)
    assert done.returncode == status
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "dice.sock").exists()


def test_is_ready_soon(start: Start, tmp_path: Path) -> None:
    """A generous bound that only something like a heavy import breaks; the aim is a quarter of a second."""
    began = time.monotonic()
    start("vhost-user", "serve", "rng", f"--socket-path={tmp_path / 'rng.sock'}")
    assert time.monotonic() - began < 3
