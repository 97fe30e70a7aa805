"""``seg_max`` of the disk and the rings that were set up (virtio 1.4, 5.2.4)."""

from __future__ import annotations

import pytest

from vhost_user.backend import VhostUserDaemon
from vhost_user.devices import Blk, MemoryStorage
from vhost_user.spec.features import VirtioFeature


def seg_max(disk: Blk) -> int:
    return int.from_bytes(disk.get_config(0, 96)[12:16], "little")


class SmallBlk(Blk):
    queue_size = 64


@pytest.mark.parametrize(("size", "segments"), [(2, 1), (4, 2), (16, 14), (64, 62), (128, 126), (1024, 126)])
def test_seg_max_fits_the_smallest_ring_without_indirect_tables(size: int, segments: int) -> None:
    disk = Blk(MemoryStorage(1 << 20), num_queues=2)
    assert seg_max(disk) == 126
    with VhostUserDaemon("disk", disk) as daemon:
        assert seg_max(disk) == 126
        daemon.vrings[0].set_size(1024)
        daemon.vrings[1].set_size(size)
        assert seg_max(disk) == segments
        disk.acked_features(VirtioFeature.RING_INDIRECT_DESC)
        assert seg_max(disk) == 126
        # What a front-end read, it may write back whole.
        disk.acked_features(0)
        disk.set_config(0, disk.get_config(0, 96))
        daemon.vrings[1].reset()
        assert seg_max(disk) == 126


def test_seg_max_fits_a_small_disk_from_the_first_look_on() -> None:
    disk = SmallBlk(MemoryStorage(1 << 20))
    assert seg_max(disk) == 62
    disk.close()
