"""Requests about vrings (C049 to C074)."""

from __future__ import annotations

from vhost_user.backend.dispatch import RequestGroup
from vhost_user.backend.in_band import CALL, ERROR
from vhost_user.backend.ring import Ring, hand_over
from vhost_user.protocol.errors import RequestRefused
from vhost_user.protocol.fds import OwnedFds
from vhost_user.spec.features import ProtocolFeature
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.structs import VringAddress, VringFd, VringState


class RingRequests(RequestGroup):
    """One method for each message, named as the request table says: see :class:`RequestGroup`.

    Indices were checked before (C069).
    """

    def set_vring_num(self, payload: VringState) -> None:
        """Size of a stopped ring (C070, C072)."""
        self.session.ring(payload.index).set_size(payload.num)

    def set_vring_addr(self, payload: VringAddress) -> None:
        """Ring addresses; may come live to switch logging (C041, C071, C072, C079)."""
        ring = self.session.ring(payload.index)
        ring.set_addresses(
            payload,
            self.session.memory.memory(),
            guest=self.session.guest_ring_addresses,
            event_idx=self.session.event_idx,
        )
        if self.session.iommu is not None:
            self.session.iommu.ring_changed(ring)

    def set_vring_base(self, payload: VringState) -> None:
        """Where a stopped ring goes on (C057, C058)."""
        ring = self.session.ring(payload.index)
        ring.set_base(payload.num)
        if ring.left_at not in {None, payload.num} and self.session.all_stopped:
            # It does not go on where it stopped: another driver, which QEMU, for most devices, tells in no
            # other way.
            self.session.driver_gone()

    def get_vring_base(self, payload: VringState) -> VringState:
        """Stop the ring, let its requests end, and tell where it is (C053 to C058)."""
        ring = self.session.ring(payload.index)
        self.session.inflight.finish_recovery(ring)
        ring.stop()
        if (
            payload.num
            and ring.vring.recovery.tracked
            and self.session.negotiation.has_protocol_feature(ProtocolFeature.GET_VRING_BASE_INFLIGHT)
        ):
            self.session.inflight.suspend(ring)
        else:
            self.session.draining.bring_to_rest(ring)
        ring.vring.set_kick(None)
        ring.vring.set_call(None)
        ring.told -= {FrontendRequest.SET_VRING_KICK, FrontendRequest.SET_VRING_CALL}
        if (bells := self.session.in_band) is not None:
            bells.forget_kick(ring.index)
            bells.forget_bell(ring.index, CALL)
        # Before the reply: after it the device must keep quiet (C076).
        self.session.quiet_down_or_wake()
        ring.left_at = ring.vring.base()
        return VringState(payload.index, ring.left_at)

    def set_vring_kick(self, payload: VringFd, fds: OwnedFds) -> None:
        """Start the ring, or give a running one another kick fd (C050, C052, C066)."""
        ring = self.session.ring(payload.index)
        before = ring.vring.started
        ring.told.add(FrontendRequest.SET_VRING_KICK)
        self._own_bells(ring)
        with self.session.starting():
            ring.set_kick(
                fds.take_one(),
                self.session.memory.memory(),
                guest=self.session.guest_ring_addresses,
                event_idx=self.session.event_idx,
                own=self.session.own_socket,
            )
        if (bells := self.session.in_band) is not None:
            bells.forget_kick(ring.index)
        self._started(ring, before=before)

    def set_vring_call(self, payload: VringFd, fds: OwnedFds) -> None:
        """Where to signal used buffers; none means that the driver polls (C052, C065)."""
        ring = self.session.ring(payload.index)
        hand_over(fds.take_one(), ring.vring.set_call, self.session.own_socket)
        ring.told.add(FrontendRequest.SET_VRING_CALL)
        if (bells := self.session.in_band) is not None:
            bells.forget_bell(ring.index, CALL)

    def set_vring_err(self, payload: VringFd, fds: OwnedFds) -> None:
        """Where to signal a broken ring (C052)."""
        ring = self.session.ring(payload.index)
        hand_over(fds.take_one(), ring.vring.set_err, self.session.own_socket)
        ring.told.add(FrontendRequest.SET_VRING_ERR)
        if (bells := self.session.in_band) is not None:
            bells.forget_bell(ring.index, ERROR)

    def set_vring_enable(self, payload: VringState) -> None:
        """Let a ring run or hold it (C061 to C064)."""
        self.session.ring(payload.index).set_enabled(bool(payload.num))
        self.session.tell_if_ready()

    def vring_kick(self, payload: VringState) -> None:
        """A kick as a message: the ring starts, or is looked at (C133).

        The ack leaves when the worker has been woken. A descriptor that SET_VRING_KICK brought stays in use.
        """
        ring, bells = self.session.ring(payload.index), self.session.in_band
        assert bells is not None  # the row needs the feature
        before = ring.vring.started
        if before and bells.kick(ring.index):
            return
        own_kick = not before and FrontendRequest.SET_VRING_KICK not in ring.told
        self._own_bells(ring)
        try:
            with self.session.starting():
                ring.start_in_band(
                    bells.kick_fd(ring.index) if own_kick else None,
                    self.session.memory.memory(),
                    guest=self.session.guest_ring_addresses,
                    event_idx=self.session.event_idx,
                )
        except RequestRefused:
            bells.forget_kick(ring.index)
            raise
        self._started(ring, before=before)

    def _own_bells(self, ring: Ring) -> None:
        """Before a ring starts: calls and errors for which there is no descriptor become messages (C133)."""
        bells = self.session.in_band
        if bells is None or ring.vring.started:
            return
        if FrontendRequest.SET_VRING_CALL not in ring.told:
            ring.vring.set_call(bells.bell_fd(ring.index, CALL))
        if FrontendRequest.SET_VRING_ERR not in ring.told:
            ring.vring.set_err(bells.bell_fd(ring.index, ERROR))

    def _started(self, ring: Ring, *, before: bool) -> None:
        if ring.starts_later:
            # Its pages are on their way (post-copy). What follows is done then: see ``PostCopy.attend``.
            return
        self.session.ring_is_up(ring, new=not before)
