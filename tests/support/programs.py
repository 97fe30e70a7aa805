"""Programs that a test runs to their end or starts, none of which outlives it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.front_end import until

COMMAND = Path(sys.executable).parent / "vhost-user"
PIPES: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}


def run_program(
    command: Sequence[object], *, check: bool = False, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run ``command`` to its end, with its output as text; options are those of subprocess.run."""
    options = {**PIPES, "timeout": 300, **options}
    return subprocess.run(list(map(str, command)), check=check, **options)


def run_python(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program to its end in the interpreter that runs the test."""
    return run_program([sys.executable, *arguments], **options)


def passing(folder: Path, *arguments: object, **options: Any) -> str:
    """Run pytest in ``folder``, as somebody else would: what it said. Everything has to pass."""
    done = run_python("-m", "pytest", "-q", *arguments, cwd=folder, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Programs:
    """Starts programs with their output in pipes, as text."""

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[str]] = []

    def start(self, command: Sequence[object], **options: Any) -> subprocess.Popen[str]:
        """Start ``command``; options are those of Popen."""
        process = subprocess.Popen(list(map(str, command)), **{**PIPES, **options})
        self.started.append(process)
        return process

    def python(self, *arguments: object, **options: Any) -> subprocess.Popen[str]:
        """Start a program in the interpreter that runs the test."""
        return self.start([sys.executable, *arguments], **options)

    def listening(self, path: Path, command: Sequence[object]) -> subprocess.Popen[str]:
        """Start ``command``, and wait until its socket is at ``path``."""
        process = self.start(command)

        def there() -> bool:
            assert process.poll() is None, process.communicate()
            return path.exists()

        until(there, f"a socket at {path}")
        return process

    def end(self) -> None:
        """Kill what still runs; read what is left in the pipes, so that none stays open."""
        for process in self.started:
            process.kill()
            if process.stdin is not None and process.stdin.closed:
                process.stdin = None  # communicate would flush it
            if process.stdout is None or not process.stdout.closed:
                process.communicate()
            process.wait()


@contextmanager
def programs() -> Iterator[Programs]:
    """``Programs`` that ends with the block."""
    made = Programs()
    try:
        yield made
    finally:
        made.end()


@contextmanager
def serving(command: Sequence[object], last: str, *, quiet: bool = False, **options: Any) -> Iterator[str]:
    """A program that serves: what it said, up to the line that has ``last`` in it.

    It ends with SIGTERM and has to end well, with status 0; a ``quiet`` one without a word on standard error.
    """
    with programs() as running:
        process = running.start(command, **options)
        assert process.stdout is not None
        said = ""
        while last not in said:
            line = process.stdout.readline()
            assert line, (said, *process.communicate())
            said += line
        try:
            yield said
        finally:
            process.terminate()
            _, errors = process.communicate(timeout=30)
        assert process.returncode == 0, errors
        assert not (quiet and errors), errors
