"""What `serve` prints for QEMU is run, for every type of device, by the QEMU that is installed.

By hand for another QEMU: put a folder with its `qemu-system-x86_64` in front in PATH.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.programs import COMMAND, Programs, programs, run_program, serving
from vhost_user.device_types.qemu_version import PROGRAM, installed_version

pytestmark = pytest.mark.guest

STAND_INS = Path(__file__).with_name("stand_ins.py")
DICE = Path(__file__).parents[2] / "examples" / "dice.py"
TYPES = [
    line.removeprefix("class ").partition("(")[0]
    for line in STAND_INS.read_text().splitlines()
    if line.startswith("class ") and not line.startswith("class _")
]
NO_KVM = ("Could not access KVM kernel module", "failed to initialize kvm")

Serve = Callable[..., "Program"]


class Program:
    """A program that serves a device, and what it printed for QEMU."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert self.process.stdout is not None
        self.where = self.process.stdout.readline()
        self.title = self.process.stdout.readline()
        printed = ""
        while self.title.endswith(":\n") and (line := self.process.stdout.readline()):
            printed += line
            if not line.endswith("\\\n"):
                break
        shell = run_program(["sh", "-c", f"printf '%s\\0' {printed}"], check=True)
        self.arguments = shell.stdout.split("\0")[:-1] if printed else []  # as after pasting them

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts programs that serve a device, and ends them."""
    with programs() as running:

        def start(*command: str | Path) -> Program:
            return Program(running.start(command, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT))

        yield start


class Qemu:
    """QEMU with the printed arguments, and of our own only what makes it speak QMP and show no window."""

    def __init__(self, arguments: list[str], running: Programs) -> None:
        command = [PROGRAM, *arguments, "-nodefaults", "-display", "none", "-qmp", "stdio"]
        self.process = running.start(command, stdin=subprocess.PIPE)

    def execute(self, command: str) -> Any:
        """Run a QMP command; fails with QEMU's own words when it ended before."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps({"execute": command}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        for line in self.process.stdout:
            message = json.loads(line)
            if "return" in message or "error" in message:
                return message["return"]
        raise Ended(self.process.communicate()[1])


class Ended(Exception):  # noqa: N818  # named after what happened
    """QEMU ended; the text is what it said."""


def starts(arguments: list[str], chardevs: Collection[str] = ("vhost0",)) -> None:
    """QEMU starts with the arguments, the guest runs, the back-end is connected, and QEMU quits when told."""
    with programs() as running:
        qemu = Qemu(arguments, running)
        qemu.execute("qmp_capabilities")
        end = time.monotonic() + 20
        while any(
            chardev["label"] in chardevs and chardev["filename"].startswith("disconnected")
            for chardev in qemu.execute("query-chardev")
        ):
            assert time.monotonic() < end, "the back-end is not connected"
            time.sleep(0.05)
        assert qemu.execute("query-status")["status"] == "running"
        qemu.execute("quit")
        assert qemu.process.wait(20) == 0


def starts_as_far_as_it_can(arguments: list[str]) -> None:
    """`starts`, where KVM is asked for and missing: everything but KVM is right."""
    try:
        starts(arguments)
    except Ended as ended:
        if "kvm" not in arguments or not any(text in str(ended) for text in NO_KVM):
            raise
        with pytest.raises(Ended, match="requires kvm"):
            starts(["tcg" if argument == "kvm" else argument for argument in arguments])


def offered_by_qemu() -> str:
    return run_program([PROGRAM, "-device", "help"], check=True).stdout


@pytest.mark.parametrize(
    ("name", "client"),
    [
        *(pytest.param(name, False, id=f"{name}-listens") for name in TYPES),
        # QEMU waits for the connection before it starts, or goes on without: one of each kind.
        *(pytest.param(name, True, id=f"{name}-connects") for name in ("Net", "Blk", "Rng", "Scsi", "Gpio")),
    ],
)
def test_C136_the_printed_line_starts(serve: Serve, tmp_path: Path, name: str, client: bool) -> None:
    where = [f"--connect={tmp_path}/s", "--reconnect"] if client else [f"--socket-path={tmp_path}/s"]
    program = serve(COMMAND, "serve", f"{STAND_INS}:{name}", *where)
    if program.arguments:
        starts_as_far_as_it_can(program.arguments)
        return
    # No line is right only where this QEMU has neither the type's own device nor the generic one.
    own = {"Sound": "snd"}.get(name, name.lower())
    assert "there is no QEMU line" in program.title
    assert "vhost-user-test-device-pci came with 10.2" in program.title
    offered = offered_by_qemu()
    assert f'"vhost-user-{own}-pci"' not in offered
    assert '"vhost-user-test-device-pci"' not in offered


def test_the_first_example_of_the_readme_starts(serve: Serve, tmp_path: Path) -> None:
    starts(serve(sys.executable, DICE, f"--socket-path={tmp_path}/dice.sock").arguments)


def test_the_lines_of_the_page_about_iommus_start(serve: Serve, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "iommu.md").read_text()
    blocks = re.findall(r"^```text\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (shown,) = (block for block in blocks if "chardev" in block)
    program = serve(COMMAND, "serve", "blk", "--memory=1M", "--iommu", f"--socket-path={tmp_path}/s")
    memory = program.arguments[: program.arguments.index("-chardev")]
    lines = (
        shown.replace("\\\n", " ").replace("/tmp/disk.sock", f"{tmp_path}/s").replace("id=disk", "id=vhost0")
    )
    starts([*memory, *shlex.split(lines.replace("chardev=disk", "chardev=vhost0"))])


def test_a_path_that_a_shell_and_qemu_would_take_apart(serve: Serve, tmp_path: Path) -> None:
    folder = tmp_path / "a, b $c"
    folder.mkdir()
    starts(serve(COMMAND, "serve", "rng", f"--socket-path={folder}/s").arguments)


def test_the_line_is_for_the_installed_qemu_unless_another_is_named(serve: Serve, tmp_path: Path) -> None:
    version = installed_version()
    assert version is not None
    command = [COMMAND, "serve", f"{STAND_INS}:Blk", f"--socket-path={tmp_path}/s"]
    unnamed = serve(*command)
    unnamed.end()
    assert unnamed.arguments == serve(*command[:3], f"--socket-path={tmp_path}/s").arguments
    named = serve(*command[:3], f"--socket-path={tmp_path}/t", "--qemu-version=11.1")
    assert any("reconnect-ms=1000" in argument for argument in named.arguments)
    older = serve(*command[:3], f"--socket-path={tmp_path}/u", "--qemu-version=7.2.19")
    assert any("reconnect=1" in argument for argument in older.arguments)


def test_the_lines_of_a_board_start(tmp_path: Path) -> None:
    """Several devices in one guest; that of the console needs a newer QEMU, and is left out by 7.2."""
    board = Path(__file__).parents[2] / "examples" / "board_traffic_light.py"
    with serving([COMMAND, "board", board, f"--socket-dir={tmp_path}"], "the page: ", quiet=True) as said:
        printed = said.partition("QEMU's:\n")[2].partition("\nterminal:")[0].partition("\nthe page:")[0]
        arguments = shlex.split(printed.replace("\\\n", " "))
        names = [
            name for name in ("lights", "bus", "terminal") if f"socket,id={name},path={tmp_path}" in printed
        ]
        assert names[:2] == ["lights", "bus"]
        starts(arguments, names)
