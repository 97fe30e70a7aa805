"""The example of the CAN bus: a database of cantools, decoded on both sides."""

from __future__ import annotations

from tests.support.examples import EXAMPLES, load
from vhost_user.testing.virtio import Virtio


def test_it_is_short() -> None:
    assert len((EXAMPLES / "can_dashboard.py").read_text().splitlines()) <= 40


def test_the_dashboard_reads_the_engine_and_lights_its_lamp(virtio: Virtio) -> None:
    load("can_dashboard").test_dashboard(virtio)
