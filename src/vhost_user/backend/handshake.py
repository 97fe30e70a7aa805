"""Requests that negotiate.

Features, protocol features, ownership, reset, status (C022 to C034, C075, C131, C132).

What was offered and acknowledged is kept, and checked, by the protocol session.
"""

from __future__ import annotations

from vhost_user.backend.state import SessionState
from vhost_user.protocol.errors import RequestRefused
from vhost_user.protocol.fds import OwnedFds
from vhost_user.spec.features import VHOST_USER_FEATURES, DeviceStatus, VirtioFeature
from vhost_user.spec.structs import U64, Empty, VringState


class HandshakeRequests(SessionState):
    """One method for each message, named as the request table says."""

    def get_features(self, _payload: Empty, _fds: OwnedFds) -> None:
        """The session answers with what it offers (C022)."""

    def get_protocol_features(self, _payload: Empty, _fds: OwnedFds) -> None:
        """The session answers with what it offers (C023)."""

    def set_features(self, payload: U64, _fds: OwnedFds) -> None:
        """Acknowledged features; without bit 30 all rings are enabled (C029, C030, C062, C086)."""
        features = payload.value
        self.features_refused = True
        try:
            for ring in self.rings:
                ring.vring.set_features(
                    packed=bool(features & VirtioFeature.RING_PACKED),
                    event_idx=bool(features & VirtioFeature.RING_EVENT_IDX),
                    indirect=bool(features & VirtioFeature.RING_INDIRECT_DESC),
                    in_order=bool(features & VirtioFeature.IN_ORDER),
                    notify_on_empty=bool(features & VirtioFeature.NOTIFY_ON_EMPTY),
                )
        except (RuntimeError, ValueError) as error:
            raise RequestRefused(f"features {features:#x} cannot be set now: {error}", rule="C029") from error
        self.set_logging(bool(features & VirtioFeature.LOG_ALL))
        if not features & VirtioFeature.PROTOCOL_FEATURES:
            for ring in self.rings:
                ring.set_enabled(True)
        with self.backend.guard:
            self.backend.set_event_idx(bool(features & VirtioFeature.RING_EVENT_IDX))
            self.backend.acked_features(features & ~int(VHOST_USER_FEATURES))
        self.features_refused = False

    def set_protocol_features(self, payload: U64, _fds: OwnedFds) -> None:
        """The session keeps them; nothing else depends on the moment (C025)."""

    def set_owner(self, _payload: Empty, _fds: OwnedFds) -> None:
        """Some front-ends never send it; the second begins anew, see ``take_ownership``."""
        self.take_ownership()

    def reset_owner(self, _payload: Empty, _fds: OwnedFds) -> None:
        """Deprecated: all rings are disabled, everything else survives (C033)."""
        for ring in self.rings:
            ring.set_enabled(False)

    def get_queue_num(self, _payload: Empty, _fds: OwnedFds) -> U64:
        """Number of queues (C031)."""
        return U64(len(self.rings))

    def reset_device(self, _payload: Empty, _fds: OwnedFds) -> None:
        """Ownership and protocol features stay (C075)."""
        self.reset()

    def set_status(self, payload: U64, _fds: OwnedFds) -> None:
        """Device status: 0 resets the device, FEATURES_OK needs acceptable features (C131)."""
        status = payload.value
        if status & DeviceStatus.FEATURES_OK and self.features_refused:
            self.report.warning(
                "%s: FEATURES_OK is not accepted: the features were refused [C131]", self.name
            )
            status &= ~int(DeviceStatus.FEATURES_OK)
        before, self.status = self.status, status
        self.hold_until_driver_ok()
        if status == 0 and before:
            self.reset()
        with self.backend.guard:
            self.backend.set_status(status)
        if status:
            self.tell_if_ready()

    def get_status(self, _payload: Empty, _fds: OwnedFds) -> U64:
        """The device status as it stands."""
        return U64(self.status or 0)

    def set_vring_endian(self, payload: VringState, _fds: OwnedFds) -> None:
        """Byte order of a legacy ring: only little-endian rings are served."""
        if payload.num:
            raise RequestRefused("big-endian rings are not supported", rule="C021")
