"""The command as a user runs it: in a process of its own."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import vhost_user
from tests.support.programs import programs, run_program

SOURCE = Path(vhost_user.__file__).resolve().parents[1]


def entry_point(program: str) -> str:
    """The function of ``vhost_user.cli`` behind a program."""
    return f"main{program.removeprefix('vhost-user').replace('-', '_')}"


def command_line(program: str, arguments: Sequence[str]) -> list[str]:
    """What the entry point of ``program`` does, whether the package is installed or not."""
    start = f"import sys; from vhost_user.cli import {entry_point(program)} as main; sys.exit(main())"
    return [sys.executable, "-c", start, *arguments]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(SOURCE), os.environ.get("PYTHONPATH", ""))))
    return {**os.environ, "PYTHONPATH": path, **(extra or {})}


class Server:
    """A running back-end program; ``said`` is its standard output up to the end of the greeting."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said = ""

    def wait_until_ready(self, timeout: float = 20.0) -> None:
        assert self.process.stdout is not None
        output = self.process.stdout.fileno()
        end = time.monotonic() + timeout
        # The last line of the greeting has the device for QEMU, or the descriptor that was given.
        while not (self.said.endswith("\n") and re.search(r"-device|file descriptor", self.said)):
            ready, _, _ = select.select([output], [], [], max(0.0, end - time.monotonic()))
            text = os.read(output, 4096).decode() if ready else ""
            if not text:
                self.process.kill()
                _, errors = self.process.communicate()
                pytest.fail(f"the program did not get ready; it said {self.said!r} and {errors!r}")
            self.said += text

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, float, str]:
        """Exit status, seconds it took, and standard error."""
        began = time.monotonic()
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=20)
        return self.process.returncode, time.monotonic() - began, errors


Start = Callable[..., Server]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a program to its end in an empty directory."""

    def to_its_end(program: str, *arguments: str, **keywords: Any) -> subprocess.CompletedProcess[str]:
        env = environment(keywords.pop("environment", None))
        return run_program(command_line(program, arguments), cwd=tmp_path, env=env, **keywords)

    return to_its_end


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a program that serves, and wait until it does."""
    with programs() as running:

        def start_program(program: str, *arguments: str, ready: bool = True, **keywords: Any) -> Server:
            server = Server(
                running.start(command_line(program, arguments), cwd=tmp_path, env=environment(), **keywords)
            )
            if ready:
                server.wait_until_ready()
            return server

        yield start_program


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(range(256)) * 256)
    return path
