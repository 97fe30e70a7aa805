"""The block device, described."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vhost_user.device_types import DeviceType, HarmlessRequest, OptionError, QemuDevice, option
from vhost_user.device_types.described_only import NET_FEATURES
from vhost_user.device_types.description import EVER, HasQueues
from vhost_user.device_types.options import BYTES
from vhost_user.device_types.qemu_limits import USUAL_QUEUE, queue_size
from vhost_user.spec.blk import REQUEST_FORMAT, SECTOR_SIZE, BlkFeature, BlkRequestType, BlkStatus

if TYPE_CHECKING:
    from vhost_user.devices.blk import Blk
    from vhost_user.devices.storage import Storage


@dataclass(frozen=True)
class BlkOptions:
    """The options of ``vhost-user serve blk``."""

    blk_file: str | None = option(
        None, help="raw image file or block device of the host", metavar="PATH", exclusive="disk"
    )
    memory: int | None = option(
        None, help="an empty disk in memory instead, such as 512M", unit=BYTES, exclusive="disk"
    )
    direct: bool = option(False, help="leave the host's page cache out (O_DIRECT); for --blk-file")
    populate: bool = option(False, help="take all of --memory now, not page by page when first used")
    read_only: bool = option(False, help="refuse writes; several readers may share an image")
    num_queues: int = option(1, help="number of request queues", minimum=1)
    workers: int | None = option(
        None,
        help="threads for them",
        minimum=1,
        shown_default="one a queue, up to the number of CPUs",
    )
    block_size: int = option(
        512,
        help="logical block size: 512 to 4096; SeaBIOS boots from 512 only",
        metavar="BYTES",
        unit=BYTES,
    )
    fast_path: bool = option(True, help="serve every request from Python")
    serial: str | None = option(
        None, help="what the guest sees as the disk's serial number, up to 20 bytes", metavar="TEXT"
    )


def _build(options: BlkOptions) -> Blk:
    # A description is read without the device.
    from vhost_user.devices.blk import Blk  # noqa: PLC0415
    from vhost_user.devices.storage import FileStorage, MemoryStorage  # noqa: PLC0415

    storage: Storage
    if options.blk_file is not None:
        if options.populate:
            raise OptionError("--populate goes with --memory: an image is where its file system has put it")
        storage = FileStorage(options.blk_file, read_only=options.read_only, direct=options.direct)
    elif options.memory is not None:
        if options.direct:
            raise OptionError("--direct goes with --blk-file: a disk in memory is in no page cache")
        storage = MemoryStorage(options.memory, read_only=options.read_only, populate=options.populate)
    else:
        raise OptionError(
            "no disk given: add --blk-file=PATH for an image, or --memory=SIZE for an empty disk in memory"
        )
    try:
        return Blk(
            storage,
            num_queues=options.num_queues,
            workers=options.workers,
            block_size=options.block_size,
            fast_path=options.fast_path,
            identity=None if options.serial is None else options.serial.encode(),
        )
    except ValueError:
        storage.close()
        raise


def _qemu_properties(device: HasQueues) -> Sequence[str]:
    small = device.max_queue_size() < USUAL_QUEUE
    return [f"num-queues={device.num_queues()}"] + [f"queue-size={queue_size(device)}"] * small


def _read_of_sector_0() -> bytes:
    return struct.pack(REQUEST_FORMAT, BlkRequestType.IN, 0, 0)


def _wrong(data: bytes, length: int) -> str | None:
    if data[-1] != BlkStatus.OK:
        return f"reading sector 0 ends with status {data[-1]}"
    if length > len(data):
        return f"used.len is {length}, only {len(data)} bytes are writable"
    return None


def _resembles(features: int, _queues: int) -> bool:
    usual = BlkFeature.SEG_MAX | BlkFeature.BLK_SIZE
    return features & usual == usual and not features & NET_FEATURES


DEVICE_TYPE = DeviceType(
    name="blk",
    title="a disk: a raw image, a block device, or memory",
    device="vhost_user.devices.blk:Blk",
    options=BlkOptions,
    build=_build,
    features=("read-only", "blk-file"),
    examples=(
        "--socket-path=/tmp/disk.sock --blk-file=disk.img",
        "--socket-path=/tmp/disk.sock --blk-file=disk.img --num-queues=4",
        "--socket-path=/tmp/disk.sock --blk-file=disk.img --direct",
        "--socket-path=/tmp/disk.sock --memory=1G",
    ),
    notes="SIGHUP: the image has grown or shrunk, tell the guest.",
    # blk waits for its connection, and begins again when that breaks.
    qemu=QemuDevice("vhost-user-blk-pci", reconnect_since=EVER, packed=True, properties=_qemu_properties),
    guest_modules=("virtio_blk",),
    harmless=HarmlessRequest(
        every_queue=True,
        readable=_read_of_sector_0,
        writable=lambda: SECTOR_SIZE + 1,
        wrong=_wrong,
        larger=lambda size: -(-size // SECTOR_SIZE) * SECTOR_SIZE + 1,
    ),
    resembles=_resembles,
)
