"""``vhost-user systemd-units``: units that systemd takes, and a program that starts as they say."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Callable
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import pytest

from tests.support.programs import programs, run_program
from vhost_user.cli.systemd_units import units_of
from vhost_user.device_types import names
from vhost_user.frontend import BlockDriver

Run = Callable[..., Any]

DICE = """\
from vhost_user import Device, Request

class Dice(Device, type="rng"):
    def handle(self, request: Request) -> None:
        request.write(bytes([6]) * request.writable)
"""


def verified(folder: Path) -> str:
    """What systemd says about the units there, as instances."""
    for unit in list(folder.glob("*@.*")):
        shutil.copy(unit, unit.with_name(unit.name.replace("@", "@one")))
    tool = shutil.which("systemd-analyze")
    assert tool is not None, "tools/bootstrap brings it"
    done = run_program(
        [tool, "verify", "--man=no", *map(str, sorted(folder.glob("*@one.*")))],
        env={**os.environ, "SYSTEMD_LOG_COLOR": "0"},
    )
    said = (done.stdout + done.stderr).splitlines()
    # What is wrong with the units of this machine is not ours.
    return "\n".join(line for line in said if str(folder) in line or "vhost-user" in line)


@pytest.mark.parametrize("device", [*names(), "dice.py:Dice"])
@pytest.mark.parametrize("user", [False, True])
def test_systemd_takes_them(run: Run, tmp_path: Path, device: str, user: bool) -> None:
    if device in names() and shutil.which(f"vhost-user-{device}") is None:
        device = "blk"  # only described: it has no program
    (tmp_path / "dice.py").write_text(DICE)
    folder = tmp_path / "units"
    arguments = ["--user"] if user else []
    done = run("vhost-user", "systemd-units", device, f"--directory={folder}", *arguments)
    assert done.returncode == 0, done.stderr
    assert [Path(line).exists() for line in done.stdout.splitlines()] == [True, True]
    assert verified(folder) == ""


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("Type=notify", "Type=notfy"),
        ("ExecStart=/", "ExecStart=/nowhere/"),
        ("LimitNOFILE=65536", "LimitNOFILE=many"),
    ],
)
def test_systemd_would_say_what_is_wrong(run: Run, tmp_path: Path, right: str, wrong: str) -> None:
    run("vhost-user", "systemd-units", "blk", f"--directory={tmp_path / 'units'}")
    service = tmp_path / "units" / "vhost-user-blk@.service"
    text = service.read_text()
    assert right in text
    service.write_text(text.replace(right, wrong))
    assert verified(tmp_path / "units")


def unit(text: str) -> RawConfigParser:
    parser = RawConfigParser(delimiters=("=",), comment_prefixes=("#",), strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(text)
    return parser


def test_a_disk_as_the_units_start_it(run: Run, tmp_path: Path, image: Path) -> None:
    """What ListenStream and ExecStart say, carried out by systemd's own systemd-socket-activate."""
    units = {name.rpartition(".")[2]: unit(text) for name, text in units_of("blk").items()}

    def expanded(text: str) -> str:
        return text.replace("%i", "disk1").replace("%t", str(tmp_path))

    socket = Path(expanded(units["socket"]["Socket"]["ListenStream"]))
    socket.parent.mkdir(parents=True)
    runtime = tmp_path / expanded(units["service"]["Service"]["RuntimeDirectory"])
    runtime.mkdir(parents=True, mode=int(units["service"]["Service"]["RuntimeDirectoryMode"], 8))
    command = expanded(units["service"]["Service"]["ExecStart"])
    assert command.endswith(" $OPTIONS")
    command = command.removesuffix("$OPTIONS") + f"--blk-file={image}"
    activate = ["-l", socket, f"--fdname={units['socket']['Socket']['FileDescriptorName']}"]
    with programs() as running:
        process = running.listening(socket, ["systemd-socket-activate", *activate, *shlex.split(command)])
        with BlockDriver(str(socket)) as disk:
            assert disk.read(0, 1) == bytes(range(256)) * 2
        done = run("vhost-user", "control", str(runtime / "control"), "status")
        assert json.loads(done.stdout)["device"] == "Blk"
        process.terminate()
        assert process.wait(20) == 0


def test_they_are_shown_without_a_directory(run: Run) -> None:
    done = run("vhost-user", "systemd-units", "rng")
    assert done.returncode == 0
    assert done.stdout.startswith("# vhost-user-rng@.socket\n[Unit]\n")
    assert "# vhost-user-rng@.service\n[Unit]\n" in done.stdout


def test_words_that_mean_something_to_systemd(tmp_path: Path) -> None:
    path = tmp_path / '50% of "it" for $HOME.py'
    (service,) = [text for name, text in units_of(f"{path}:Dice").items() if name.endswith(".service")]
    line = next(line for line in service.splitlines() if line.startswith("ExecStart="))
    assert f'serve "{tmp_path}/50%% of \\"it\\" for $$HOME.py:Dice" --control=' in line


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["toaster"], 2, "there is no device 'toaster': use "),
        (["dice.py:"], 2, "'' is not the name of a class"),
        (["dice.py:a/b"], 2, "'a/b' is not the name of a class"),
        (["blk", "--directory=/proc/nowhere"], 1, "cannot write to /proc/nowhere"),
    ],
)
def test_what_cannot_be_written(run: Run, arguments: list[str], status: int, words: str) -> None:
    done = run("vhost-user", "systemd-units", *arguments)
    assert done.returncode == status
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_help(run: Run) -> None:
    done = run("vhost-user", "systemd-units", "--help")
    assert done.returncode == 0
    assert "systemctl enable --now vhost-user-blk@disk1.socket" in done.stdout
