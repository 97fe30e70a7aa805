"""The example of a balloon that follows the guest's needs."""

from __future__ import annotations

from tests.support.examples import EXAMPLES, load
from vhost_user.testing.virtio import Virtio


def test_it_is_short_and_passes(virtio: Virtio) -> None:
    assert (
        len([line for line in (EXAMPLES / "balloon_keeper.py").read_text().splitlines() if line.strip()])
        <= 40
    )
    load("balloon_keeper").test_it_takes_what_is_left_and_returns_it(virtio)
