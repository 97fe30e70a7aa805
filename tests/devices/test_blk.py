"""The block device as a well-behaved driver sees it: on a file and in memory, over a real socket."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vhost_user import Request, VhostUserBackend
from vhost_user.devices import Blk, FileStorage, MemoryStorage, Storage, StorageError
from vhost_user.frontend import BlockDriver, DeviceError, RequestRefused
from vhost_user.spec.blk import BlkConfig, BlkFeature
from vhost_user.spec.features import VirtioFeature

Serve = Callable[[VhostUserBackend], socket.socket]

CONTENT = random.Random(1).randbytes(1 << 20)
SECTORS = len(CONTENT) // 512
EVERYTHING = VirtioFeature.VERSION_1 | BlkFeature(0x7FFFFE)
"""Every feature that a block device may offer."""


@pytest.fixture(params=["file", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    made: Storage
    if request.param == "file":
        image = tmp_path / "disk.img"
        image.write_bytes(CONTENT)
        made = FileStorage(image)
    else:
        made = MemoryStorage.of(CONTENT)
    yield made
    made.close()


@pytest.fixture(
    params=[(True, False), (True, True), (False, False), (False, True)],
    ids=["fast-split", "fast-packed", "Python-split", "Python-packed"],
)
def disk(storage: Storage, serve_device: Serve, request: pytest.FixtureRequest) -> Iterator[BlockDriver]:
    fast_path, packed = request.param
    device = Blk(storage, fast_path=fast_path)
    with BlockDriver(serve_device(device), features=EVERYTHING, packed=packed) as driver:
        assert driver.queue(0).ring.packed == packed
        yield driver


def test_reads_what_is_there(disk: BlockDriver) -> None:
    assert disk.capacity == SECTORS
    assert disk.read(0, 8) == CONTENT[:4096]
    assert disk.read(SECTORS - 1, 1) == CONTENT[-512:]
    assert disk.read(3, 2000) == CONTENT[3 * 512 : 2003 * 512]


def test_writes_are_read_back_and_touch_nothing_else(disk: BlockDriver) -> None:
    data = random.Random(2).randbytes(5 * 512)
    disk.write(17, data)
    assert disk.read(17, 5) == data
    assert disk.read(16, 1) == CONTENT[16 * 512 : 17 * 512]
    assert disk.read(22, 1) == CONTENT[22 * 512 : 23 * 512]


def test_writes_reach_the_file(tmp_path: Path, serve_device: Serve) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(8192))
    device = Blk(image)
    with BlockDriver(serve_device(device), features=EVERYTHING) as driver:
        driver.write(1, b"\xaa" * 512)
        driver.flush()
    assert image.read_bytes() == bytes(512) + b"\xaa" * 512 + bytes(7168)
    device.close()


def test_V014_used_length_is_data_and_status_for_reads_and_status_for_writes(disk: BlockDriver) -> None:
    queue = disk.queue(0)
    read = queue.submit(struct.pack("<IIQ", 0, 0, 4), [1024, 1])
    read.wait(10.0)
    assert (read.length, read.data) == (1025, CONTENT[2048:3072] + b"\0")
    write = queue.submit([struct.pack("<IIQ", 1, 0, 4), bytes(1024)], 1)
    write.wait(10.0)
    assert (write.length, write.data) == (1, b"\0")


def test_discard_and_write_zeroes(disk: BlockDriver) -> None:
    disk.write_zeroes(8, 16)
    assert disk.read(7, 18) == CONTENT[7 * 512 : 8 * 512] + bytes(16 * 512) + CONTENT[24 * 512 : 25 * 512]
    disk.write_zeroes(100, 3, unmap=True)
    assert disk.read(100, 4) == bytes(3 * 512) + CONTENT[103 * 512 : 104 * 512]
    disk.discard(200, 8)
    assert disk.read(199, 1) == CONTENT[199 * 512 : 200 * 512]
    assert disk.read(208, 1) == CONTENT[208 * 512 : 209 * 512]


def test_identity(serve_device: Serve) -> None:
    with BlockDriver(serve_device(Blk(MemoryStorage(512), identity=b"serial-0815"))) as driver:
        assert driver.get_id().rstrip(b"\0") == b"serial-0815"
    with BlockDriver(serve_device(Blk(MemoryStorage(512), identity=b"x" * 20))) as driver:
        assert driver.get_id() == b"x" * 20


def test_identity_in_a_shorter_buffer(serve_device: Serve) -> None:
    with BlockDriver(serve_device(Blk(MemoryStorage(512), identity=b"serial-0815"))) as driver:
        assert driver.queue(0).request(struct.pack("<IIQ", 8, 0, 0), [6, 1]) == b"serial\0"


def test_config_space_is_complete(storage: Storage, serve_device: Serve) -> None:
    with BlockDriver(
        serve_device(Blk(storage, num_queues=3, block_size=4096)), features=EVERYTHING
    ) as driver:
        config = BlkConfig.unpack(driver.read_config(0, 96))
        assert driver.read_config(90, 20) == bytes(20)
    assert config.capacity == SECTORS
    assert config.seg_max == 126
    assert config.blk_size == 4096
    assert config.physical_block_exp == 0
    assert config.writeback == 1
    assert config.num_queues == 3
    assert config.max_discard_sectors
    assert config.max_discard_seg
    assert config.max_write_zeroes_sectors
    assert config.max_write_zeroes_seg
    assert config.write_zeroes_may_unmap == 1


def test_features_match_what_the_disk_does() -> None:
    disk = Blk(MemoryStorage(512))
    reader = Blk(MemoryStorage(512), read_only=True)
    both = BlkFeature.SEG_MAX | BlkFeature.BLK_SIZE | BlkFeature.TOPOLOGY | BlkFeature.FLUSH | BlkFeature.MQ
    writing = BlkFeature.CONFIG_WCE | BlkFeature.DISCARD | BlkFeature.WRITE_ZEROES
    assert disk.device_features == both | writing
    assert reader.device_features == both | BlkFeature.RO
    assert disk.features() & disk.device_features == disk.device_features


@pytest.mark.parametrize("fast_path", [True, False], ids=["fast", "Python"])
def test_queues_work_side_by_side(storage: Storage, serve_device: Serve, fast_path: bool) -> None:
    device = Blk(storage, num_queues=4, workers=2, fast_path=fast_path)
    with BlockDriver(serve_device(device), num_queues=4, features=EVERYTHING) as driver:
        pending = [
            (sector, driver.queue(number % 4).submit(struct.pack("<IIQ", 0, 0, sector), [512, 1]))
            for number, sector in enumerate(random.Random(3).sample(range(SECTORS), 200))
        ]
        for sector, one in pending:
            assert one.wait(10.0) == CONTENT[sector * 512 : sector * 512 + 512] + b"\0"


def test_read_only_disk_refuses_every_change(tmp_path: Path, serve_device: Serve) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(CONTENT)
    image.chmod(0o400)
    device = Blk(image, read_only=True)
    segment = struct.pack("<QII", 0, 1, 0)
    with BlockDriver(serve_device(device), features=EVERYTHING) as driver:
        assert driver.features & BlkFeature.RO
        for kind, data in ((1, bytes(512)), (11, segment), (13, segment)):
            assert driver.queue(0).request([struct.pack("<IIQ", kind, 0, 0), data], 1) == b"\x01"
        assert driver.read(0, 4) == CONTENT[:2048]
        driver.flush()
    device.close()
    assert image.read_bytes() == CONTENT


@pytest.mark.parametrize("fast_path", [True, False], ids=["fast", "Python"])
def test_read_only_memory_disk_refuses_every_change(serve_device: Serve, fast_path: bool) -> None:
    storage = MemoryStorage.of(CONTENT)
    segment = struct.pack("<QII", 0, 8, 0)
    device = Blk(storage, read_only=True, fast_path=fast_path)
    with BlockDriver(serve_device(device), features=EVERYTHING) as driver:
        for kind, data in ((1, bytes(512)), (11, segment), (13, segment)):
            assert driver.queue(0).request([struct.pack("<IIQ", kind, 0, 0), data], 1) == b"\x01"
        assert driver.read(0, SECTORS) == CONTENT


@pytest.mark.parametrize("fast_path", [True, False], ids=["fast", "Python"])
def test_H51_a_disk_closed_while_it_is_used_fails_requests_and_nothing_else(
    storage: Storage, serve_device: Serve, fast_path: bool
) -> None:
    device = Blk(storage, fast_path=fast_path)
    with BlockDriver(serve_device(device), features=EVERYTHING) as driver:
        queue = driver.queue(0)
        for _ in range(3):
            pending = [queue.submit(struct.pack("<IIQ", 0, 0, sector), [512, 1]) for sector in range(40)]
            device.close()
            for one in pending:
                one.wait(10.0)
                assert one.data[-1] in (0, 1)
        with pytest.raises(DeviceError):
            driver.read(0, 1)


def test_H72_the_format_of_an_image_is_never_guessed(tmp_path: Path, serve_device: Serve) -> None:
    image = tmp_path / "disk.img"
    header = b"QFI\xfb" + struct.pack(">IQI", 3, 512, 9) + b"/etc/passwd"
    image.write_bytes(header.ljust(4096, b"\0"))
    device = Blk(image)
    with BlockDriver(serve_device(device), features=EVERYTHING) as driver:
        assert driver.capacity == 8
        assert driver.read(0, 1) == header.ljust(512, b"\0")
        driver.write(0, b"KDMV" + bytes(508))
    device.close()
    assert image.read_bytes()[:4] == b"KDMV"


class CountingStorage(MemoryStorage):
    """Counts the flushes."""

    flushes = 0

    def flush(self) -> None:
        self.flushes += 1


def test_C129_only_the_cache_mode_can_be_written(serve_device: Serve) -> None:
    storage = CountingStorage(4096)
    with BlockDriver(serve_device(Blk(storage)), features=EVERYTHING) as driver:
        driver.write(0, bytes(512))
        assert storage.flushes == 0
        driver.write_config(32, b"\0")
        assert driver.read_config(32, 1) == b"\0"
        before = storage.flushes
        driver.write(0, bytes(512))
        assert storage.flushes == before + 1
        driver.write_config(32, b"\1")
        driver.write(0, bytes(512))
        assert storage.flushes == before + 1
        for offset, data in ((0, bytes(8)), (31, b"\1\1"), (32, b"\0\1"), (33, b"\1"), (96, b"\1")):
            with pytest.raises(RequestRefused):
                driver.write_config(offset, data)
        config = driver.read_config(0, 96)
        assert config[:8] == struct.pack("<Q", 8)
        assert config[32] == 1
        driver.write_config(0, config[:32] + b"\0" + config[33:])  # as QEMU does it: all of it for one byte
        assert driver.read_config(32, 1) == b"\0"


def test_C129_a_migration_takes_over_the_cache_mode_only(serve_device: Serve) -> None:
    device = Blk(MemoryStorage(4096))
    with BlockDriver(serve_device(device), features=EVERYTHING) as driver:
        driver.frontend.set_config(0, BlkConfig(capacity=99, writeback=0, num_queues=7).pack(), flags=1)
        config = BlkConfig.unpack(driver.read_config(0, 96))
    assert (config.capacity, config.num_queues, config.writeback) == (8, 1, 0)


def test_a_driver_that_cannot_flush_gets_write_through(serve_device: Serve) -> None:
    storage = CountingStorage(4096)
    with BlockDriver(serve_device(Blk(storage)), features=int(VirtioFeature.VERSION_1)) as driver:
        driver.write(0, bytes(512))
    assert storage.flushes == 1


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_the_fast_path_takes_plain_requests_and_leaves_the_rest(
    serve_device: Serve, tmp_path: Path, kind: str
) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(CONTENT)
    device = Blk(MemoryStorage.of(CONTENT) if kind == "memory" else image)
    with BlockDriver(serve_device(device), features=EVERYTHING) as driver:
        (fast_path,) = device._fast_paths
        for sector in range(64):
            assert driver.read(sector, 1) == CONTENT[sector * 512 : sector * 512 + 512]
        driver.write(0, bytes(512))
        assert fast_path.accepted == 65
        declined = fast_path.declined
        driver.flush()
        driver.write_config(32, b"\0")
        driver.write(1, bytes(512))
        assert fast_path.declined == declined + 2


class Loud(Blk):
    """A disk that changes what is read: the fast path must not pass it by."""

    def handle(self, request: Request) -> None:
        kind, _, sector = request.header
        if kind == 0 and sector == 1:
            request.write(b"!" * 512)
            request.write_last(b"\0")
        else:
            super().handle(request)


def test_a_subclass_with_its_own_handle_gets_every_request(serve_device: Serve) -> None:
    with BlockDriver(serve_device(Loud(MemoryStorage(4096)))) as driver:
        assert driver.read(1, 1) == b"!" * 512
        assert driver.read(2, 1) == bytes(512)


def test_read_only_disk_has_no_writable_config(serve_device: Serve) -> None:
    device = Blk(MemoryStorage(512), read_only=True)
    with (
        BlockDriver(serve_device(device), features=EVERYTHING) as driver,
        pytest.raises(RequestRefused),
    ):
        driver.write_config(32, b"\0")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"num_queues": 0}, "num_queues is 0: a block device has 1 to 256"),
        ({"num_queues": 257}, "num_queues is 257"),
        ({"block_size": 513}, "block_size is 513: choose one of 512"),
        ({"identity": b"x" * 21}, "longer than the 20 bytes"),
        ({"block_size": 4096}, "not a whole number of blocks of 4096"),
    ],
)
def test_impossible_disks_are_refused(arguments: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Blk(MemoryStorage(512), **arguments)  # type: ignore[arg-type]  # arguments of several types


def test_a_refused_disk_gives_its_image_back(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(512))
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(StorageError):
        Blk(image, block_size=4096)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
