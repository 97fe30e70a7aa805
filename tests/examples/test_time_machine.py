"""The example of a clock that a test sets."""

from __future__ import annotations

from tests.support.examples import EXAMPLES, load
from vhost_user.testing.virtio import Virtio


def test_it_is_short_and_passes(virtio: Virtio) -> None:
    assert len((EXAMPLES / "time_machine.py").read_text().splitlines()) <= 40
    load("time_machine").test_new_year(virtio)
