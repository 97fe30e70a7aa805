"""Devices that an attack finds easy, each in one way."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import threading
import time

from vhost_user import Device, Request
from vhost_user.devices import Scmi, Sensor


class Filler(Device, type="rng", queue_size=8192):
    """Writes whatever it is given room for."""

    def handle(self, request: Request) -> None:
        request.fill(0xAA)


class Reader(Device, type="rng", queue_size=8192):
    """Reads whatever it is sent, without asking how much that is."""

    def handle(self, request: Request) -> None:
        request.read()


class Forgetful(Device, type="rng"):
    """Holds every request, keeps it in a cycle, as an exception in its frame does, and forgets it."""

    def __init__(self) -> None:
        threading.Thread(target=self._collect, daemon=True).start()

    def _collect(self) -> None:
        while True:
            time.sleep(0.05)
            gc.collect()

    def handle(self, request: Request) -> None:
        request.hold()
        cycle: list[object] = [request]
        cycle.append(cycle)


class Stubborn(Device, type="rng"):
    """Its coroutines do not end when they are cancelled."""

    def __init__(self) -> None:
        self.begun = [self.loop]  # made at its first use: there before descriptors are counted

    async def handle(self, request: Request) -> None:
        logging.getLogger("victim").info("begun with head %d", request.head)
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                continue


class Exiting(Device, type="rng"):
    """Ends the program whenever it is asked for something."""

    def handle(self, request: Request) -> None:
        raise SystemExit(request.queue)


class Masked(Filler):
    """Belongs to a program that takes its signals by sigwait: all are blocked, in every thread to come."""

    def __init__(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - {signal.SIGTERM})


class Thermometer(Scmi):
    """Has a sensor, about which there may be events."""

    def __init__(self) -> None:
        super().__init__(Sensor("cpu", value=40))
