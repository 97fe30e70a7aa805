"""What asks for an upgrade: SIGUSR2, the control socket, and with ``--reload`` a file that changed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from vhost_user.backend.daemon import VhostUserDaemon
from vhost_user.backend.handover import UpgradeError
from vhost_user.program.control.commands import CommandFailed, Commands
from vhost_user.program.upgrade.successor import Upgrades
from vhost_user.program.upgrade.watching import Watch


@contextmanager
def upgrading(
    upgrades: Upgrades, daemon: VhostUserDaemon, commands: Commands, *, reload: bool
) -> Iterator[Callable[[], None]]:
    """While in the block upgrades can be asked for; what is yielded carries out what a signal or a file asks.

    Adds the command ``upgrade``. SIGUSR2 is left alone in threads other than the main one, and where the
    program has a handler for it.
    """

    def command(command: list[str] | None = None) -> dict[str, Any]:
        if command is not None and not all(isinstance(word, str) for word in command):
            raise CommandFailed("upgrade: command is a list of strings")
        try:
            return upgrades.upgrade(command)
        except UpgradeError as error:
            raise CommandFailed(f"no upgrade, everything goes on as it was: {error}") from error

    commands.add("upgrade", command, "go on in a new process, with the code as it is now", long=True)
    watch = Watch(daemon.backend) if reload else None
    asked = threading.Event()

    def arrived(_number: int, _frame: FrameType | None) -> None:
        asked.set()

    def look() -> None:
        if asked.is_set():
            asked.clear()
            upgrades.try_to("SIGUSR2")
        elif watch is not None and (name := watch.changed()) is not None:
            upgrades.try_to(f"{name} has changed")

    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL
    )
    if ours:
        signal.signal(signal.SIGUSR2, arrived)
    try:
        yield look
    finally:
        successor = upgrades.successor
        if ours and successor is None:
            signal.signal(signal.SIGUSR2, signal.SIG_DFL)
        elif ours and successor is not None:
            upgrades.first.passes_on(signal.SIGUSR2, successor)
            if asked.is_set():  # it came too late for this process
                os.kill(successor, signal.SIGUSR2)
