"""The life of a device, and filters, under QEMU and Linux. C054, C075, C131, C132."""

from __future__ import annotations

import asyncio
import errno
import time
from pathlib import Path

import pytest

from tests.support.front_end import until
from vhost_user import Device, Next, Refuse, Request
from vhost_user.devices import Blk, MemoryStorage, Rng
from vhost_user.testing.guest import Guest, VhostUserBlk, VhostUserRng

pytestmark = pytest.mark.guest


class Sevens(Device, type="rng"):
    def __init__(self) -> None:
        self.life: list[str] = []
        self.ticks = 0

    def setup(self) -> None:
        self.life.append("setup")
        self.every(0.01, self.tick)

    def tick(self) -> None:
        self.ticks += 1

    async def started(self) -> None:
        self.life.append("started")
        try:
            await asyncio.sleep(3600)
        finally:
            self.life.append("ended")

    def handle(self, request: Request) -> None:
        request.fill(7)

    def shutdown(self) -> None:
        self.life.append("shutdown")


def test_C132_a_driver_is_ready_once_for_each_boot_and_its_tasks_end_with_it(tmp_path: Path) -> None:
    device = Sevens()
    device.start(tmp_path / "rng.sock")
    try:
        with Guest(devices=[VhostUserRng(tmp_path / "rng.sock")]) as guest:
            assert guest.run("head -c 4 /dev/hwrng | hexdump -v -e '1/1 \"%02x\"'") == "07070707"
            assert device.life == ["setup", "started"]
            before = device.ticks
            assert "a front-end is connected; features 0x" in repr(device)
            guest.qmp("stop")
            guest.qmp("cont")
            assert guest.run("head -c 4 /dev/hwrng | hexdump -v -e '1/1 \"%02x\"'") == "07070707"
            assert device.life == ["setup", "started"]  # it goes on where it was
            guest.reboot()
            assert guest.run("head -c 4 /dev/hwrng | hexdump -v -e '1/1 \"%02x\"'") == "07070707"
            assert device.ticks > before
            assert device.life == ["setup", "started", "ended", "started"]
            guest.shutdown()
    finally:
        device.stop()
    assert device.life[-2:] == ["ended", "shutdown"]
    assert device.life.count("started") == device.life.count("ended")


def test_C054_a_vm_stops_at_once_although_a_request_waits_for_the_next_period(tmp_path: Path) -> None:
    device = Rng(max_bytes=4096, period=3600.0)
    device.start(tmp_path / "rng.sock")
    try:
        with Guest(devices=[VhostUserRng(tmp_path / "rng.sock")]) as guest:
            reading = guest.start("head -c 20000 /dev/hwrng | wc -c")
            until(lambda: device._waiting, "a request that waits because the budget is spent")
            before = time.monotonic()
            guest.qmp("stop")
            assert time.monotonic() - before < 1.0
            guest.qmp("cont")
            device._period, device._period_ends = 0.01, 0.0
            device.post(device._next_period).result(10)
            assert reading.wait().output.strip() == "20000"
            guest.shutdown()
    finally:
        device.stop()


class Flaky(Blk):
    def __init__(self) -> None:
        super().__init__(MemoryStorage(8 << 20))
        self.bad = False


def test_a_filter_between_linux_and_its_disk(tmp_path: Path) -> None:
    disk = Flaky()
    seen: list[int] = []

    async def flaky(request: Request, proceed: Next) -> None:
        kind, _, sector = request.header
        seen.append(kind)
        if disk.bad and sector >= 8192:
            raise Refuse(errno.EIO)
        await asyncio.sleep(0.001)
        await proceed(request)

    disk.add_filter(flaky)
    disk.start(tmp_path / "disk.sock")
    try:
        with Guest(devices=[VhostUserBlk(tmp_path / "disk.sock")]) as guest:
            read = "dd if=/dev/vda of=/dev/null bs=4k iflag=direct count=4"
            guest.run(read)
            disk.bad = True
            guest.run(read)
            assert guest.run(f"{read} skip=1024 2>/dev/null && echo read || echo failed") == "failed\n"
            assert "I/O error" in guest.run("dmesg | grep vda")
            assert len(seen) >= 8
            guest.shutdown()
    finally:
        disk.stop()
