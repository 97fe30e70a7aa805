"""User-mode Linux, a kernel that is a program and a front-end of its own make, on devices of ours.

It asks for an ack from its first message on, hands over ends of socket pairs as doorbells, and sends a table
of two regions of which one counts.
"""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from tests.support.user_mode_linux import user_mode_linux
from vhost_user import Listener, VhostUserDaemon
from vhost_user.devices import Balloon, Blk, Statistics
from vhost_user.protocol.trace import TraceLog

pytestmark = pytest.mark.guest

HALF = 4 << 20
COPY = f"""
dd if=/dev/vda of=/copy bs=1M count={HALF >> 20} iflag=direct &&
    dd if=/copy of=/dev/vda bs=1M seek={HALF >> 20} count={HALF >> 20} oflag=direct conv=notrunc &&
    echo "copied it all"
"""
MIB = 1 << 20
INFLATED = 32 * MIB
WAIT = """
for second in $(seq 20); do
    now=$(grep MemTotal /proc/meminfo | tr -dc 0-9)
    echo "MemTotal $now"
    test $now -lt 90000 && break
    sleep 1
done
sleep 1
"""


@pytest.mark.parametrize("in_band", [False, True], ids=["socket pairs", "messages"])
def test_C094_C133_user_mode_linux_copies_half_of_a_disk_to_its_other_half(
    tmp_path: Path, in_band: bool
) -> None:
    """Its doorbells are ends of socket pairs, or messages where those are offered."""
    messages = TraceLog(100_000)
    content = random.Random(7).randbytes(HALF)
    image, path = tmp_path / "image", tmp_path / "s"
    image.write_bytes(content + bytes(HALF))
    with (
        Listener.bind(path) as listener,
        VhostUserDaemon("disk", Blk(image), tracer=messages, in_band_notifications=in_band) as daemon,
    ):
        daemon.start(listener)
        said = user_mode_linux(tmp_path, path, 2, ("virtio_blk",), COPY)
    assert "copied it all" in said, said[-3000:]
    assert image.read_bytes() == 2 * content
    said_in_messages = {event.name for event in messages.events}
    assert ({"VRING_KICK", "VRING_CALL"} <= said_in_messages) == in_band
    assert ("SET_VRING_KICK" in said_in_messages) != in_band


class Watching(Balloon):
    """Keeps what is forgotten with the session."""

    def __init__(self) -> None:
        super().__init__(INFLATED, stats_interval=0.2)
        self.largest = 0
        self.last: dict[str, int] = {}

    def config_written(self, field: str, old: int | bytes, new: int | bytes) -> None:
        super().config_written(field, old, new)
        self.largest = max(self.largest, self.actual)

    def measured(self, stats: Statistics) -> None:
        self.last = dict(stats)


def test_user_mode_linux_gives_memory_back(tmp_path: Path) -> None:
    balloon, path = Watching(), tmp_path / "s"
    with Listener.bind(path) as listener, VhostUserDaemon("balloon", balloon) as daemon:
        daemon.start(listener)
        said = user_mode_linux(tmp_path, path, 5, ("virtio_balloon",), WAIT)
    assert balloon.largest == INFLATED, said[-3000:]
    assert balloon.given_back >= INFLATED
    totals = [int(number) for number in re.findall(r"MemTotal (\d+)", said)]
    assert totals[-1] << 10 == balloon.last["memtot"] < 128 * MIB - INFLATED
