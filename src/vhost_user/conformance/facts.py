"""What a back-end says about itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Facts:
    """What the back-end says about itself before anything is negotiated."""

    features: int = 0
    protocol_features: int = 0
    num_queues: int = 1
    memory_slots: int = 0
