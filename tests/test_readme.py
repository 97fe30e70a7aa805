"""What README.md and the pages of the devices show works as shown."""

from __future__ import annotations

import ast
import doctest
import os
import re
import shlex
import socket
import subprocess
import sys
from contextlib import ExitStack
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.programs import passing, run_python
from tools.comparison.program import bench_parser as comparison_parser
from vhost_user import Device, Listener, VhostUserBackend, VhostUserDaemon
from vhost_user.cli.bench import bench_parser
from vhost_user.cli.board import board_parser
from vhost_user.cli.command import command_parser, serve_parser
from vhost_user.cli.control import control_parser
from vhost_user.device_types import names
from vhost_user.devices import Blk, MemoryStorage
from vhost_user.frontend import VirtioDriver
from vhost_user.program.options import serve_options

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs" / "devices").glob("*.md")),
    ROOT / "docs" / "board.md",
    ROOT / "docs" / "control-socket.md",
    ROOT / "docs" / "errors.md",
    ROOT / "docs" / "writing-devices.md",
    ROOT / "docs" / "testing.md",
    ROOT / "docs" / "state-format.md",
    ROOT / "docs" / "recovery.md",
]
COMMANDS_ONLY = [
    ROOT / "CONTRIBUTING.md",
    ROOT / "tests" / "README.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("iommu", "migration", "systemd", "upgrade")),
    ROOT / "docs" / "benchmarks" / "README.md",
    ROOT / "docs" / "benchmarks" / "clients.md",
]
"""Pages whose Python is a part of something larger, or that have none."""
DESCRIBING = ROOT / "docs" / "describing-a-device.md"


def blocks(language: str, pages: list[Path] = PAGES) -> list[tuple[str, str]]:
    """Every block of a language: a name for the test, and the text."""
    found = []
    for page in pages:
        text = page.read_text()
        for match in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, match.start()) + 1
            found.append((f"{page.name}:{line}", match[1]))
    return found


def parameters(chosen: list[tuple[str, str]]) -> list[object]:
    return [pytest.param(text, id=name) for name, text in chosen]


def with_its_device(block: tuple[str, str], all_blocks: list[tuple[str, str]]) -> tuple[str, str]:
    """A test, after the block of its page that has the class it uses."""
    name, text = block
    page = name.partition(":")[0]
    before = [
        other
        for place, other in all_blocks
        if place.startswith(f"{page}:") and other != text
        for made in re.findall(r"^class (\w+)", other, re.MULTILINE)
        if re.search(rf"\b{made}\(", text) and not re.search(rf"import .*\b{made}\b", text)
    ]
    return name, "\n".join([*before, text])


PYTHON = blocks("python")
IN_A_GUEST = [block for block in PYTHON if "testing.guest" in block[1]]
TESTS = [
    with_its_device(block, PYTHON) for block in PYTHON if re.search(r"^def test_", block[1], re.MULTILINE)
]
TESTS_IN_A_GUEST = [block for block in TESTS if "virtio_guest" in block[1]]
UNDER_PYTEST = [block for block in TESTS if block not in TESTS_IN_A_GUEST]
ALONE = [
    block for block in PYTHON if block not in IN_A_GUEST and not any(block[1] in text for _, text in TESTS)
]
COMMANDS = [
    (f"{name} {line.split('#')[0].strip()}", line.split("#")[0].strip())
    for name, text in blocks("sh", PAGES + COMMANDS_ONLY)
    for line in text.replace("\\\n", " ").splitlines()
    if line.split("#")[0].strip()
]


# In a checkout that is not installed nothing tells pytest about the plugin.
INSTALLED = any(entry.name == "vhost-user" for entry in entry_points(group="pytest11"))
PLUGIN = [] if INSTALLED else ["-p", "vhost_user.testing.plugin"]


def execute(text: str, folder: Path) -> ModuleType:
    """Run a block in a module of its own, with ``folder`` in place of /tmp."""
    module = ModuleType("shown")
    sys.modules["shown"] = module
    try:
        exec(compile(text.replace("/tmp/", f"{folder}/"), "shown", "exec"), module.__dict__)
    finally:
        del sys.modules["shown"]
    return module


@pytest.mark.parametrize("text", parameters(ALONE))
def test_python_runs_and_its_devices_answer(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    module = execute(text, tmp_path)
    for value in list(vars(module).values()):
        if not (
            isinstance(value, type) and value.__module__ == "shown" and issubclass(value, VhostUserBackend)
        ):
            continue
        ours, theirs = socket.socketpair()
        with VhostUserDaemon("shown", value()) as daemon:
            daemon.start_connection(theirs)
            with VirtioDriver(ours, num_queues=None) as driver:
                assert driver.queue(0).request(b"\x01\0\0\0" + bytes(12) + b"abc", 1)
    for value in vars(module).values():
        if isinstance(value, Device):
            value.close()


@pytest.mark.parametrize("text", parameters(blocks("pycon")))
def test_what_is_typed_into_a_repl_answers_as_shown(text: str, tmp_path: Path) -> None:
    shown = text.replace("/tmp/", f"{tmp_path}/")
    example = doctest.DocTestParser().get_doctest(shown, {"__name__": "shown"}, "shown", None, 0)
    said: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(example, out=said.append)
    assert runner.tries > 0
    assert not runner.failures, "".join(said)


@pytest.mark.parametrize("text", parameters(UNDER_PYTEST))
def test_a_test_passes_in_an_empty_folder(text: str, tmp_path: Path) -> None:
    (tmp_path / "dice.py").write_text((ROOT / "examples" / "dice.py").read_text())
    with ExitStack() as stack:
        if (theirs := "/run/disk.sock") in text:
            daemon = stack.enter_context(VhostUserDaemon("theirs", Blk(MemoryStorage(1 << 20), num_queues=4)))
            daemon.start(stack.enter_context(Listener.bind(tmp_path / "disk.sock")))
            text = text.replace(theirs, f"{tmp_path}/disk.sock")
        program = tmp_path / "my-backend"
        program.write_text(
            f"#!/bin/sh\nexec {sys.executable} -m vhost_user.cli serve blk --memory=1M "
            '--socket-path="${1#*=}"\n'
        )
        program.chmod(0o755)
        run_shown_test(text, tmp_path)


@pytest.mark.guest
@pytest.mark.parametrize("text", parameters(TESTS_IN_A_GUEST))
def test_a_test_passes_with_a_guest(text: str, tmp_path: Path) -> None:
    (tmp_path / "dice.py").write_text((ROOT / "examples" / "dice.py").read_text())
    run_shown_test(text, tmp_path)


def run_shown_test(text: str, folder: Path) -> None:
    """What is shown as a test passes in this folder, in a pytest of its own."""
    (folder / "test_shown.py").write_text(text)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    said = passing(folder, *PLUGIN, env=environment)
    assert f"{len(re.findall('^def test_', text, re.MULTILINE))} passed" in said


@pytest.mark.guest
@pytest.mark.parametrize("text", parameters(IN_A_GUEST))
def test_python_runs_with_a_guest(text: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        for path, queues in re.findall(r'VhostUserBlk\("/tmp/([^"]*)", num_queues=(\d+)', text):
            device = Blk(MemoryStorage(64 << 20), num_queues=int(queues))
            daemon = stack.enter_context(VhostUserDaemon(path, device))
            daemon.start(stack.enter_context(Listener.bind(tmp_path / path)))
        execute(text, tmp_path)


HARDWARE = re.findall(
    r"^\| \[[^]]+\]\((examples/\w+\.py)\) \| [^|]* \| `([^`]+)` \|$",
    (ROOT / "README.md").read_text(),
    re.MULTILINE,
)
"""The examples of the table in README, each with the line that matters."""


@pytest.mark.parametrize(("example", "line"), HARDWARE)
def test_the_line_that_matters_is_in_the_example(example: str, line: str) -> None:
    text = (ROOT / example).read_text()
    assert len([each for each in text.splitlines() if each.strip()]) <= 40
    for statement in line.partition("#")[0].split(";"):
        pattern = re.escape(statement.strip()).replace("…", "(?s:.*)")
        assert re.search(pattern, text), statement


def test_the_table_of_hardware_is_read() -> None:
    assert len(HARDWARE) == 10


FRAGMENTS = [block for language in ("python", "toml") for block in blocks(language, [DESCRIBING])]


@pytest.mark.parametrize("text", parameters(FRAGMENTS))
def test_what_describes_a_device_is_that_of_the_thermometer(text: str) -> None:
    package = ROOT / "tests" / "thirdparty" / "thermometer"
    assert any(text in path.read_text() for path in package.iterdir() if path.is_file())


def test_the_device_on_the_first_screen_is_the_first_example() -> None:
    shown = ast.parse(PYTHON[0][1])
    example = ast.parse((ROOT / "examples" / "dice.py").read_text())
    example.body.pop(0)  # its docstring
    assert ast.dump(shown) == ast.dump(example)
    lines = [line for line in PYTHON[0][1].splitlines() if line.strip()]
    assert len(lines) <= 15
    readme = (ROOT / "README.md").read_text()
    assert readme.index("./demo") < readme.index("## ")


FOREIGN = {"kill", "echo", "systemctl", "dpdk-testpmd", "linux.uml"}
"""Programs on the pages that are not ours, and are not run here."""


def is_target(word: str) -> bool:
    """Something to make."""
    return re.search(rf"^{re.escape(word)}:", (ROOT / "Makefile").read_text(), re.MULTILINE) is not None


def test_a_target_that_does_not_exist_is_seen() -> None:
    assert is_target("build")
    assert not is_target("gone")


@pytest.mark.parametrize("command", parameters(COMMANDS))
def test_commands_are_understood(command: str, tmp_path: Path) -> None:
    words = shlex.split(command)
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    program = Path(words[0]).name
    if program == "vhost-user" and words[1] == "serve":
        device = words[2]
        if device.endswith(":Dice"):
            file = device.removesuffix(":Dice")
            assert (ROOT / file).is_file() or (ROOT / "examples" / file).with_suffix(".py").is_file()
        serve_options(serve_parser(device).parse_args(words[3:]))
    elif program == "vhost-user" and words[1] == "board":
        assert (ROOT / board_parser().parse_args(words[2:]).file).is_file()
    elif program == "vhost-user" and words[1] == "bench":
        bench_parser().parse_args(words[2:])
    elif program == "vhost-user" and words[1] == "systemd-units":
        inside = [word.replace("=/etc", f"={tmp_path}") for word in words[1:]]
        subprocess.run([sys.executable, "-m", "vhost_user.cli", *inside], check=True)
    elif program == "vhost-user" and words[1] == "control":
        control_parser().parse_args(words[2:])
    elif program == "vhost-user" and words[1] in ("check", "fuzz"):
        done = run_python("-m", "vhost_user.cli", words[1], "--help", check=True)
        for word in words[2:]:
            assert not word.startswith("-") or word.partition("=")[0] in done.stdout
    elif program == "vhost-user":
        command_parser().parse_args(words[1:])
    elif program.removeprefix("vhost-user-") in names():
        serve_options(serve_parser(program.removeprefix("vhost-user-"), program).parse_args(words[1:]))
    elif words[0] == "./bench":
        assert os.access(ROOT / "bench", os.X_OK)
        comparison_parser().parse_args(words[1:])
    elif words[0].startswith(("./", "tools/")):
        assert os.access(ROOT / words[0], os.X_OK)
    elif program == "make":
        assert all(map(is_target, words[1:]))
    elif program == "pytest":
        assert [word for word in words[1:] if "/" in word and not (ROOT / word).exists()] == []
    elif program == "python" and words[1] == "-m":
        assert (ROOT / f"{words[2].replace('.', '/')}.py").is_file()
    elif program in FOREIGN:
        pass
    elif program in ("truncate", "mkdir"):
        subprocess.run(words, cwd=tmp_path, check=True)
    elif program == "python3":
        assert (ROOT / words[1]).is_file()
    else:
        pytest.fail(f"nothing is known about the command {command!r}")


LINKED = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), ROOT / "tests" / "README.md"]


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target
