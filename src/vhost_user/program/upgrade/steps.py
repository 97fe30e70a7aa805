"""Where an upgrade can be stopped, so that tests kill either process at each step of it."""

from __future__ import annotations

import os
import time
from pathlib import Path

VARIABLE = "VHOST_USER_UPGRADE_STEPS"
"""A folder:

a process that comes to step S writes its pid to ``S.pid`` and waits while there is a file ``S.stop``.
"""

PREDECESSOR = ("started", "resting", "given", "committed")
SUCCESSOR = ("arrived", "taken", "loaded", "going", "runs")
"""In the order in which they are reached; ``ready`` of the successor lies before ``resting``."""


def step(name: str) -> None:
    """Say that a step has been reached, and wait there if asked to. Does nothing without the variable."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        return
    (Path(folder) / f"{name}.pid").write_text(str(os.getpid()))
    while (Path(folder) / f"{name}.stop").exists():
        time.sleep(0.005)
