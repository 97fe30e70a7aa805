"""The devices that the command knows by name: their options and how to build them from these."""

from __future__ import annotations

import argparse
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, cast

from vhost_user.backend import Device
from vhost_user.cli.failure import CommandError, UsageError

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def size(text: str) -> int:
    """A size in bytes: ``512``, ``64K``, ``1G``; units are powers of 1024."""
    match = re.fullmatch(r"(\d+)([kmgt]?)(?:i?b)?", text.strip().lower())
    if not match:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no size; write a number of bytes or something like 64M or 1G"
        )
    return int(match[1]) * _UNITS[match[2]]


def positive(text: str) -> int:
    """A whole number above 0."""
    if not re.fullmatch(r"\d+", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


@dataclass(frozen=True)
class BuiltinDevice:
    """One device of the command. ``features`` is what --print-capabilities lists (C141)."""

    name: str
    title: str
    capability_type: str
    features: tuple[str, ...]
    examples: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    build: Callable[[argparse.Namespace], Device]


def _add_rng_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("entropy")
    source = group.add_mutually_exclusive_group()
    source.add_argument(
        "--source",
        metavar="FILE",
        help="take the bytes from this file or device (default: the host's entropy)",
    )
    source.add_argument(
        "--seed", metavar="N", type=int, help="the same numbers at every start; for tests, not for secrets"
    )
    group.add_argument(
        "--max-bytes", metavar="SIZE", type=size, help="give at most so many bytes in each period"
    )
    group.add_argument(
        "--period",
        metavar="MS",
        type=positive,
        default=1000,
        help="length of a period in milliseconds (default 1000)",
    )


def _build_rng(arguments: argparse.Namespace) -> Device:
    from vhost_user.devices.rng import ByteSource, Rng  # noqa: PLC0415 - only the device that is served is loaded

    source: ByteSource | None = None
    if arguments.seed is not None:
        import random  # noqa: PLC0415 - as above

        source = random.Random(arguments.seed).randbytes  # noqa: S311 - asked for: repeatable, not secret
    elif arguments.source is not None:
        source = _open_source(arguments.source)
    return Rng(source, max_bytes=arguments.max_bytes, period=arguments.period / 1000)


def _open_source(name: str) -> BinaryIO:
    if not name:
        raise UsageError("--source= is empty: name a file or a device, such as --source=/dev/hwrng")
    try:
        # A FIFO without a writer would keep open() waiting, and one that nobody writes to the guest.
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise CommandError(f"cannot open the entropy source {name}: {error.strerror}") from error
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISCHR(mode) or stat.S_ISBLK(mode)):
        os.close(fd)
        kind = "a FIFO" if stat.S_ISFIFO(mode) else "a directory" if stat.S_ISDIR(mode) else "a socket"
        raise CommandError(
            f"the entropy source {name} is {kind}: name a file or a device that always has bytes, such as "
            "/dev/hwrng"
        )
    os.set_blocking(fd, True)
    return cast("BinaryIO", os.fdopen(fd, "rb", buffering=0))


def _add_blk_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("disk")
    place = group.add_mutually_exclusive_group()
    place.add_argument("--blk-file", metavar="PATH", help="raw image file or block device of the host")
    place.add_argument(
        "--memory", metavar="SIZE", type=size, help="an empty disk in memory instead, such as 512M"
    )
    group.add_argument(
        "--direct",
        action="store_true",
        help="leave the host's page cache out (O_DIRECT); for --blk-file",
    )
    group.add_argument(
        "--populate", action="store_true", help="take all of --memory now, not page by page when first used"
    )
    group.add_argument(
        "--read-only", action="store_true", help="refuse writes; several readers may share an image"
    )
    group.add_argument(
        "--num-queues", metavar="N", type=positive, default=1, help="number of request queues (default 1)"
    )
    group.add_argument(
        "--workers",
        metavar="N",
        type=positive,
        help="threads for them (default: one a queue, up to the number of CPUs)",
    )
    group.add_argument(
        "--block-size",
        metavar="BYTES",
        type=size,
        default=512,
        help="logical block size: 512 (default) to 4096; SeaBIOS boots from 512 only",
    )
    group.add_argument("--no-fast-path", action="store_true", help="serve every request from Python")
    group.add_argument(
        "--serial", metavar="TEXT", help="what the guest sees as the disk's serial number, up to 20 bytes"
    )


def _build_blk(arguments: argparse.Namespace) -> Device:
    from vhost_user.devices.blk import Blk  # noqa: PLC0415 - only the device that is served is loaded
    from vhost_user.devices.storage import FileStorage, MemoryStorage, Storage  # noqa: PLC0415 - as above

    storage: Storage
    if arguments.blk_file is not None:
        if arguments.populate:
            raise UsageError("--populate goes with --memory: an image is where its file system has put it")
        storage = FileStorage(arguments.blk_file, read_only=arguments.read_only, direct=arguments.direct)
    elif arguments.memory is not None:
        if arguments.direct:
            raise UsageError("--direct goes with --blk-file: a disk in memory is in no page cache")
        storage = MemoryStorage(arguments.memory, read_only=arguments.read_only, populate=arguments.populate)
    else:
        raise UsageError(
            "no disk given: add --blk-file=PATH for an image, or --memory=SIZE for an empty disk in memory"
        )
    try:
        return Blk(
            storage,
            num_queues=arguments.num_queues,
            workers=arguments.workers,
            block_size=arguments.block_size,
            fast_path=not arguments.no_fast_path,
            identity=None if arguments.serial is None else arguments.serial.encode(),
        )
    except ValueError:
        storage.close()
        raise


BUILTIN = {
    device.name: device
    for device in (
        BuiltinDevice(
            name="rng",
            title="entropy from the host, a file or a seed",
            capability_type="rng",
            features=(),
            examples="""\
  {program} --socket-path=/tmp/rng.sock
  {program} --socket-path=/tmp/rng.sock --seed=7
  {program} --socket-path=/tmp/rng.sock --source=/dev/hwrng --max-bytes=1K --period=1000""",
            add_arguments=_add_rng_arguments,
            build=_build_rng,
        ),
        BuiltinDevice(
            name="blk",
            title="a disk: a raw image, a block device, or memory",
            capability_type="block",
            features=("read-only", "blk-file"),
            examples="""\
  {program} --socket-path=/tmp/disk.sock --blk-file=disk.img
  {program} --socket-path=/tmp/disk.sock --blk-file=disk.img --num-queues=4
  {program} --socket-path=/tmp/disk.sock --blk-file=disk.img --direct
  {program} --socket-path=/tmp/disk.sock --memory=1G

SIGHUP: the image has grown or shrunk, tell the guest.""",
            add_arguments=_add_blk_arguments,
            build=_build_blk,
        ),
    )
}
