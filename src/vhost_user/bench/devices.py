"""The devices measured besides ``vhost-user serve blk``: block devices as small as they get.

``python -m vhost_user.bench.devices NAME --socket-path=S`` serves one: ``handle``, ``handle_batch``,
``zeroes`` or ``null``. They show what the framework costs, so they check no more than a first device would.
"""

from __future__ import annotations

import argparse
import mmap
import sys
from collections.abc import Sequence
from contextlib import suppress

from vhost_user.backend import Batch, Device, Request
from vhost_user.bench.units import parse_size
from vhost_user.devices.storage import MADV_POPULATE_WRITE
from vhost_user.program import serve
from vhost_user.spec.blk import REQUEST_FORMAT, SECTOR_SIZE, BlkConfig, BlkFeature, BlkRequestType

_IN = int(BlkRequestType.IN)
_OUT = int(BlkRequestType.OUT)


class Memory(Device, type="blk"):
    """A disk in memory whose requests pass through ``handle``, one by one."""

    header = REQUEST_FORMAT
    packed = True
    device_features = int(BlkFeature.MQ | BlkFeature.FLUSH)

    def __init__(self, size: int, queues: int = 1) -> None:
        super().__init__()
        self.queues = queues
        # With a GIL two workers would only hand it to each other, and wake each other up for it.
        self.workers = 1 if getattr(sys, "_is_gil_enabled", lambda: True)() else queues
        self.disk = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with suppress(OSError):  # a kernel without huge pages
            self.disk.madvise(mmap.MADV_HUGEPAGE)
            self.disk.madvise(
                MADV_POPULATE_WRITE
            )  # no first touch is measured; ./bench writes it all as well
        self.config = BlkConfig(capacity=size // SECTOR_SIZE, num_queues=queues)

    def handle(self, request: Request) -> None:
        """Copy between the guest and the disk, then the status."""
        kind, _, sector = request.header
        if kind == _IN:
            request.write_from(self.disk, sector << 9, keep=1)
        elif kind == _OUT:
            request.read_to(self.disk, sector << 9)
        request.write_last(b"\0")

    def close(self) -> None:
        """Give the memory back."""
        super().close()
        self.disk.close()


class MemoryInBatches(Memory):
    """The same with ``handle_batch``: each call of the engine moves the data of all requests of a kind."""

    def handle_batch(self, requests: Batch) -> None:
        """As ``handle``, for all requests that are there."""
        for kind, group in requests.by_field(0).items():
            if kind == _IN:
                group.write_from(self.disk, at_field=2, unit=SECTOR_SIZE, keep=1)
            elif kind == _OUT:
                group.read_to(self.disk, at_field=2, unit=SECTOR_SIZE)
        requests.write_last(b"\0")


class Zeroes(Memory):
    """Reads give zeroes and writes go nowhere: the same work that QEMU's null-co disk does."""

    def handle(self, request: Request) -> None:
        """Fill what is to be read."""
        request.fill(0, keep=1)
        request.write_last(b"\0")


class Null(Memory):
    """Completes at once and moves no data: what it shows is the client's limit and the cost of the rings."""

    def handle_batch(self, requests: Batch) -> None:
        """Say that everything went well."""
        requests.write_last(b"\0")
        for request in requests:
            request.complete(request.writable_total)


DEVICES: dict[str, type[Memory]] = {
    "handle": Memory,
    "handle_batch": MemoryInBatches,
    "zeroes": Zeroes,
    "null": Null,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Serve one of them until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("device", choices=sorted(DEVICES))
    parser.add_argument("--size", type=parse_size, default=64 << 20, help="bytes of the disk")
    parser.add_argument("--queues", type=int, default=1)
    arguments, rest = parser.parse_known_args(argv)
    serve(DEVICES[arguments.device](arguments.size, arguments.queues), rest)


if __name__ == "__main__":
    main()
