"""The dirty log under load, whoever writes: what changed since it was switched on is marked (C077 to C086).

That is what a migration stands on. Memory is photographed when the acknowledgement has arrived, with requests
under way, and again when the ring has stopped; each page of a buffer that differs must be marked, and after
logging was switched off none.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from vhost_user import Batch, Device, Request, VhostUserBackend
from vhost_user.conformance.logged_driver import GUEST, LOG_SIZE, LogFile, set_log
from vhost_user.devices import Blk, FileStorage
from vhost_user.engine.blk.file_fast_path import liburing_built
from vhost_user.engine.driver.memory import DriverMemory, DriverRegion
from vhost_user.frontend import VirtioDriver
from vhost_user.spec.features import VirtioFeature
from vhost_user.spec.structs import VringAddressFlag

Serve = Callable[[VhostUserBackend], socket.socket]
PAGE = 4096
MEMORY = 4 << 20
BUFFERS = 32
LARGEST = 12
"""Pages of the largest buffer."""
LOG_ADDRESS = GUEST + MEMORY
"""Where the used ring is logged; no memory is there, and the log reaches a little further."""


class Plain(Device, type="rng"):
    def handle(self, request: Request) -> None:
        request.write(os.urandom(request.writable))


class InBatches(Device, type="rng"):
    def handle_batch(self, requests: Batch) -> None:
        for request in requests:
            request.write(os.urandom(request.writable))


class Coroutines(Device, type="rng"):
    async def handle(self, request: Request) -> None:
        await asyncio.sleep(random.random() / 1000)
        request.write(os.urandom(request.writable))


class Views(Device, type="rng"):
    """Through memoryviews; some say so, for others the length they complete with does."""

    def handle(self, request: Request) -> None:
        size = request.writable
        for view in request.writable_views():
            view[:] = os.urandom(len(view))
        if size % 2:
            request.advance_writable(size)
        else:
            request.complete(size)


class LateThreads(Device, type="rng"):
    """Held, and completed by threads in another order."""

    def handle(self, request: Request) -> None:
        request.hold()
        threading.Thread(target=self.late, args=(request,), daemon=True).start()

    @staticmethod
    def late(request: Request) -> None:
        request.write(os.urandom(request.writable - 1))
        request.write_last(b"\x07")
        request.complete()


def disk(kind: str, folder: Path) -> Blk:
    image = folder / "disk.img"
    image.write_bytes(os.urandom(1 << 20))
    disk = Blk(FileStorage(image), fast_path=kind != "disk from Python")
    if kind == "disk by io_uring":
        assert liburing_built()
    return disk


DEVICES: dict[str, Callable[[], Device]] = {
    kind.__name__: kind for kind in (Plain, InBatches, Coroutines, Views, LateThreads)
}
DISKS = ("disk by io_uring", "disk from Python")


class Load:
    """Requests into buffers of their own, always the same, so that a page is written by one of them alone."""

    def __init__(self, driver: VirtioDriver, *, is_disk: bool) -> None:
        self.driver = driver
        self.queue = driver.queues[0]
        self.is_disk = is_disk
        self.dice = random.Random(86)
        self.buffers = [self.queue.memory.allocate((LARGEST + 1) * PAGE, PAGE) for _ in range(BUFFERS)]
        self.headers = [self.queue.memory.allocate(16) for _ in range(BUFFERS)]
        self.free = list(range(BUFFERS))
        self.busy: dict[int, int] = {}

    def submit(self, count: int) -> None:
        """So many at once, where buffers are free."""
        ring = self.queue.ring
        for _ in range(min(count, len(self.free))):
            number = self.free.pop()
            sectors = self.dice.randrange(1, LARGEST * 8)
            size = sectors * 512
            if self.is_disk:
                sector = self.dice.randrange(2048 - sectors)
                self.queue.memory.write(self.headers[number], struct.pack("<IIQ", 0, 0, sector))
                token = ring.add([(self.headers[number], 16)], [(self.buffers[number], size + 1)])
            else:
                token = ring.add([], [(self.buffers[number], size - self.dice.randrange(512))])
            self.busy[token] = number
        ring.publish()
        ring.kick()

    def reap(self, *, everything: bool = False) -> None:
        """Take back what is done, at least one; or all."""
        ring = self.queue.ring
        while self.busy:
            assert ring.wait(20), ring.describe()
            for token, _ in ring.poll_many():
                self.free.append(self.busy.pop(token))
            if not everything:
                return

    def run(self, turns: int) -> None:
        """Load for so many turns; some of it stays under way."""
        for _ in range(turns):
            self.submit(self.dice.randrange(1, BUFFERS))
            self.reap()


def changed(before: bytes, after: bytes, addresses: list[int], length: int) -> set[int]:
    """Guest addresses of the pages that differ, among so many bytes at these addresses."""
    return {
        address + page
        for address in addresses
        for page in range(0, length, PAGE)
        if before[address + page - GUEST :][:PAGE] != after[address + page - GUEST :][:PAGE]
    }


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
@pytest.mark.parametrize("kind", [*DEVICES, *DISKS])
def test_C077_C078_C084_C086_what_changes_while_logging_is_on_is_marked(
    serve_device: Serve, tmp_path: Path, kind: str, packed: bool
) -> None:
    device: Device = disk(kind, tmp_path) if kind in DISKS else DEVICES[kind]()
    region = DriverRegion(MEMORY, guest_address=GUEST)
    view = memoryview(region)
    with VirtioDriver(
        serve_device(device), packed=packed, queue_size=64, memory=DriverMemory([region])
    ) as driver:
        load = Load(driver, is_disk=kind in DISKS)
        frontend, ring = driver.frontend, load.queue.ring
        for _ in range(4):  # cancelled, and tried again
            load.run(5)
            log = LogFile()
            set_log(driver, log.region.fd, LOG_SIZE)
            load.submit(BUFFERS)
            frontend.set_features(frontend.features | VirtioFeature.LOG_ALL)
            driver.send_addresses(0, flags=VringAddressFlag.LOG, log_address=LOG_ADDRESS)
            frontend.barrier()
            before = bytes(view)
            load.run(25)
            load.reap(everything=True)
            after = bytes(view)
            pages = changed(before, after, load.buffers, (LARGEST + 1) * PAGE)
            assert len(pages) > BUFFERS, "the load has written next to nothing"
            missed = {hex(page) for page in pages if not log.dirty(page)}
            assert not missed, f"{len(missed)} of {len(pages)} pages changed and are not in the log"
            assert log.dirty(ring.descriptor_address if packed else LOG_ADDRESS), "the ring is not in the log"

            load.submit(BUFFERS)
            frontend.set_features(frontend.features & ~int(VirtioFeature.LOG_ALL))
            driver.send_addresses(0)
            frontend.barrier()
            load.reap(everything=True)
            log.clear()
            load.run(5)
            load.reap(everything=True)
            assert not log.any, "the log is written although logging is off"
        if kind == "disk by io_uring":
            assert isinstance(device, Blk)
            assert sum(each.statistics()["accepted"] for each in device._fast_paths) > 0
