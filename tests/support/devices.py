"""Devices that more than one test serves."""

from __future__ import annotations

from vhost_user import Device, Request


class Echo(Device):
    """Writes the readable bytes into the writable ones, upside down."""

    def handle(self, request: Request) -> None:
        data = request.read()
        request.write(data[::-1][: request.writable])


class Repeater(Device, type="rng", queues=2):
    """Writes what it reads, over and over."""

    def handle(self, request: Request) -> None:
        data = request.read() or b"."
        request.write((data * (request.writable // len(data) + 1))[: request.writable])
