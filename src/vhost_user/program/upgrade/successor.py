"""The side of the process that is replaced: start a successor, let it get ready, and hand everything over."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

from vhost_user.backend.daemon import VhostUserDaemon
from vhost_user.backend.handover import Fds, Handover, Record, SuccessorLostError, UpgradeError
from vhost_user.program.options import ServeOptions
from vhost_user.program.upgrade import waiting
from vhost_user.program.upgrade.channel import Channel, ChannelClosedError, pair
from vhost_user.program.upgrade.predecessor import VARIABLE
from vhost_user.program.upgrade.steps import step
from vhost_user.program.upgrade.waiting import FirstProcess
from vhost_user.protocol.listener import Listener

log = logging.getLogger("vhost_user.program")

START_PATIENCE = 60.0
"""Seconds that a successor has for importing and making the device."""
LOAD_PATIENCE = 15.0
"""Seconds that it has for loading, while the guest waits."""
TURN_PATIENCE = 30.0
"""Seconds until the thread that serves the front-end has its turn: it may be in a call of the device."""


def own_command(options: ServeOptions) -> list[str]:
    """What started this process: the interpreter as it is now, with the same arguments."""
    command = [sys.executable, *sys.orig_argv[1:]]
    named = options.socket_path or options.connect or any(word.startswith("--fd") for word in command)
    # Sockets that a service manager opened are named by nobody; a successor has them from us.
    return command if named else [*command, f"--fd={options.fd}"]


class Upgrades:
    """The upgrades of one program, one at a time.

    ``listeners`` are its sockets by name (``device``, ``control``), which a successor gets as well. Their
    files stay when this process closes them after an upgrade.
    """

    def __init__(
        self,
        daemon: VhostUserDaemon,
        listeners: dict[str, Listener],
        command: Sequence[str],
        first: FirstProcess,
    ) -> None:
        self._daemon = daemon
        self.first = first
        self._listeners = listeners
        self._command = list(command)
        self._one_at_a_time = threading.Lock()
        self.successor: int | None = None
        """The pid of the process that goes on, after an upgrade."""

    def upgrade(self, command: list[str] | None = None) -> dict[str, Any]:
        """Start a successor and hand everything over; this process ends afterwards.

        ``command`` starts it, by default the words that started this one. Gives its ``pid``, its ``version``
        and ``python``, and the ``pause_ms`` of the rings. UpgradeError says why everything goes on as it
        was.
        """
        if not self._one_at_a_time.acquire(blocking=False):
            raise UpgradeError("an upgrade is under way")
        try:
            if self.successor is not None:
                raise UpgradeError(f"process {self.successor} has taken over already")
            return _Attempt(self._daemon, self._listeners).made(command or self._command, self)
        finally:
            self._one_at_a_time.release()

    def try_to(self, why: str) -> None:
        """The same for a signal or a file that changed: what comes of it is logged."""
        try:
            told = self.upgrade()
        except UpgradeError as error:
            log.error("%s: no upgrade, everything goes on as it was: %s", why, error)  # noqa: TRY400
        else:
            log.info(
                "%s: process %d goes on; the rings rested for %.1f ms", why, told["pid"], told["pause_ms"]
            )


class _Attempt:
    """One successor, from its start to the end of this process or of it."""

    def __init__(self, daemon: VhostUserDaemon, listeners: dict[str, Listener]) -> None:
        self._daemon = daemon
        self._listeners = listeners
        self._channel: Channel
        self._process: subprocess.Popen[bytes]

    def made(self, command: Sequence[str], upgrades: Upgrades) -> dict[str, Any]:
        import msgpack  # noqa: F401, PLC0415 - now, and not while the guest waits

        self._upgrades = upgrades
        self._channel, theirs = pair()
        try:
            with theirs:
                self._process = self._started(command, theirs.fileno())
            about = self._until_ready()
            handover = Handover(self._give, self._commit, self.abandon)
            self._daemon.hand_over(handover)
            if not handover.wait(TURN_PATIENCE) and handover.withdraw():
                self.abandon()
                raise UpgradeError(
                    f"the thread that serves the front-end had no time for it in {TURN_PATIENCE:.0f} s"
                )
            handover.wait()
            if handover.failure is not None:
                if not isinstance(handover.failure, UpgradeError):
                    raise UpgradeError(f"{handover.failure}") from handover.failure
                raise handover.failure
        finally:
            self._channel.close()
        return {"pid": self._process.pid, **about, "pause_ms": round(handover.pause * 1000, 3)}

    def _started(self, command: Sequence[str], fd: int) -> subprocess.Popen[bytes]:
        first = self._upgrades.first.fd
        environment = {**os.environ, VARIABLE: str(fd), waiting.VARIABLE: str(first)}
        try:
            process = subprocess.Popen(command, pass_fds=[fd, first], env=environment)  # noqa: S603  # our own words
        except (OSError, ValueError) as error:
            raise UpgradeError(f"{command[0]} cannot be started: {error}") from error
        step("started")
        return process

    def _until_ready(self) -> dict[str, Any]:
        fds = Fds()
        sockets = {
            name: {"fd": fds.add(listener.fileno()), "file": _file(listener)}
            for name, listener in self._listeners.items()
        }
        try:
            self._channel.send("hello", {"pid": os.getpid(), "sockets": sockets}, fds.numbers)
            _, about, none = self._channel.receive("ready", timeout=START_PATIENCE)
            none.close()
        except ChannelClosedError:
            raise UpgradeError(f"the successor did not get ready: {self._how_it_ended()}") from None
        except UpgradeError:
            self.abandon()
            raise
        return {name: str(about[name]) for name in ("version", "python")}

    def _how_it_ended(self) -> str:
        try:
            status = self._process.wait(2)
        except subprocess.TimeoutExpired:
            self.abandon()
            return "it closed the channel"
        if status < 0:
            return f"signal {signal.Signals(-status).name} ended it"
        return f"it ended with status {status} (what it said stands above)"

    # In the thread that serves the front-end, while the rings rest

    def _give(self, record: Record, fds: Sequence[int]) -> None:
        step("resting")
        try:
            self._channel.send("take", record, fds, timeout=LOAD_PATIENCE)
            step("given")
            _, _, none = self._channel.receive("loaded", timeout=LOAD_PATIENCE)
            none.close()
        except ChannelClosedError:
            raise UpgradeError(f"the successor is gone: {self._how_it_ended()}") from None

    def _commit(self) -> None:
        self._channel.send("go", timeout=LOAD_PATIENCE)
        step("committed")
        try:
            _, _, none = self._channel.receive("running", timeout=LOAD_PATIENCE)
        except UpgradeError as error:
            raise SuccessorLostError(
                f"the successor had taken over and is gone ({error}); the front-end has to connect again"
            ) from error
        none.close()
        for listener in self._listeners.values():
            listener.leave_file()
        self._upgrades.successor = self._process.pid

    def abandon(self) -> None:
        """Make sure that there is no successor."""
        with contextlib.suppress(OSError):
            self._process.kill()
        self._process.wait()


def _file(listener: Listener) -> list[bytes | int] | None:
    """The file of a socket as plain data; a path may have bytes that are not text."""
    if listener.file is None:
        return None
    path, *identity = listener.file
    return [os.fsencode(path), *identity]
