"""The example of a sound device."""

from __future__ import annotations

from tests.support.examples import EXAMPLES, load
from vhost_user.testing.virtio import Virtio


def test_it_is_short_and_passes(virtio: Virtio) -> None:
    assert len((EXAMPLES / "tone.py").read_text().splitlines()) <= 40
    load("tone").test_the_guest_is_in_tune(virtio)
