"""A balloon that leaves its guest what it needs. A test: run it with pytest."""

import os

from vhost_user.devices import Balloon, Statistics
from vhost_user.frontend import BalloonDriver
from vhost_user.spec.balloon import BalloonStat
from vhost_user.testing.virtio import Virtio

MIB, PAGE = 1 << 20, 4096


class Keeper(Balloon):
    """To serve it: vhost-user serve examples/balloon_keeper.py:Keeper --socket-path=/tmp/balloon.sock."""

    spare = 64 * MIB

    def __init__(self) -> None:
        super().__init__(stats_interval=1.0, deflate_on_oom=True)

    def measured(self, stats: Statistics) -> None:
        left_to_take = self.actual + stats["avail"] - self.spare
        self.target = max(0, left_to_take) // PAGE * PAGE


def test_it_takes_what_is_left_and_returns_it(virtio: Virtio) -> None:
    keeper = Keeper()
    guest = virtio.attach(keeper).drive(BalloonDriver, memory_size=128 * MIB)
    used = guest.memory.allocate(32 * MIB, PAGE)
    guest.memory.fill(used, 32 * MIB, 0xAA)
    host_gave = os.fstat(guest.memory.regions[0].fd).st_blocks * 512
    guest.give_statistics({BalloonStat.AVAIL: 96 * MIB})
    guest.wait_asked()
    assert keeper.target == 32 * MIB
    guest.inflate(range(used, used + 32 * MIB, PAGE))
    assert os.fstat(guest.memory.regions[0].fd).st_blocks * 512 < host_gave - 31 * MIB
    guest.give_statistics({BalloonStat.AVAIL: 40 * MIB})
    guest.wait_asked()
    assert guest.follow() == 8 * MIB // PAGE
