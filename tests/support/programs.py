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
