"""Layout of the area of requests in flight ("Inflight I/O tracking"), as in libvhost-user and DPDK."""

import struct

VERSION = 1
"""Version of both layouts; 0 means that the region was never initialised (C108)."""
ALIGNMENT = 64
"""Each queue's region starts at a multiple of this many bytes."""

SPLIT_HEADER = struct.Struct("=QHHHH")
"""features, version, desc_num, last_batch_head, used_idx."""
SPLIT_HEADER_SIZE = 16
SPLIT_DESCRIPTOR = struct.Struct("=B5xHQ")
"""inflight, next, counter."""
SPLIT_DESCRIPTOR_SIZE = 16

PACKED_HEADER = struct.Struct("=QHHHHHHBB7x3x")
"""features, version, desc_num, free_head, old_free_head, used_idx, old_used_idx, used_wrap, old_used_wrap."""
PACKED_HEADER_SIZE = 32
"""The fields end at 29; a C compiler pads to 32, rust-vmm's packed declaration does not."""
PACKED_DESCRIPTOR = struct.Struct("=BxHHHQHHIQ")
"""inflight, next, last, num, counter, id, flags, len, addr."""
PACKED_DESCRIPTOR_SIZE = 32


def region_size(queue_size: int, *, packed: bool) -> int:
    """Bytes of one queue's region, a multiple of 64 (C106)."""
    if packed:
        size = PACKED_HEADER_SIZE + PACKED_DESCRIPTOR_SIZE * queue_size
    else:
        size = SPLIT_HEADER_SIZE + SPLIT_DESCRIPTOR_SIZE * queue_size
    return -(-size // ALIGNMENT) * ALIGNMENT
