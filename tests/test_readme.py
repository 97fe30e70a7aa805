"""What README.md and the pages of the devices show works as shown."""

from __future__ import annotations

import ast
import doctest
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
]


def blocks(language: str) -> list[tuple[str, str]]:
    """Every block of a language: a name for the test, and the text."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, match.start()) + 1
            found.append((f"{page.name}:{line}", match[1]))
    return found


def parameters(chosen: list[tuple[str, str]]) -> list[object]:
    return [pytest.param(text, id=name) for name, text in chosen]


PYTHON = blocks("python")
IN_A_GUEST = [block for block in PYTHON if "testing.guest" in block[1]]
UNDER_PYTEST = [block for block in PYTHON if "\ndef test_" in block[1]]
ALONE = [block for block in PYTHON if block not in IN_A_GUEST + UNDER_PYTEST]
COMMANDS = [
    (f"{name} {line.split('#')[0].strip()}", line.split("#")[0].strip())
    for name, text in blocks("sh")
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
    (tmp_path / "test_shown.py").write_text(text)
    assert "1 passed" in passing(tmp_path, *PLUGIN)


@pytest.mark.guest
@pytest.mark.parametrize("text", parameters(IN_A_GUEST))
def test_python_runs_with_a_guest(text: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        for path, queues in re.findall(r'VhostUserBlk\("/tmp/([^"]*)", num_queues=(\d+)', text):
            device = Blk(MemoryStorage(64 << 20), num_queues=int(queues))
            daemon = stack.enter_context(VhostUserDaemon(path, device))
            daemon.start(stack.enter_context(Listener.bind(tmp_path / path)))
        execute(text, tmp_path)


def test_the_device_on_the_first_screen_is_the_first_example() -> None:
    shown = ast.parse(PYTHON[0][1])
    example = ast.parse((ROOT / "examples" / "dice.py").read_text())
    example.body.pop(0)  # its docstring
    assert ast.dump(shown) == ast.dump(example)
    lines = [line for line in PYTHON[0][1].splitlines() if line.strip()]
    assert len(lines) <= 15
    readme = (ROOT / "README.md").read_text()
    assert readme.index("./demo") < readme.index("## ")


@pytest.mark.parametrize("command", parameters(COMMANDS))
def test_commands_are_understood(command: str, tmp_path: Path) -> None:
    words = shlex.split(command)
    program = Path(words[0]).name
    if program == "vhost-user" and words[1] == "serve":
        device = words[2]
        if device.endswith(":Dice"):
            assert (ROOT / device.removesuffix(":Dice")).is_file() or device == "dice:Dice"
        serve_options(serve_parser(device).parse_args(words[3:]))
    elif program == "vhost-user" and words[1] == "board":
        assert (ROOT / board_parser().parse_args(words[2:]).file).is_file()
    elif program == "vhost-user" and words[1] == "bench":
        bench_parser().parse_args(words[2:])
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
    elif words[0].startswith("./"):
        assert (ROOT / words[0]).stat().st_mode & 0o111
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
