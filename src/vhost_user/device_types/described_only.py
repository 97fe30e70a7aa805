"""Virtio device types that VMMs and guests know, and that there is no device of ours for.

They serve devices that users write: the QEMU line, the modules of a guest and a request to try a ring
with depend on the type alone. A type that gets a ``NAME_type.py`` or an entry point is described there
instead.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from vhost_user.device_types.description import EVER, DeviceType, HarmlessRequest, HasQueues, QemuDevice
from vhost_user.device_types.qemu_limits import USUAL_QUEUE, queue_size

FUSE_GETATTR = 3
FUSE_HEADER = struct.Struct("<IIQQIIII")
FUSE_ANSWER = struct.Struct("<IiQ")
FUSE_UNIQUE = 0x1234
_DEVICE_BITS = (1 << 24) - 1
NET_FEATURES = 1 << 15 | 1 << 16 | 1 << 17
"""MRG_RXBUF, STATUS, CTRL_VQ: what every network card offers some of."""


def _net(device: HasQueues, chardev: str) -> list[str]:
    pairs = max(1, device.num_queues() // 2)
    return [
        "-netdev", f"vhost-user,id=net0,chardev={chardev},queues={pairs}",
        "-device", f"virtio-net-pci,netdev=net0,mq={'on' if pairs > 1 else 'off'},vectors=0",
    ]  # fmt: skip


def _scsi(device: HasQueues) -> Sequence[str]:
    small = device.max_queue_size() < USUAL_QUEUE
    queues = max(1, device.num_queues() - 2)  # QEMU adds a control and an event queue
    return [f"num_queues={queues}"] + [f"virtqueue_size={queue_size(device)}"] * small


def _fs(device: HasQueues) -> Sequence[str]:
    # QEMU adds a high priority queue; 128 descriptors would be much too few for it
    queues = device.num_queues()
    requests = [f"num-request-queues={queues - 1}"] if queues > 2 else []
    return ["tag=myfs", f"queue-size={queue_size(device)}", *requests]


def _fuse_request() -> bytes:
    return FUSE_HEADER.pack(FUSE_HEADER.size + 16, FUSE_GETATTR, FUSE_UNIQUE, 1, 0, 0, 0, 0) + bytes(16)


def _fuse_wrong(data: bytes, length: int) -> str | None:
    size, _error, unique = FUSE_ANSWER.unpack_from(data)
    if unique != FUSE_UNIQUE or not FUSE_ANSWER.size <= size <= len(data):
        return f"the answer to GETATTR is not a FUSE answer: {data[:16].hex()}, used.len {length}"
    return None


_TYPES: tuple[DeviceType, ...] = (
    DeviceType(
        name="net",
        title="a network card",
        # net: a network card may always be without its peer.
        qemu=QemuDevice("virtio-net-pci", reconnect_since=EVER, arguments=_net),
        guest_modules=("virtio_net",),
        # It has no request that is always answered: somebody else must read and write packets.
        queues=2,
        resembles=lambda features, _queues: bool(features & _DEVICE_BITS & NET_FEATURES),
    ),
    DeviceType(
        name="scsi",
        title="a SCSI host",
        # scsi has learnt it from blk; 7.2 fails, 10.0 starts.
        qemu=QemuDevice("vhost-user-scsi-pci", reconnect_since=(9, 0), properties=_scsi),
        guest_modules=("virtio_scsi",),
    ),
    DeviceType(
        name="fs",
        title="a file system",
        qemu=QemuDevice("vhost-user-fs-pci", properties=_fs),
        guest_modules=("virtiofs",),
        queues=2,
        harmless=HarmlessRequest(
            queue=1,
            readable=_fuse_request,
            writable=lambda: FUSE_ANSWER.size + 104,
            wrong=_fuse_wrong,
        ),
    ),
    DeviceType(name="gpu", title="a GPU", qemu=QemuDevice("vhost-user-gpu-pci", kvm_before=(9, 0))),
)
"""Which device of QEMU serves a type, from which version on, and with which can the chardev reconnect.

Seen on QEMU 7.2, 10.0 and 11.1. Where a change came in between, the bound is where the line surely starts.
"""

DESCRIBED_ONLY = {each.name: each for each in _TYPES}
