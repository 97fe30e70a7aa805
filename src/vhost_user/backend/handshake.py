"""Requests that negotiate.

Features, protocol features, ownership, reset, status (C022 to C034, C075, C131, C132).

What was offered and acknowledged is kept, and checked, by the protocol session.
"""

from __future__ import annotations

from vhost_user.backend.dispatch import RequestGroup
from vhost_user.engine.errors import RingSetupError
from vhost_user.protocol.errors import RequestRefused
from vhost_user.spec.features import VHOST_USER_FEATURES, DeviceStatus, VirtioFeature
from vhost_user.spec.structs import U64, VringState


class HandshakeRequests(RequestGroup):
    """One method for each message, named as the request table says: see :class:`RequestGroup`."""

    def get_features(self) -> None:
        """The session answers with what it offers (C022)."""

    def get_protocol_features(self) -> None:
        """The session answers with what it offers (C023)."""

    def set_features(self, payload: U64) -> None:
        """Acknowledged features; without bit 30 all rings are enabled (C029, C030, C062, C086)."""
        features = payload.value
        self.session.features_refused = True
        self.session.set_translating(bool(features & VirtioFeature.ACCESS_PLATFORM))
        try:
            for ring in self.session.rings:
                ring.vring.set_features(
                    packed=bool(features & VirtioFeature.RING_PACKED),
                    event_idx=bool(features & VirtioFeature.RING_EVENT_IDX),
                    in_order=bool(features & VirtioFeature.IN_ORDER),
                    notify_on_empty=bool(features & VirtioFeature.NOTIFY_ON_EMPTY),
                )
        except RingSetupError as error:
            raise RequestRefused(
                f"features {features:#x} cannot be set now: queue {error.queue}: {error.reason}", rule="C029"
            ) from error
        self.session.set_logging(bool(features & VirtioFeature.LOG_ALL))
        if not features & VirtioFeature.PROTOCOL_FEATURES:
            for ring in self.session.rings:
                ring.set_enabled(True)
        with self.session.backend.guard:
            self.session.backend.set_event_idx(bool(features & VirtioFeature.RING_EVENT_IDX))
            self.session.backend.acked_features(features & ~int(VHOST_USER_FEATURES))
        self.session.features_refused = False

    def set_protocol_features(self, payload: U64) -> None:
        """The session keeps them; nothing else depends on the moment (C025)."""

    def set_owner(self) -> None:
        """Some front-ends never send it; the second begins anew, see ``take_ownership``."""
        self.session.take_ownership()

    def reset_owner(self) -> None:
        """Deprecated: all rings are disabled, everything else survives (C033)."""
        for ring in self.session.rings:
            ring.set_enabled(False)

    def get_queue_num(self) -> U64:
        """Number of queues (C031)."""
        return U64(len(self.session.rings))

    def reset_device(self) -> None:
        """Ownership and protocol features stay (C075)."""
        self.session.reset()

    def set_status(self, payload: U64) -> None:
        """Device status: 0 resets the device, FEATURES_OK needs acceptable features (C131)."""
        status = payload.value
        if status & DeviceStatus.FEATURES_OK and self.session.features_refused:
            self.session.report.warning(
                "%s: FEATURES_OK is not accepted: the features were refused [C131]", self.session.name
            )
            status &= ~int(DeviceStatus.FEATURES_OK)
        before, self.session.status = self.session.status, status
        self.session.hold_until_driver_ok()
        if status == 0 and before:
            self.session.reset()
        with self.session.backend.guard:
            self.session.backend.set_status(status)
        if status:
            self.session.tell_if_ready()

    def get_status(self) -> U64:
        """The device status as it stands."""
        return U64(self.session.status or 0)

    def set_vring_endian(self, payload: VringState) -> None:
        """Byte order of a legacy ring: only little-endian rings are served."""
        if payload.num:
            raise RequestRefused("big-endian rings are not supported", rule="C021")
