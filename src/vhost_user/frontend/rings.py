"""Which kind of ring the negotiated features ask for, and where it goes on after a reconnect."""

from vhost_user.engine.driver.memory import DriverMemory
from vhost_user.engine.driver.packed import PackedDriverQueue
from vhost_user.engine.driver.queue import DriverQueue
from vhost_user.engine.driver.split import SplitDriverQueue
from vhost_user.spec.features import VirtioFeature


def make_ring(
    memory: DriverMemory,
    size: int,
    features: int,
    *,
    index: int = 0,
    start: int = 0,
    polled_kicks: bool = False,
    polled_calls: bool = False,
) -> DriverQueue:
    """A ring of ``size`` descriptors in ``memory`` under the negotiated ``features``."""
    kind: type[SplitDriverQueue | PackedDriverQueue]
    kind = PackedDriverQueue if features & VirtioFeature.RING_PACKED else SplitDriverQueue
    return kind(
        memory,
        size,
        index=index,
        event_idx=bool(features & VirtioFeature.RING_EVENT_IDX),
        indirect=bool(features & VirtioFeature.RING_INDIRECT_DESC),
        in_order=bool(features & VirtioFeature.IN_ORDER),
        start=start,
        polled_kicks=polled_kicks,
        polled_calls=polled_calls,
    )


def resume_base(ring: DriverQueue) -> int:
    """What SET_VRING_BASE says after the back-end died.

    The used position, as QEMU restores it (C111, C138).
    """
    if isinstance(ring, PackedDriverQueue):
        index, wrap = ring.used_position
        half = index | wrap << 15
        return half | half << 16
    assert isinstance(ring, SplitDriverQueue)
    return ring.used_index
