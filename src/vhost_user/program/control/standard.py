"""The commands that every served device has."""

from __future__ import annotations

import functools
import os
import platform
import time
from collections.abc import Callable
from typing import Any

from vhost_user.backend import Device, report
from vhost_user.backend.daemon import VhostUserDaemon
from vhost_user.program.control.commands import CommandFailed, Commands


def add_standard(commands: Commands, daemon: VhostUserDaemon, stop: Callable[[], None]) -> None:
    """Add what can be said of any daemon, and ``stop``, which ends the program as SIGTERM does."""
    began = time.monotonic()

    def status() -> dict[str, Any]:
        about: dict[str, Any] = {
            "pid": os.getpid(),
            "version": _version(),
            "python": platform.python_version(),
            "uptime_seconds": round(time.monotonic() - began, 3),
        }
        return about | report.status(daemon)

    def queues(queue: int | None = None) -> list[dict[str, Any]]:
        found = report.queues(daemon)
        if queue is None:
            return found
        if not 0 <= queue < len(found):
            raise CommandFailed(f"there is no queue {queue}: there are {len(found)}, from 0 on")
        return [found[queue]]

    def stop_program() -> dict[str, bool]:
        stop()
        return {"stopping": True}

    commands.add("status", status, "who is served, by what, and how it goes")
    commands.add("queues", queues, "each queue: state of its ring, worker, requests in flight, counters")
    commands.add("workers", functools.partial(report.workers, daemon), "each worker: queues and counters")
    commands.add("counters", daemon.statistics, "all counters of queues and workers")
    commands.add("features", functools.partial(report.features, daemon), "what was offered and acknowledged")
    commands.add("session", functools.partial(report.session, daemon), "the front-end and its memory")
    commands.add("stop", stop_program, "end the program, as SIGTERM does")


def add_of_device(commands: Commands, device: object) -> None:
    """Add what the device itself has, as far as the program has no command of that name."""
    for name, function, summary in device.control_commands() if isinstance(device, Device) else ():
        if name not in {command.name for command in commands}:
            commands.add(name, _answering(function), summary)


def _answering(function: Callable[..., object]) -> Callable[..., object]:
    @functools.wraps(function)
    def answer(**given: Any) -> object:
        try:
            return function(**given)
        except ValueError as error:
            raise CommandFailed(str(error)) from error

    return answer


@functools.cache
def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415  # takes longer than all the rest

    try:
        return version("vhost-user")
    except PackageNotFoundError:
        return "(not installed)"
