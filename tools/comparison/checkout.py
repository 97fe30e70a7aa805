"""Another checkout of this project as a contender: what a change was worth, in one paired run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tools.comparison.cases import Case, Entry
from tools.comparison.contenders import ContenderError, Place

# The back-end loads the engine, wherever a commit has it.
_WHERE = "import vhost_user, vhost_user.backend as _; print(vhost_user.__file__)"


@dataclass(frozen=True, slots=True)
class Checkout:
    """A folder with this project in it, its engine built: a clone, or what ``git worktree add`` makes."""

    folder: Path

    @property
    def python(self) -> str:
        """Its own interpreter if it has one, else that of this process."""
        own = self.folder / ".venv/bin/python"
        return str(own) if own.exists() else sys.executable

    @property
    def environment(self) -> dict[str, str]:
        """What makes the interpreter import its code."""
        return {**os.environ, "PYTHONPATH": str(self.folder / "src")}

    @property
    def name(self) -> str:
        """The commit that is checked out there, or the folder's name."""
        done = subprocess.run(  # noqa: S603  # the folder that the user names
            ["git", "-C", self.folder, "describe", "--always", "--dirty"],  # noqa: S607  # as users call it
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.strip() or self.folder.name

    def check(self) -> None:
        """Raise ContenderError if its code cannot be run from here, or other code would be."""
        done = subprocess.run(  # noqa: S603  # the interpreter chosen above
            [self.python, "-c", _WHERE], env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            last = (done.stderr.strip() or "(it printed nothing)").splitlines()[-1]
            raise ContenderError(f"{self.folder} cannot be measured: {last}; run `make build` there")
        if not Path(done.stdout.strip()).is_relative_to(self.folder / "src"):
            raise ContenderError(
                f"{self.folder} is not a checkout of this project: vhost_user comes from "
                f"{done.stdout.strip()}"
            )


def _with_own_images(
    command: Callable[[Place, str], Sequence[str]], owner: str
) -> Callable[[Place, str], Sequence[str]]:
    return lambda place, path: command(replace(place, owner=f"@{owner}"), path)


def against(cases: Sequence[Case], other: Checkout) -> Iterator[Case]:
    """For each back-end of ours in each case, a case that compares it with that of ``other``."""
    names: Counter[str] = Counter()
    then = other.name
    for case in cases:
        for entry in case.entries:
            if not entry.contender.ours:
                continue
            name = f"{case.name}:{entry.contender.name}"
            names[name] += 1
            if names[name] > 1:
                name += f"-{names[name]}"
            twin = replace(
                entry.contender,
                name=f"{entry.contender.name}@{then}",
                title=f"{entry.contender.title} ({then})",
                command=_with_own_images(entry.contender.command, then),
                python=other.python,
                python_path=str(other.folder / "src"),
            )
            pair = (
                Entry(f"{entry.label}, {then}", twin, entry.load),
                Entry(entry.label, entry.contender, entry.load),
            )
            yield Case(name, f"{case.title}: against {then}", pair, case.cpus)
