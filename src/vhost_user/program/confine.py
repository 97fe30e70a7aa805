"""The moment at which a program gives up what it needs no more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from vhost_user.backend.backend import VhostUserBackend


@dataclass(frozen=True, slots=True)
class Opened:
    """What is open, and what the program still has to do, when it is confined."""

    device: VhostUserBackend
    """Its constructor has opened what it needs; so have its queues and workers, which do not run yet."""
    socket: int | None
    """The file descriptor of the socket that is listened on or connected; None with ``connect``."""
    connect: str | None
    """The path that is connected to later, again after each disconnect where the program is asked to."""
    unlink: str | None
    """The path of the socket that is removed in the end."""
    control: str | None = None
    """The path of the control socket, which is removed in the end too."""


Confine: TypeAlias = Callable[[Opened], None]
"""Confines the process. Called once, in the main thread, when everything is open that needs rights, and
before a front-end can send a byte: no worker and no control thread runs yet, so that what holds for one
thread and those it starts (Landlock, seccomp, capabilities) holds for all. What it raises ends the
program, with nothing left behind.

Threads of the device itself may be there already, if its constructor starts some.
"""


def unconfined(opened: Opened) -> None:
    """Confine nothing: the program may do what its user may do."""
    del opened
