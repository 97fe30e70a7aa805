"""Programs that a test starts, none of which outlives it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


class Programs:
    """Starts programs with their output in pipes, as text."""

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[str]] = []

    def start(self, command: Sequence[object], **options: Any) -> subprocess.Popen[str]:
        """Start ``command``; options are those of Popen."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(list(map(str, command)), **{**pipes, **options})
        self.started.append(process)
        return process

    def python(self, *arguments: object, **options: Any) -> subprocess.Popen[str]:
        """Start a program in the interpreter that runs the test."""
        return self.start([sys.executable, *arguments], **options)

    def end(self) -> None:
        """Kill what still runs; read what is left in the pipes, so that none stays open."""
        for process in self.started:
            process.kill()
            process.communicate()


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
