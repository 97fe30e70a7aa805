"""What a run of ``./soak`` is given."""

from __future__ import annotations

import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

WITHOUT_GUEST = "driver"
"""How the names of the runs begin that need no guest."""
EVERY = 10.0
"""Seconds between two lines of progress where there is no terminal."""


class Course:
    """A folder, a number of rounds, and chance; tells how far it is."""

    def __init__(self, folder: Path, rounds: int, chance: random.Random) -> None:
        self.folder = folder
        self.chance = chance
        self.done = 0
        """Rounds that are over."""
        self._rounds = rounds
        self._told = time.monotonic()
        self._open_line = False

    def rounds(self) -> Iterator[int]:
        """Count them from 0; each is done when the next is asked for."""
        for number in range(self._rounds):
            yield number
            self.done = number + 1
            self._tell()

    def _tell(self) -> None:
        if sys.stdout.isatty():
            print(f"\r  {self.done} of {self._rounds}", end="", flush=True)
            self._open_line = True
        elif time.monotonic() - self._told >= EVERY:
            self._told = time.monotonic()
            print(f"  {self.done} of {self._rounds}", flush=True)

    def end_line(self) -> None:
        """What is printed next begins a line."""
        if self._open_line:
            print()
            self._open_line = False

    def remove(self) -> None:
        """Remove the folder: nothing in it is worth a look."""
        shutil.rmtree(self.folder, ignore_errors=True)


Run = Callable[[Course], str]
"""Does the rounds and says what it saw, in a line; AssertionError, or whatever else, for a finding."""
