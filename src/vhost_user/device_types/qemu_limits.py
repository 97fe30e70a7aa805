"""Sizes of rings in QEMU."""

from __future__ import annotations

from vhost_user.device_types.description import HasQueues

MAX_QUEUE_SIZE = 1024
"""Descriptors: the largest ring of any device in QEMU."""
USUAL_QUEUE = 128
"""Descriptors: the ring of blk and scsi where the command line says nothing."""


def queue_size(device: HasQueues) -> int:
    """Descriptors of the rings that QEMU may give the device."""
    return min(device.max_queue_size(), MAX_QUEUE_SIZE)
