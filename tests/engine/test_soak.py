"""The lost-kick soak in short; the long one is ``python tests/engine/soak.py`` (V018, V035, V049)."""

from __future__ import annotations

import pytest

from tests.engine.soak import soak


@pytest.mark.parametrize("event_idx", [False, True])
@pytest.mark.parametrize("depth", [1, 3])
def test_V049_no_kick_and_no_call_is_lost(packed: bool, event_idx: bool, depth: int) -> None:
    counts = soak(packed, 12000, event_idx=event_idx, depth=depth)
    assert counts["round_trips"] == 12000
    assert counts["missed_calls"] == 0
    # Both sides slept and were woken, else this says nothing.
    assert counts["kicks"] > 100
    assert counts["calls"] > 100
    assert counts["arms"] > 100
