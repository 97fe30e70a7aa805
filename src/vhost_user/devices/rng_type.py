"""The entropy device, described."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, cast

from vhost_user.device_types import DeviceType, HarmlessRequest, OptionError, QemuDevice, option
from vhost_user.device_types.options import BYTES
from vhost_user.spec.features import VirtioFeature
from vhost_user.spec.rng import NUM_QUEUES

if TYPE_CHECKING:
    from vhost_user.devices.rng import ByteSource, Rng

_HARMLESS_BYTES = 64
_DEVICE_BITS = (1 << 24) - 1


@dataclass(frozen=True)
class RngOptions:
    """The options of ``vhost-user serve rng``."""

    source: str | None = option(
        None,
        help="take the bytes from this file or device",
        metavar="FILE",
        exclusive="source",
        shown_default="the host's entropy",
    )
    seed: int | None = option(
        None, help="the same numbers at every start; for tests, not for secrets", exclusive="source"
    )
    max_bytes: int | None = option(None, help="give at most so many bytes in each period", unit=BYTES)
    period: int = option(1000, help="length of a period", metavar="MS", unit="milliseconds", minimum=1)


def _build(options: RngOptions) -> Rng:
    from vhost_user.devices.rng import Rng  # noqa: PLC0415  # a description is read without the device

    source: ByteSource | None = None
    if options.seed is not None:
        import random  # noqa: PLC0415  # as above

        source = random.Random(options.seed).randbytes  # noqa: S311  # asked for: repeatable, not secret
    elif options.source is not None:
        source = _open_source(options.source)
    return Rng(source, max_bytes=options.max_bytes, period=options.period / 1000)


def _open_source(name: str) -> BinaryIO:
    if not name:
        raise OptionError("--source= is empty: name a file or a device, such as --source=/dev/hwrng")
    try:
        # A FIFO without a writer would keep open() waiting, and one that nobody writes to the guest.
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ValueError(f"cannot open the entropy source {name}: {error.strerror}") from error
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISCHR(mode) or stat.S_ISBLK(mode)):
        os.close(fd)
        kind = "a FIFO" if stat.S_ISFIFO(mode) else "a directory" if stat.S_ISDIR(mode) else "a socket"
        raise ValueError(
            f"the entropy source {name} is {kind}: name a file or a device that always has bytes, such as "
            "/dev/hwrng"
        )
    os.set_blocking(fd, True)
    return cast("BinaryIO", os.fdopen(fd, "rb", buffering=0))


def _wrong(data: bytes, length: int) -> str | None:
    if not 1 <= length <= len(data):
        return f"used.len is {length}: at least one random byte is due, {len(data)} fit"
    return None


def _resembles(features: int, queues: int) -> bool:
    return not features & _DEVICE_BITS and queues == NUM_QUEUES and bool(features & VirtioFeature.VERSION_1)


DEVICE_TYPE = DeviceType(
    name="rng",
    title="entropy from the host, a file or a seed",
    device="vhost_user.devices.rng:Rng",
    options=RngOptions,
    build=_build,
    examples=(
        "--socket-path=/tmp/rng.sock",
        "--socket-path=/tmp/rng.sock --seed=7",
        "--socket-path=/tmp/rng.sock --source=/dev/hwrng --max-bytes=1K --period=1000",
    ),
    qemu=QemuDevice("vhost-user-rng-pci", packed=True),
    guest_modules=("virtio_rng",),
    queues=NUM_QUEUES,
    harmless=HarmlessRequest(every_queue=True, writable=lambda: _HARMLESS_BYTES, wrong=_wrong),
    resembles=_resembles,
)
