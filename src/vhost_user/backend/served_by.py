"""What a device may ask of whoever serves it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from vhost_user.engine.device.vring import Vring
    from vhost_user.engine.device.worker import Worker


class ServedBy(Protocol):
    """What a device may ask of the daemon that serves it; :class:`VhostUserDaemon` is one.

    The daemon knows the back-end, not the other way round: a device that needs no more than this can be tried
    with any object that has it.
    """

    name: str
    """For logs and thread names."""
    vrings: tuple[Vring, ...]
    """By the index of their queue."""
    session_end_reason: str | None
    """Why the last session ended, in words; None before."""
    succeeds: bool
    """Another process serves the same device at this moment, and gives everything to this one."""

    @property
    def connected(self) -> bool:
        """Whether a front-end is connected."""

    def get_epoll_handlers(self) -> Sequence[Worker]:
        """The workers in their order; empty once the daemon was closed."""

    def statistics(self) -> dict[str, dict[str, int]]:
        """Counters of each queue and worker."""

    def check_memory(self) -> None:
        """End the session if the front-end took its memory away (C039); any thread."""

    def stop(self) -> None:
        """End the session, if any, and accept no other; any thread, does not wait."""
