"""An image that changes its size while it is served."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vhost_user import VhostUserBackend
from vhost_user.devices import Blk, MemoryStorage, StorageError
from vhost_user.frontend import BlockDriver

Serve = Callable[[VhostUserBackend], socket.socket]
MIB = 1 << 20
IN, OUT, DISCARD = 0, 1, 11


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(b"\x11" * MIB)
    return path


@pytest.fixture(params=[True, False], ids=["fast", "Python"])
def device(image: Path, request: pytest.FixtureRequest) -> Iterator[Blk]:
    made = Blk(image, fast_path=request.param, block_size=4096)
    yield made
    made.close()


def status(driver: BlockDriver, kind: int, sector: int) -> int:
    readable = [struct.pack("<IIQ", kind, 0, sector)]
    if kind != IN:
        readable.append(bytes(4096) if kind == OUT else struct.pack("<QII", sector, 8, 0))
    pending = driver.queue(0).submit(readable, [4096, 1] if kind == IN else [1])
    pending.wait(10.0)
    return int(pending.data[-1])


def changed(driver: BlockDriver) -> None:
    assert driver.config_changed.wait(10)
    driver.config_changed.clear()
    driver.read_configuration()


def test_C130_a_disk_grows_under_its_driver(device: Blk, image: Path, serve_device: Serve) -> None:
    with BlockDriver(serve_device(device)) as driver:
        first = MIB // 512
        assert status(driver, IN, first) == 1
        os.truncate(image, 3 * MIB)
        assert status(driver, IN, first) == 1, "the disk grows when it is told to, not before"
        assert device.resize() == 3 * MIB
        changed(driver)
        assert driver.size == 3 * MIB
        assert driver.read(first, 8) == bytes(4096)
        driver.write(3 * first - 8, b"\x22" * 4096)
        assert driver.read(3 * first - 8, 8) == b"\x22" * 4096
        for kind in (IN, OUT, DISCARD):
            assert status(driver, kind, 3 * first - 8) == 0
            assert status(driver, kind, 3 * first) == 1


def test_C130_a_disk_shrinks_and_requests_past_the_new_end_fail(
    device: Blk, image: Path, serve_device: Serve
) -> None:
    with BlockDriver(serve_device(device)) as driver:
        os.truncate(image, MIB // 2)
        assert device.resize() == MIB // 2
        changed(driver)
        assert driver.size == MIB // 2
        for kind in (IN, OUT, DISCARD):
            assert status(driver, kind, MIB // 1024 - 8) == 0
            assert status(driver, kind, MIB // 1024) == 1
    assert image.stat().st_size == MIB // 2, "a late write lengthens the image again"


def test_a_size_that_no_disk_can_have_changes_nothing(device: Blk, image: Path, serve_device: Serve) -> None:
    with BlockDriver(serve_device(device)) as driver:
        for size, reason in (
            (MIB + 512, "not a whole number of blocks of 4096"),
            (MIB + 1, "not a multiple"),
            (0, "empty"),
        ):
            os.truncate(image, size)
            with pytest.raises(StorageError, match=reason):
                device.resize()
            assert driver.read_configuration().capacity == MIB // 512
        os.truncate(image, MIB)
        assert device.resize() == MIB
        assert status(driver, IN, 0) == 0
        assert not driver.config_changed.is_set()


def test_a_storage_of_ones_own_says_its_size(serve_device: Serve) -> None:
    class Growing(MemoryStorage):
        wanted = MIB

        def measure(self) -> int:
            return self.wanted

    storage = Growing(2 * MIB)
    storage.size = MIB
    device = Blk(storage)
    with BlockDriver(serve_device(device)) as driver:
        storage.wanted = 2 * MIB
        device.resize()
        changed(driver)
        assert driver.size == 2 * MIB
        assert driver.read(MIB // 512, 8) == bytes(4096)
        # More than there is memory for: a fast path must not copy past its end.
        storage.wanted = 4 * MIB
        device.resize()
        assert status(driver, IN, 2 * MIB // 512) == 1
        assert status(driver, OUT, 4 * MIB // 512 - 8) == 1
