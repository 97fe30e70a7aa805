"""A back-end by the trait that writes down what it is asked."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from vhost_user import VhostUserBackend, Vring
from vhost_user.backend.backend import DEFAULT_FEATURES, DEFAULT_PROTOCOL_FEATURES


class Notebook(VhostUserBackend):
    """Echoes, and writes down what it is asked."""

    queues = 1

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.events: list[tuple[int, int, int]] = []
        self.happened = threading.Event()

    def num_queues(self) -> int:
        return self.queues

    def max_queue_size(self) -> int:
        return 128

    def features(self) -> int:
        return DEFAULT_FEATURES | 1 << 3

    def protocol_features(self) -> int:
        return DEFAULT_PROTOCOL_FEATURES

    def set_event_idx(self, enabled: bool) -> None:
        self.calls.append(("set_event_idx", enabled))

    def update_memory(self, memory: Any) -> None:
        self.calls.append(("update_memory", [region.guest_address for region in memory.memory().regions]))

    def acked_features(self, features: int) -> None:
        self.calls.append(("acked_features", features))

    def handle_event(
        self, device_event: int, event_set: int, vrings: Sequence[Vring], thread_id: int
    ) -> bool | None:
        self.events.append((device_event, event_set, thread_id))
        if device_event < len(vrings):
            vring = vrings[device_event]
            while True:
                while (request := vring.pop()) is not None:
                    request.write(request.read()[::-1][: request.writable])
                    request.complete()
                if not vring.enable_notification():
                    break
        self.happened.set()
        return None

    def called(self, name: str) -> list[Any]:
        return [argument for called, argument in self.calls if called == name]
