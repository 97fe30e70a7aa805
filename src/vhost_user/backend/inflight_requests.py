"""Requests about the area that tracks what is in flight (C106, C107, C116)."""

from __future__ import annotations

from vhost_user.backend.dispatch import FdReply, RequestGroup
from vhost_user.backend.refusal import refusal_of
from vhost_user.engine.device.inflight import InflightArea, make_area_file
from vhost_user.engine.device.request import Request
from vhost_user.engine.errors import MemoryTableError
from vhost_user.protocol.errors import RequestRefused
from vhost_user.protocol.fds import OwnedFds
from vhost_user.spec.features import VirtioFeature
from vhost_user.spec.structs import Inflight


class InflightRequests(RequestGroup):
    """One method for each message, named as the request table says: see :class:`RequestGroup`."""

    def get_inflight_fd(self, payload: Inflight) -> FdReply:
        """Make an area for the front-end to keep; nothing of it stays here (C106, H08)."""
        self._check(payload, "C106")
        negotiation = self.session.negotiation
        features = negotiation.acked_features if negotiation.features_set else negotiation.offered_features
        # The layout is the ring's; before SET_FEATURES there is room for either.
        packed = bool(features & VirtioFeature.RING_PACKED)
        try:
            fd, size = make_area_file(payload.num_queues, payload.queue_size, packed=packed)
        except OSError as error:
            raise RequestRefused(f"no memory for the area: {error.strerror}", rule="C106") from error
        return FdReply(Inflight(size, 0, payload.num_queues, payload.queue_size), fd)

    def set_inflight_fd(self, payload: Inflight, fds: OwnedFds) -> None:
        """Track in this area from the next start of each ring on, after what was in flight there (C107)."""
        self._check(payload, "C107")
        if not self.session.all_stopped:
            running = next(ring.index for ring in self.session.rings if ring.vring.started)
            raise RequestRefused(f"queue {running} runs: the area comes before rings start", rule="C107")
        fd = fds.first
        assert fd is not None  # the session has counted them; the request closes it
        try:
            area = InflightArea(
                fd,
                size=payload.mmap_size,
                offset=payload.mmap_offset,
                num_queues=payload.num_queues,
                queue_size=payload.queue_size,
                allow_remote=self.session.allow_remote_memory,
            )
        except MemoryTableError as error:
            raise refusal_of(error, "C107") from error
        self.session.inflight.set(area)
        self.session.files.keep_inflight(fd, payload)
        interrupted = None if self.session.backend.rerun else self._interrupted
        for ring in self.session.rings:
            ring.vring.recovery.set_interrupted(interrupted)

    def _check(self, payload: Inflight, rule: str) -> None:
        if payload.num_queues > len(self.session.rings):
            raise RequestRefused(
                f"an area for {payload.num_queues} queues; there are {len(self.session.rings)}", rule=rule
            )

    def _interrupted(self, request: Request) -> bool:
        """A request that must not be carried out a second time without a thought."""
        with self.session.backend.guard:
            answer: object = self.session.backend.interrupted(request)
        if answer not in (None, True, False):
            raise TypeError(
                f"{type(self.session.backend).__name__}.interrupted returned {answer!r}; "
                "True hands the request on, nothing else means anything"
            )
        return answer is True
