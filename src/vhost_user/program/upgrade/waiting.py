"""What the first process of a program does after an upgrade: be there for whoever started it.

A shell, a container or another supervisor knows that process and no other. So it stays, holding nothing,
passes signals on, and ends when the last successor does, with its status. Under a manager that can be told
of another main process (sd_notify's MAINPID) it just ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
from collections.abc import MutableMapping
from pathlib import Path
from types import FrameType

PR_SET_CHILD_SUBREAPER = 36
VARIABLE = "VHOST_USER_SUCCEEDS"
"""Set for successors: the pid of the process before. They are not what a supervisor started."""
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)


def must_stay(environment: MutableMapping[str, str] = os.environ) -> bool:
    """Whether this process has to stay after an upgrade: it was started by somebody who knows no other.

    Asked once: processes that a device starts are not successors.
    """
    return environment.pop(VARIABLE, None) is None and not environment.get("NOTIFY_SOCKET")


def pass_signals_on(successor: int) -> None:
    """What comes from now on, while this process ends, is meant for the one that serves."""

    def pass_on(number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(successor, number)

    if threading.current_thread() is threading.main_thread():
        for number in PASSED_ON:
            signal.signal(number, pass_on)


def wait_for_successors() -> int:
    """Wait until no process of this program is left; the exit status of the last."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # successors of successors become ours

    def pass_on(number: int, _frame: FrameType | None) -> None:
        for child in children():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(child, number)

    before = {number: signal.signal(number, pass_on) for number in PASSED_ON}
    status = 0
    try:
        while True:
            try:
                _, ended = os.waitpid(-1, 0)
            except ChildProcessError:
                return status
            code = os.waitstatus_to_exitcode(ended)
            status = code if code >= 0 else 128 - code
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def children() -> list[int]:
    """The processes that are children of this one."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            found += [int(word) for word in (task / "children").read_text().split()]
    return found
