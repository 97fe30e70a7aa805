"""Devices that more than one test serves."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from vhost_user import Device, Request, VhostUserBackend, VhostUserDaemon

Serve = Callable[[VhostUserBackend], socket.socket]


@contextmanager
def serving_devices() -> Iterator[Serve]:
    """A function that serves a device in this process and gives the front-end's end of its socket."""
    with ExitStack() as stack:

        def serve(device: VhostUserBackend) -> socket.socket:
            ours, theirs = socket.socketpair()
            stack.callback(ours.close)
            daemon = stack.enter_context(VhostUserDaemon("test", device))
            daemon.start_connection(theirs)
            return ours

        yield serve


class Echo(Device):
    """Writes the readable bytes into the writable ones, upside down."""

    def handle(self, request: Request) -> None:
        data = request.read()
        request.write(data[::-1][: request.writable])


class Resettable(Echo):
    """Counts how often it was reset."""

    resets = 0

    def reset(self) -> None:
        self.resets += 1


class Dice(Device, type="rng"):
    """Always a six."""

    def handle(self, request: Request) -> None:
        request.write(bytes([6]) * request.writable)


class Repeater(Device, type="rng", queues=2):
    """Writes what it reads, over and over."""

    def handle(self, request: Request) -> None:
        data = request.read() or b"."
        request.write((data * (request.writable // len(data) + 1))[: request.writable])
