"""Going on with the session of another process, as ``vhost_user.backend.handover`` wrote it down."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from vhost_user.backend import device_state
from vhost_user.backend.backchannel import BackChannel
from vhost_user.backend.handover import NEGOTIATED, STANDING, Record, UpgradeError
from vhost_user.backend.handshake import HandshakeRequests
from vhost_user.backend.inflight_requests import InflightRequests
from vhost_user.backend.memory_requests import MemoryRequests
from vhost_user.backend.ring import Ring, file_identity, hand_over
from vhost_user.protocol.fds import OwnedFds
from vhost_user.protocol.negotiation import bit_names
from vhost_user.protocol.transport import Connection
from vhost_user.spec.features import ProtocolFeature, VirtioFeature
from vhost_user.spec.structs import U64, Inflight, Log, Memory, MemoryRegion, VringAddress

if TYPE_CHECKING:
    from vhost_user.backend.backend import VhostUserBackend
    from vhost_user.backend.state import SessionState


class Inheritance:
    """What a predecessor left. Used by the control thread of the daemon that takes it over.

    ``wait`` gives the record and its descriptors, which are closed in the end. ``loaded`` is called when
    everything is in its place and no ring runs, and returns when it is ours; it raises UpgradeError when it
    stays the predecessor's. ``running`` is called when the rings run; ``failed`` with what went wrong.
    """

    def __init__(
        self,
        wait: Callable[[], tuple[Record, OwnedFds]],
        loaded: Callable[[], None],
        running: Callable[[], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._wait = wait
        self._loaded = loaded
        self._running = running
        self._failed = failed
        self._record: Record = {}
        self._fds: list[int | None] = []
        self.ours = False
        """It was handed over, whatever comes now."""

    def receive(self, *, timeout: float | None) -> Connection | None:
        """Wait for the record. The connection of its session, None if there is none."""
        self._record, owned = self._wait()
        self._fds = list(owned.take())
        session = self._record["session"]
        if session is None:
            return None
        return Connection(socket.socket(fileno=self._take(session["connection"])), timeout=timeout)

    def load_device(self, backend: VhostUserBackend) -> None:
        """Give the device its state."""
        device_state.load(backend, self._record["device"])

    def restore(self, state: SessionState, connection: Connection) -> None:
        """Put everything in its place; no ring runs yet. Raises what does not fit, in words."""
        record = self._record["session"]
        state.own_socket = file_identity(connection.fileno())
        self._negotiate(state, record["negotiation"])
        for name in STANDING:
            setattr(state, name, record["standing"][name])
        self._share_memory(state, record)
        self._open_channel(state, record["channel"])
        if state.status is not None:
            with state.backend.guard:
                state.backend.set_status(state.status)
        if len(record["rings"]) > len(state.rings):
            raise UpgradeError(
                f"the front-end was offered {len(record['rings'])} queues; now there are {len(state.rings)}"
            )
        if not state.memory.memory().regions and any(told["runs"] for told in record["rings"]):
            raise UpgradeError("rings ran, and there is no memory for them")
        for ring, told in zip(state.rings, record["rings"], strict=False):
            self._prepare(state, ring, told)
        state.hold_until_driver_ok()

    def take_up(self, state: SessionState, connection: Connection) -> None:
        """Put everything in its place, wait until it is ours, and go on.

        UpgradeError if it stays another's.
        """
        try:
            self.restore(state, connection)
            self.loaded()
        except BaseException as error:
            self.failed(error)
            raise UpgradeError(f"the session stays where it was: {error}") from error
        finally:
            self.close()
        self._go_on(state)
        self.running()

    def loaded(self) -> None:
        """Everything is in its place: wait until it is ours. UpgradeError when it stays the predecessor's."""
        self._loaded()
        self.ours = True

    def _go_on(self, state: SessionState) -> None:
        """It is ours: start the rings that ran."""
        memory = state.memory.memory()
        for ring, told in zip(state.rings, self._record["session"]["rings"], strict=False):
            if told["runs"]:
                with state.starting():
                    ring.go_on(memory, guest=state.guest_ring_addresses, event_idx=state.event_idx)
                state.ring_started(ring)
        state.quiet_down_or_wake()
        state.tell_if_ready()

    def running(self) -> None:
        """The rings run: tell the predecessor, which ends."""
        self._running()

    def failed(self, error: BaseException) -> None:
        """It came to nothing: tell the predecessor, which goes on."""
        self._failed(error)

    def close(self) -> None:
        """Close the descriptors that nobody took."""
        for place, fd in enumerate(self._fds):
            if fd is not None:
                os.close(fd)
                self._fds[place] = None

    def _take(self, place: int | None) -> int:
        fd = None if place is None else self._fds[place]
        if fd is None or place is None:
            raise UpgradeError("the record names a file descriptor that did not come with it")
        self._fds[place] = None
        return fd

    def _negotiate(self, state: SessionState, told: Record) -> None:
        negotiation = state.negotiation
        for name, offered, kind in (
            ("acked_features", negotiation.offered_features, VirtioFeature),
            ("acked_protocol_features", negotiation.offered_protocol_features, ProtocolFeature),
        ):
            if missing := told[name] & ~int(offered):
                raise UpgradeError(
                    f"the front-end negotiated {bit_names(missing, kind)}; the new version does not offer it"
                )
        for name in NEGOTIATED:
            setattr(negotiation, name, told[name])
        negotiation.shmem = ProtocolFeature(told["shmem"])
        if negotiation.features_set:
            HandshakeRequests(state).set_features(U64(negotiation.acked_features))

    def _share_memory(self, state: SessionState, record: Record) -> None:
        requests = MemoryRequests(state)
        if (log := record["log"]) is not None:
            with OwnedFds([self._take(log["fd"])]) as fds:
                requests.set_log_base(Log(log["size"], log["offset"]), fds)
            if log["notify"] is not None:
                with OwnedFds([self._take(log["notify"])]) as fds:
                    requests.set_log_fd(fds)
        regions = tuple(
            MemoryRegion(told["guest_address"], told["size"], told["user_address"], told["file_offset"])
            for told in record["memory"]
        )
        if regions:
            with OwnedFds([self._take(told["fd"]) for told in record["memory"]]) as fds:
                requests.set_mem_table(Memory(regions), fds)
        if (area := record["inflight"]) is not None:
            payload = Inflight(area["size"], area["offset"], area["queues"], area["queue_size"])
            with OwnedFds([self._take(area["fd"])]) as fds:
                InflightRequests(state).set_inflight_fd(payload, fds)

    def _open_channel(self, state: SessionState, told: Record | None) -> None:
        if told is None:
            return
        sock = socket.socket(fileno=self._take(told["fd"]))
        channel = BackChannel(sock, state.negotiation, tracer=state.tracer)
        channel.config_pending = told["config_pending"]
        state.channel = channel
        with state.backend.guard:
            state.backend.set_backend_req_fd(channel)

    def _prepare(self, state: SessionState, ring: Ring, told: Record) -> None:
        vring = ring.vring
        if told["size"] is not None:
            ring.set_size(told["size"])
        ring.set_base(told["base"])
        if told["addresses"] is not None:
            flags, descriptor, used, available, log = told["addresses"]
            ring.set_addresses(
                VringAddress(ring.index, flags, descriptor, used, available, log),
                state.memory.memory(),
                guest=state.guest_ring_addresses,
                event_idx=state.event_idx,
            )
        for name, install in (("kick", vring.set_kick), ("call", vring.set_call), ("err", vring.set_err)):
            if told[name] is not None:
                hand_over(self._take(told[name]), install, state.own_socket)
        vring.set_enabled(told["enabled"])
        ring.left_at = told["left_at"]
