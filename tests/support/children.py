"""The processes that a process has started and that have not ended."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def children(pid: int | None = None) -> list[int]:
    """Their numbers; without ``pid`` those of this process."""
    found = []
    for task in Path(f"/proc/{os.getpid() if pid is None else pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has just ended
            found += [int(child) for child in (task / "children").read_text().split()]
    return found
