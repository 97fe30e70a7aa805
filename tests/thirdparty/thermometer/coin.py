"""A device of another package that brings no description: its class says enough."""

from __future__ import annotations

from vhost_user import Device, Request


class Coin(Device, type="rng"):
    """A coin, thrown for the guest.

    Args:
        sides: what it shows, in turn.
    """

    def __init__(self, sides: str = "ht") -> None:
        self._sides = sides.encode()

    def handle(self, request: Request) -> None:
        request.write((self._sides * request.writable)[: request.writable])
