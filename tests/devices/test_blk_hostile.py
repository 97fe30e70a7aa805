"""The block device and drivers that break its rules: each bad request fails alone, the disk goes on."""

from __future__ import annotations

import errno
import os
import random
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vhost_user import Request, VhostUserBackend
from vhost_user.devices import Blk, MemoryStorage
from vhost_user.frontend import BlockDriver
from vhost_user.spec.blk import BlkFeature
from vhost_user.spec.features import VirtioFeature

Serve = Callable[[VhostUserBackend], socket.socket]

CONTENT = random.Random(1).randbytes(64 * 512)
SECTORS = 64
EVERYTHING = VirtioFeature.VERSION_1 | BlkFeature(0x7FFFFE)
OK, IOERR, UNSUPP = 0, 1, 2
IN, OUT, SCSI_COMMAND, FLUSH, GET_ID, DISCARD, WRITE_ZEROES = 0, 1, 2, 4, 8, 11, 13


def header(kind: int, sector: int = 0) -> bytes:
    return struct.pack("<IIQ", kind, 0, sector)


def segment(sector: int, count: int, flags: int = 0) -> bytes:
    return struct.pack("<QII", sector, count, flags)


@pytest.fixture
def content() -> MemoryStorage:
    return MemoryStorage.of(CONTENT)


@pytest.fixture(params=[True, False], ids=["fast", "Python"])
def disk(
    content: MemoryStorage, serve_device: Serve, request: pytest.FixtureRequest
) -> Iterator[BlockDriver]:
    """A disk that still works at the end of every test."""
    with BlockDriver(serve_device(Blk(content, fast_path=request.param)), features=EVERYTHING) as driver:
        yield driver
        assert driver.read(1, 2) == content.buffer[512:1536]


def status(disk: BlockDriver, readable: list[bytes], writable: list[int]) -> int:
    """The last byte of the device-writable part after the request."""
    pending = disk.queue(0).submit(readable, writable)
    pending.wait(10.0)
    last: int = pending.data[-1]
    return last


def test_V009_header_in_descriptors_of_one_byte(disk: BlockDriver) -> None:
    bytes_apart = [bytes((value,)) for value in header(IN, 3)]
    assert disk.queue(0).request(bytes_apart, [512, 1]) == CONTENT[1536:2048] + b"\0"


def test_V009_status_shares_a_descriptor_with_the_data(disk: BlockDriver) -> None:
    assert disk.queue(0).request(header(IN, 3), [513]) == CONTENT[1536:2048] + b"\0"


def test_V009_data_in_odd_pieces(disk: BlockDriver, content: MemoryStorage) -> None:
    assert disk.queue(0).request(header(IN, 2), [1, 510, 2]) == CONTENT[1024:1536] + b"\0"
    data = random.Random(4).randbytes(512)
    pieces = [header(OUT, 5) + data[:1], data[1:300], data[300:]]
    assert disk.queue(0).request(pieces, [1]) == b"\0"
    assert content.buffer[5 * 512 : 6 * 512] == data


def test_V009_one_descriptor_for_header_and_data(disk: BlockDriver, content: MemoryStorage) -> None:
    assert disk.queue(0).request([header(OUT, 7) + b"\x55" * 512], [1]) == b"\0"
    assert content.buffer[7 * 512 : 8 * 512] == b"\x55" * 512


@pytest.mark.parametrize("length", [1, 15])
def test_H14_a_header_that_is_too_short(disk: BlockDriver, content: MemoryStorage, length: int) -> None:
    assert status(disk, [header(OUT)[:length]], [1]) == IOERR
    assert content.buffer[:] == CONTENT


def test_H14_no_readable_part_at_all(disk: BlockDriver) -> None:
    assert status(disk, [], [513]) == IOERR


@pytest.mark.parametrize(
    "readable",
    [
        [header(OUT), bytes(512)],
        [header(DISCARD), segment(0, 8)],
        [header(WRITE_ZEROES), segment(0, 8)],
        [header(IN)],
        [header(FLUSH)],
        [header(GET_ID)],
        [header(99)],
        [b"abc"],
    ],
    ids=["OUT", "DISCARD", "WRITE_ZEROES", "IN", "FLUSH", "GET_ID", "unknown", "short header"],
)
def test_H46_no_byte_for_the_status(disk: BlockDriver, content: MemoryStorage, readable: list[bytes]) -> None:
    pending = disk.queue(0).submit(readable, [])
    pending.wait(10.0)
    assert pending.length == 0
    assert content.buffer[:] == CONTENT


def test_H46_only_a_status_byte_for_a_command_that_answers_more(disk: BlockDriver) -> None:
    assert disk.queue(0).request([header(SCSI_COMMAND), bytes(16)], [1]) == bytes((UNSUPP,))
    assert disk.queue(0).request([header(GET_ID)], [1]) == bytes((OK,))


@pytest.mark.parametrize("length", [1, 511, 513, 1000])
def test_data_that_is_no_multiple_of_512(disk: BlockDriver, content: MemoryStorage, length: int) -> None:
    assert status(disk, [header(IN)], [length, 1]) == IOERR
    assert status(disk, [header(OUT), b"x" * length], [1]) == IOERR
    assert content.buffer[:] == CONTENT


@pytest.mark.parametrize(
    ("sector", "count"),
    [
        (SECTORS, 1),
        (SECTORS - 1, 2),
        (1 << 55, 1),
        ((1 << 64) - 1, 1),
        ((1 << 64) - 1, 2),
        ((1 << 55) - 1, 2),
    ],
)
def test_H73_ranges_that_pass_the_end_or_wrap(
    disk: BlockDriver, content: MemoryStorage, sector: int, count: int
) -> None:
    assert status(disk, [header(IN, sector)], [512] * count + [1]) == IOERR
    assert status(disk, [header(OUT, sector)] + [b"x" * 512] * count, [1]) == IOERR
    assert content.buffer[:] == CONTENT


def test_the_last_sector_is_inside(disk: BlockDriver) -> None:
    assert status(disk, [header(IN, SECTORS - 1)], [512, 1]) == OK
    assert status(disk, [header(IN, SECTORS)], [1]) == OK


@pytest.mark.parametrize("kind", [DISCARD, WRITE_ZEROES])
@pytest.mark.parametrize(
    ("segments", "expected"),
    [
        (b"", IOERR),
        (segment(0, 1)[:-1], IOERR),
        (segment(0, 1) + b"\0", IOERR),
        (segment(0, 1) * 65, IOERR),
        (segment(0, 1, 2), UNSUPP),
        (segment(0, 1, 0x80000000), UNSUPP),
        (segment(SECTORS, 1), IOERR),
        (segment(SECTORS - 1, 2), IOERR),
        (segment((1 << 64) - 1, 1), IOERR),
        (segment(1 << 55, 0xFFFFFFFF), IOERR),
        (segment(0, 0xFFFFFFFF), IOERR),
        (segment(0, 8) + segment(SECTORS, 1), IOERR),
        (segment(0, 8) + segment(8, 8, 4), UNSUPP),
    ],
    ids=["none", "a part", "one and a part", "too many", "flag 2", "flag 2^31", "at the end", "past the end",
         "wraps", "wraps in bytes", "too long", "second past the end", "second with unknown flags"],
)  # fmt: skip
def test_H76_segments_are_checked_before_anything_is_done(
    disk: BlockDriver, content: MemoryStorage, kind: int, segments: bytes, expected: int
) -> None:
    assert status(disk, [header(kind), segments] if segments else [header(kind)], [1]) == expected
    assert content.buffer[:] == CONTENT


@pytest.mark.parametrize(("kind", "most"), [(DISCARD, 1 << 22), (WRITE_ZEROES, 1 << 17)])
def test_H76_a_segment_may_not_hold_up_the_queue_for_long(serve_device: Serve, kind: int, most: int) -> None:
    storage = MemoryStorage((most + 8) * 512)
    storage.buffer[:3] = b"abc"
    with BlockDriver(serve_device(Blk(storage)), features=EVERYTHING) as driver:
        assert driver.config.max_discard_sectors == 1 << 22
        assert driver.config.max_write_zeroes_sectors == 1 << 17
        assert status(driver, [header(kind), segment(0, most + 1)], [1]) == IOERR
        assert driver.read(0, 1)[:3] == b"abc"
        assert status(driver, [header(kind), segment(0, most, kind == WRITE_ZEROES)], [1]) == OK
        assert driver.read(0, 1) == bytes(512)


def test_H76_discard_knows_no_unmap_flag(disk: BlockDriver, content: MemoryStorage) -> None:
    assert status(disk, [header(DISCARD), segment(0, 8, 1)], [1]) == UNSUPP
    assert content.buffer[:] == CONTENT


def test_H76_several_segments_and_empty_ones(disk: BlockDriver, content: MemoryStorage) -> None:
    segments = segment(8, 2) + segment(SECTORS, 0) + segment(20, 1, 1)
    assert status(disk, [header(WRITE_ZEROES, 12345), segments], [1]) == OK
    expected = bytearray(CONTENT)
    expected[8 * 512 : 10 * 512] = bytes(1024)
    expected[20 * 512 : 21 * 512] = bytes(512)
    assert content.buffer[:] == expected


@pytest.mark.parametrize("kind", [3, 5, 10, 12, 14, 15, 0xFFFFFFFF])
def test_unknown_types_are_unsupported(disk: BlockDriver, kind: int) -> None:
    assert disk.queue(0).request([header(kind), bytes(64)], [1]) == bytes((UNSUPP,))
    assert status(disk, [header(kind)], [512, 1]) == UNSUPP


def test_H75_buffers_outside_memory_fail_alone(disk: BlockDriver, content: MemoryStorage) -> None:
    ring, memory = disk.queue(0).ring, disk.memory
    head = memory.allocate(16)
    last = memory.allocate(1)
    nowhere = 0xFFFF_FFFF_0000
    memory.write(head, header(IN, 1))
    memory.write(last, b"\xee")
    tokens = [
        ring.add([(head, 16)], [(nowhere, 512), (last, 1)]),
        ring.add([(head, 16)], [(nowhere, 513)]),
        ring.add([(nowhere, 16)], [(last, 1)]),
    ]
    used: dict[int, int] = {}
    ring.publish()
    ring.kick(force=True)
    while len(used) < 3:
        assert ring.wait(10.0)
        used.update(ring.poll_many())
    assert set(used) == set(tokens)
    assert used[tokens[1]] == 0
    assert memory.read(last, 1) == bytes((IOERR,))
    assert content.buffer[:] == CONTENT


@pytest.mark.parametrize("fast_path", [True, False], ids=["fast", "Python"])
def test_H85_an_image_cut_short_meanwhile(tmp_path: Path, serve_device: Serve, fast_path: bool) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(CONTENT)
    device = Blk(image, fast_path=fast_path)
    with BlockDriver(serve_device(device), features=EVERYTHING) as driver:
        os.truncate(image, 1000)
        assert status(driver, [header(IN, 1)], [512, 1]) == IOERR
        assert status(driver, [header(IN, 10)], [512, 1]) == IOERR
        assert driver.read(0, 1) == CONTENT[:512]
        driver.write(3, b"y" * 512)
        assert driver.read(1, 3) == CONTENT[512:1000] + bytes(536) + b"y" * 512
    device.close()


class BrokenStorage(MemoryStorage):
    """A disk that has an error for everything but the first sector."""

    def __init__(self, error: int) -> None:
        super().__init__(SECTORS * 512)
        self.error = error

    def _fail(self) -> None:
        raise OSError(self.error, os.strerror(self.error))

    def read(self, request: Request, offset: int, length: int) -> int:
        if offset:
            self._fail()
        return super().read(request, offset, length)

    def write(self, request: Request, offset: int, length: int) -> int:
        if offset:
            self._fail()
        return super().write(request, offset, length)

    def flush(self) -> None:
        self._fail()

    def discard(self, offset: int, length: int) -> None:  # noqa: ARG002 - fails for every range
        self._fail()

    def write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:  # noqa: ARG002 - as above
        self._fail()


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_errors_of_the_host_reach_the_guest(
    serve_device: Serve, caplog: pytest.LogCaptureFixture, error: int
) -> None:
    with BlockDriver(serve_device(Blk(BrokenStorage(error))), features=EVERYTHING) as driver:
        assert status(driver, [header(IN, 1)], [512, 1]) == IOERR
        assert status(driver, [header(OUT, 1), bytes(512)], [1]) == IOERR
        for kind, data in ((FLUSH, []), (DISCARD, [segment(0, 1)]), (WRITE_ZEROES, [segment(0, 1)])):
            assert status(driver, [header(kind), *data], [1]) == IOERR
        assert driver.read(0, 1) == bytes(512)
    assert os.strerror(error) in caplog.text


def test_failures_are_logged_with_queue_and_reason(
    disk: BlockDriver, caplog: pytest.LogCaptureFixture
) -> None:
    assert status(disk, [header(IN, SECTORS)], [512, 1]) == IOERR
    assert "queue 0" in caplog.text
    assert "Traceback" not in caplog.text
    assert f"read of 1 sectors at sector {SECTORS} passes the end of the disk" in caplog.text
