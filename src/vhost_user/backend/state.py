"""What one session knows: negotiated features, memory, rings, back channel.

The request handlers stand on it.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vhost_user.engine.memory import Bitmap, GuestMemory
from vhost_user.spec.features import DeviceStatus, ProtocolFeature, VirtioFeature

if TYPE_CHECKING:
    from vhost_user.backend.backchannel import Backend
    from vhost_user.backend.backend import VhostUserBackend
    from vhost_user.backend.ring import Ring
    from vhost_user.engine.memory import GuestMemoryAtomic
    from vhost_user.protocol.negotiation import Negotiation
    from vhost_user.spec.structs import Payload

log = logging.getLogger("vhost_user.backend")

DRAIN_SLICE = 0.05
"""Seconds between two looks at the connection while requests are waited for."""
DRAIN_WARNING = 5.0
"""Seconds between two warnings about requests that do not end (H92)."""
RESET_DRAIN = 1.0
"""Seconds that a reset or a disconnect waits for requests before it gives them up."""


class SessionEnded(Exception):  # noqa: N818  # not an error: the front-end left or somebody called stop()
    """The session ends while a message is carried out: no reply, straight to the teardown."""


@dataclass(frozen=True, slots=True)
class FdReply:
    """A reply with a file descriptor, which is closed once it is sent."""

    payload: Payload | None
    fd: int


class SessionState:
    """Shared by the request handlers of one session, and used by its control thread only.

    ``interrupted`` tells whether the session is to end at once: the peer has gone, or ``stop`` was called.
    """

    def __init__(  # noqa: PLR0917  # they are what a session is made of
        self,
        name: str,
        backend: VhostUserBackend,
        rings: Sequence[Ring],
        memory: GuestMemoryAtomic,
        negotiation: Negotiation,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.name = name
        self.backend = backend
        self.rings = rings
        self.memory = memory
        self.negotiation = negotiation
        self.interrupted = interrupted
        self.bitmap = Bitmap()
        self.features_refused = False
        """The last SET_FEATURES was refused, by the session or by the device (C131)."""
        self.status: int | None = None
        self.channel: Backend | None = None
        self.allow_remote_memory = False
        """Memory may lie on a network or user-space file system."""
        self.own_socket: tuple[int, int] | None = None
        """Device and inode of the session's connection, once it is served: no doorbell (H89)."""
        self._snapshots: weakref.WeakSet[GuestMemory] = weakref.WeakSet()
        """Every table of this session that somebody may still hold, a request for example."""
        self._install(GuestMemory((), self.bitmap))

    @property
    def event_idx(self) -> bool:
        """VIRTIO_RING_F_EVENT_IDX is in force."""
        return self.negotiation.has_feature(VirtioFeature.RING_EVENT_IDX)

    @property
    def guest_ring_addresses(self) -> bool:
        """SET_VRING_ADDR carries guest addresses (C046)."""
        return self.negotiation.has_protocol_feature(ProtocolFeature.GPA_ADDRESSES)

    @property
    def suspended(self) -> bool:
        """All rings are stopped: the device must keep quiet (C076)."""
        return not any(ring.vring.started for ring in self.rings)

    def ring(self, index: int) -> Ring:
        """The ring of a message; the dispatcher has checked the index (C069)."""
        return self.rings[index]

    def set_memory(self, memory: GuestMemory) -> None:
        """Install a snapshot: in the cell, in the rings, in the back-end."""
        self._install(memory)
        for ring in self.rings:
            ring.memory_changed(memory, guest=self.guest_ring_addresses, event_idx=self.event_idx)
        with self.backend.guard:
            self.backend.update_memory(self.memory)

    def _install(self, memory: GuestMemory) -> None:
        self._snapshots.add(memory)
        self.memory.replace(memory)

    def quiet_down_or_wake(self) -> None:
        """Tell the back channel whether it may send (C076, C130)."""
        if self.channel is not None:
            self.channel.set_suspended(self.suspended)

    def hold_until_driver_ok(self) -> None:
        """With a front-end that tells the driver's progress nothing is consumed before DRIVER_OK (C132).

        QEMU sets FEATURES_OK alone for every device and, for those of its generic kind (rng, gpio, …), never
        anything else; only one that says DRIVER is about to say DRIVER_OK.
        """
        status = self.status or 0
        held = bool(status & DeviceStatus.DRIVER) and not status & DeviceStatus.DRIVER_OK
        for ring in self.rings:
            ring.set_suspended(held)

    def drain(self, ring: Ring, *, patience: float | None = None) -> None:
        """Wait until no request of ``ring`` is in flight (C054), at most ``patience`` seconds.

        Then they are given up.

        Warns every few seconds (H92). Raises SessionEnded, with the requests given up, when the session is to
        end.
        """
        began = warned = time.monotonic()
        while not ring.vring.drain(DRAIN_SLICE):
            now = time.monotonic()
            if patience is not None and now - began >= patience:
                log.warning(
                    "%s: queue %d: %d requests did not end and are given up",
                    self.name,
                    ring.index,
                    ring.vring.in_flight,
                )
                ring.vring.abandon()
                return
            if self.interrupted():
                in_flight = ring.vring.in_flight
                ring.vring.abandon()
                raise SessionEnded(f"{in_flight} requests of queue {ring.index} had not ended")
            if now - warned >= DRAIN_WARNING:
                warned = now
                log.warning(
                    "%s: queue %d cannot stop before its %d requests end (heads %s), for %.0f s now [H92]",
                    self.name, ring.index, ring.vring.in_flight,
                    ", ".join(map(str, ring.vring.heads_in_flight()[:16])), now - began,
                )  # fmt: skip

    def reset(self) -> None:
        """RESET_DEVICE and SET_STATUS 0: rings disabled, requests over, the device as new.

        The rest stays (C075, C131).
        """
        for ring in self.rings:
            ring.set_enabled(False)
        for ring in self.rings:
            self.drain(ring, patience=RESET_DRAIN)
        self.features_refused = False
        with self.backend.guard:
            self.backend.reset_device()

    def end(self) -> None:
        """Undo everything of this session, in order (C134). Called once, whatever ended it."""
        for ring in self.rings:
            ring.stop()
        patience = time.monotonic() + RESET_DRAIN
        for ring in self.rings:
            if not ring.vring.drain(max(0.0, patience - time.monotonic())):
                log.warning(
                    "%s: queue %d: %d requests in flight are dropped",
                    self.name,
                    ring.index,
                    ring.vring.in_flight,
                )
            ring.vring.abandon()
        if self.channel is not None:
            self.channel.close()
            self.channel = None
        for ring in self.rings:
            ring.forget()
        # A device may keep requests of tables that were replaced long ago: their mappings go too.
        for memory in list(self._snapshots):
            memory.close()
        self.memory.replace(GuestMemory())
        self.bitmap.enabled = False
        self.bitmap.unmap()
        self.bitmap.set_notify(None)
        with self.backend.guard:
            self.backend.session_ended()
