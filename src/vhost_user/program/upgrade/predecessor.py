"""The side of the process that takes over: get ready, take what there is, go on."""

from __future__ import annotations

import logging
import os
import platform
import socket
import threading
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, Self

from vhost_user.backend.handover import Record, UpgradeError
from vhost_user.backend.inheritance import Inheritance
from vhost_user.program.upgrade.channel import Channel, ChannelClosedError, inherited
from vhost_user.program.upgrade.steps import step
from vhost_user.protocol.fds import OwnedFds
from vhost_user.protocol.listener import Listener

log = logging.getLogger("vhost_user.program")

VARIABLE = "VHOST_USER_UPGRADE_FD"
"""The number of the descriptor that a successor finds its predecessor at."""


class Predecessor:
    """The process that we replace.

    Made in the main thread; the rest is for the thread that serves the front-end.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._over = threading.Event()
        self.failure: BaseException | None = None
        """Why it stays the predecessor's."""
        _, hello, owned = channel.receive("hello", timeout=60)
        self.pid: int = hello["pid"]
        fds = owned.take()
        self.listeners = {name: _listener(told, fds) for name, told in hello["sockets"].items()}
        """By their names: ``device``, ``control``."""
        step("arrived")

    @classmethod
    def of(cls, environment: MutableMapping[str, str] = os.environ) -> Self | None:
        """The one that started us; None without one. Raises UpgradeError when it makes no sense."""
        number = environment.pop(VARIABLE, None)
        return None if number is None else cls(inherited(number))

    def inheritance(self) -> Inheritance:
        """What the daemon goes on with."""
        import msgpack  # noqa: F401, PLC0415 - now, and not while the guest waits

        return Inheritance(self._take, self._loaded, self._running, self._failed)

    def wait(self) -> None:
        """Wait until it is ours. UpgradeError when it stays the predecessor's, who has been told."""
        self._over.wait()
        if self.failure is not None:
            raise UpgradeError(f"process {self.pid} goes on: {self.failure}") from self.failure

    def close(self) -> None:
        """Forget it."""
        self._channel.close()

    # Called by the inheritance

    def _take(self) -> tuple[Record, OwnedFds]:
        self._channel.send("ready", {"version": _version(), "python": platform.python_version()})
        _, record, fds = self._channel.receive("take")
        step("taken")
        return record, fds

    def _loaded(self) -> None:
        step("loaded")
        try:
            self._channel.send("loaded")
            self._channel.receive("go")[2].close()
        except ChannelClosedError:
            # It does not close the channel while it lives, so it is dead, and its rings rested when it died.
            log.warning("the process %d that was to be replaced is gone; taking over all the same", self.pid)
        step("going")

    def _running(self) -> None:
        step("runs")
        try:
            self._channel.send("running")
        except UpgradeError as error:
            log.info("the process %d that was replaced is gone: %s", self.pid, error)
        self._over.set()

    def _failed(self, error: BaseException) -> None:
        self.failure = error
        try:
            self._channel.send("failed", str(error) or type(error).__name__)
        except UpgradeError:
            log.info("the process %d that was to be replaced is gone", self.pid)
        self._over.set()


def _listener(told: dict[str, Any], fds: list[int]) -> Listener:
    sock = socket.socket(fileno=fds[told["fd"]])
    file = told["file"]
    if file is None:
        return Listener(sock)
    path, device, inode = file
    return Listener(sock, path=Path(os.fsdecode(path)), identity=(device, inode))


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - only in an upgrade

    try:
        return version("vhost-user")
    except PackageNotFoundError:
        return "(not installed)"
