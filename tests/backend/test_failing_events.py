"""Exceptions out of handle_event: logged, and the ring goes on, with EVENT_IDX too (V018)."""

from __future__ import annotations

import select
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

from vhost_user import VhostUserBackend, Vring
from vhost_user.backend.backend import DEFAULT_FEATURES, DEFAULT_PROTOCOL_FEATURES
from vhost_user.spec.features import VirtioFeature

if TYPE_CHECKING:
    from tests.backend.conftest import Stage


class Moody(VhostUserBackend):
    """Echoes by hand. Raises at every second event, or at each."""

    def __init__(self, way: str) -> None:
        self.way = way
        self.events = 0
        self.failed = 0

    def num_queues(self) -> int:
        return 1

    def max_queue_size(self) -> int:
        return 64

    def features(self) -> int:
        return DEFAULT_FEATURES

    def protocol_features(self) -> int:
        return DEFAULT_PROTOCOL_FEATURES

    def handle_event(
        self, device_event: int, event_set: int, vrings: Sequence[Vring], thread_id: int
    ) -> bool | None:
        del device_event, event_set, thread_id
        self.events += 1
        fails = self.events % 2 == 1 or self.way == "always"
        self.failed += fails
        vring = vrings[0]
        if fails and self.way in {"before", "always"}:
            raise ValueError("in no mood")
        while True:
            vring.disable_notification()
            if fails:
                raise ValueError("in no mood, and deaf")
            while (request := vring.pop()) is not None:
                request.write(request.read()[::-1])
                request.complete()
            if not vring.enable_notification():
                return None


@pytest.mark.parametrize("way", ["before", "deaf"])
def test_V018_a_ring_goes_on_after_exceptions(stage: Stage, way: str) -> None:
    device = Moody(way)
    _, front = stage.serve(device)
    front.bring_up(size=64)
    assert front.session.negotiation.has_feature(VirtioFeature.RING_EVENT_IDX)
    for _ in range(21):
        assert front.request(readable=b"abc", writable=3) == b"cba"
    assert device.failed > 0


def test_V018_a_device_that_always_raises_does_not_spin(stage: Stage) -> None:
    device = Moody("always")
    _, front = stage.serve(device)
    front.bring_up(size=64)
    for _ in range(4):
        front.post(readable=b"abc", writable=3)
    select.select([], [], [], 0.5)
    # Kicks and looks of the control plane, and pauses of 1, 2, 4 … 1,000 ms: some twenty.
    assert 2 <= device.events < 60
