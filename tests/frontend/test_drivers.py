"""The rng and block drivers: against devices that err, and against QEMU's own block back-end."""

from __future__ import annotations

import io
import os
import random
import socket
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vhost_user import Device, Request
from vhost_user.frontend import BlockDriver, DeviceError, RngDriver
from vhost_user.frontend.load import LoadResult, run_block_load
from vhost_user.spec.blk import BlkConfig, BlkFeature, BlkRequestType

Serve = Callable[[Device], socket.socket]
Daemon = Callable[..., Path]
SIZE = 1 << 20


class Faulty(Device, type="blk"):
    """A block device that answers as ``status`` and ``length`` say."""

    def __init__(self) -> None:
        super().__init__()
        self.device_features = BlkFeature.FLUSH
        self.config = BlkConfig(capacity=64).pack()
        self.status: int | None = 0
        self.length: int | None = None

    def handle(self, request: Request) -> None:
        request.fill(0x77, request.writable - 1)
        if self.status is not None:
            request.write_last(struct.pack("<B", self.status))
        if self.length is not None:
            request.complete(self.length)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(1).randbytes(SIZE))
    return path


def test_rng_reads_exactly_what_is_asked(serve: Serve) -> None:
    class Drip(Device, type="rng"):
        def handle(self, request: Request) -> None:
            request.write(os.urandom(min(7, request.writable)))

    with RngDriver(serve(Drip())) as rng:
        assert len(rng.read(100)) == 100
        assert len(rng.read_some(100)) == 7


def test_rng_that_writes_nothing_is_an_error(serve: Serve) -> None:
    class Dry(Device, type="rng"):
        def handle(self, request: Request) -> None:
            request.complete(0)

    with RngDriver(serve(Dry())) as rng, pytest.raises(DeviceError, match="at least one byte"):
        rng.read(1)


@pytest.mark.parametrize(
    ("status", "words"),
    [(1, "an I/O error"), (2, "an unsupported request"), (77, "status 77"), (None, "no status")],
)
def test_a_block_error_names_what_failed(serve: Serve, status: int | None, words: str) -> None:
    device = Faulty()
    device.status = status
    with BlockDriver(serve(device)) as disk:
        with pytest.raises(DeviceError, match=f"OUT at sector 9: the device reports {words}") as caught:
            disk.write(9, bytes(512))
        assert caught.value.status == (0xFF if status is None else status)
        allocated = disk.memory.allocated
        for use in (lambda: disk.read(0, 1), disk.flush, disk.get_id, lambda: disk.discard(0, 1)):
            with pytest.raises(DeviceError):
                use()
        assert disk.memory.allocated == allocated


def test_V014_a_read_that_says_it_wrote_less_is_an_error(serve: Serve) -> None:
    device = Faulty()
    device.length = 1
    with BlockDriver(serve(device)) as disk:
        with pytest.raises(DeviceError, match="V014"):
            disk.read(0, 8)
        assert disk.command(BlkRequestType.GET_ID, writable=20) == (0, b"\x77" * 20)


def test_partial_sectors_are_refused(serve: Serve) -> None:
    with BlockDriver(serve(Faulty())) as disk:
        assert disk.capacity == 64
        for wrong in (b"", b"x", bytes(513)):
            with pytest.raises(ValueError, match="whole number of sectors"):
                disk.write(0, wrong)
            with pytest.raises(ValueError, match="whole number of sectors"):
                disk.readinto(0, bytearray(wrong))


def test_a_disk_of_qemu_is_read_and_written(storage_daemon: Daemon, image: Path) -> None:
    content = image.read_bytes()
    with BlockDriver(storage_daemon(image, queues=4), num_queues=4) as disk:
        assert (disk.size, disk.capacity, disk.read_only) == (SIZE, SIZE // 512, False)
        assert disk.config.num_queues == 4
        assert disk.get_id() == b"vhost_user_blk"
        assert disk.read(0, disk.capacity) == content
        for queue in range(4):
            data = os.urandom(4096)
            disk.write(8 * queue, data, queue=queue)
            assert disk.read(8 * queue, 8, queue=3 - queue) == data
        disk.flush()
        disk.write_zeroes(100, 4)
        disk.discard(200, 4)
        assert disk.read(100, 4) == bytes(2048)
        with pytest.raises(DeviceError, match="an I/O error"):
            disk.read(disk.capacity, 1)
        assert disk.command(99)[0] == 2
        with ThreadPoolExecutor(4) as pool:
            parts = pool.map(lambda i: disk.read(1024 + 16 * i, 16, queue=i % 4), range(32))
            assert b"".join(parts) == content[1024 * 512 : (1024 + 512) * 512]
        written = disk.read(0, 8)
    assert image.read_bytes()[:4096] == written


@pytest.mark.parametrize(
    "options", [{"queue_size": 128, "event_idx": False}, {"use_indirect": True}, {"start": 65535}]
)
def test_rings_of_all_kinds_work_with_qemu(
    storage_daemon: Daemon, image: Path, options: dict[str, int]
) -> None:
    with BlockDriver(storage_daemon(image), **options) as disk:
        assert disk.read(0, disk.capacity) == image.read_bytes()
        for _ in range(300):
            disk.read(1, 1)


def test_a_disk_is_a_file(storage_daemon: Daemon, image: Path) -> None:
    content = bytearray(image.read_bytes())
    with BlockDriver(storage_daemon(image)) as disk:
        with disk.open() as raw, io.BufferedReader(raw) as file:
            assert file.read(10) == content[:10]
            assert file.seek(-7, io.SEEK_END) == SIZE - 7
            assert file.read() == content[-7:]
            assert file.read() == b""
            assert not file.writable()
        with disk.open("r+b") as file_:
            for position, data in ((1000, b"hello" * 300), (512, b"\1" * 1024), (SIZE - 3, b"abcdef")):
                file_.seek(position)
                assert file_.write(data) == min(len(data), SIZE - position)
                content[position : position + len(data)] = data[: SIZE - position]
            file_.seek(0)
            assert file_.read() == content
            with pytest.raises(ValueError, match="before the start"):
                file_.seek(-1)
        with disk.open() as raw, pytest.raises(io.UnsupportedOperation):
            raw.write(b"x")
        with pytest.raises(ValueError, match="mode"):
            disk.open("w")
    assert image.read_bytes() == content


def test_a_read_only_disk_says_so(storage_daemon: Daemon, image: Path) -> None:
    with BlockDriver(storage_daemon(image, writable=False)) as disk:
        assert disk.read_only
        with pytest.raises(DeviceError):
            disk.write(0, bytes(512))


def test_the_load_verifies_a_disk_of_qemu(storage_daemon: Daemon, image: Path) -> None:
    seen: list[int] = []
    with BlockDriver(storage_daemon(image, queues=2), num_queues=2) as disk:
        result = run_block_load(
            disk,
            depth=8,
            block_size=4096,
            read_percent=50,
            requests=2000,
            verify=True,
            progress=lambda requests, _seconds: seen.append(requests),
            progress_interval=0.005,
        )
        assert not result.failed
        assert result.requests == result.reads + result.writes == 4000
        assert result.verified > 500
        assert result.bytes_moved == 4000 * 4096
        assert 0 < result.percentile(50) <= result.percentile(99) <= result.percentile(100)
        assert result.as_dict()["latency_seconds"]["p50"] == result.percentile(50)
        with pytest.raises(ValueError, match="not on a disk"):
            run_block_load(disk, offset=SIZE, requests=1)
        with pytest.raises(ValueError, match="say for how long"):
            run_block_load(disk)


def test_the_load_reports_errors_of_a_device(serve: Serve) -> None:
    device = Faulty()
    device.status = 1
    with BlockDriver(serve(device)) as disk:
        result = run_block_load(disk, depth=2, requests=10, polling=False)
        assert result.failed
        assert (result.errors, result.bytes_moved) == (10, 0)


def test_percentiles_come_from_the_histogram() -> None:
    result = LoadResult(requests=100, histogram={1000: 50, 2000: 49, 9000: 1})
    assert [result.percentile(p) for p in (1, 50, 51, 99, 99.5)] == [1e-6, 1e-6, 2e-6, 2e-6, 9e-6]
