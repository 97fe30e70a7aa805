"""Images past the page cache (O_DIRECT): any buffer, whole blocks, and what cannot be direct."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vhost_user import VhostUserBackend
from vhost_user.devices import Blk, FileStorage, StorageError
from vhost_user.devices.allocation import Allocation
from vhost_user.devices.direct import BOUNCE_SIZE, DirectAccess, direct_block
from vhost_user.frontend import BlockDriver

Serve = Callable[[VhostUserBackend], socket.socket]
CONTENT = random.Random(7).randbytes(4 << 20)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture(params=[True, False], ids=["fast", "Python"])
def disk(image: Path, serve_device: Serve, request: pytest.FixtureRequest) -> Iterator[BlockDriver]:
    storage = FileStorage(image, direct=True)
    assert fcntl.fcntl(storage.fd, fcntl.F_GETFL) & os.O_DIRECT
    device = Blk(storage, fast_path=request.param, block_size=max(512, storage.smallest_block))
    with BlockDriver(serve_device(device), memory_size=64 << 20) as driver:
        yield driver
    device.close()


def transfer(
    disk: BlockDriver, kind: int, sector: int, pieces: list[int], *, shift: int = 0, data: bytes = b""
) -> bytes:
    """A request whose data lies in pieces, each ``shift`` bytes past a multiple of 4096."""
    ring, memory = disk.queue(0).ring, disk.memory
    head, status = memory.allocate(16), memory.allocate(1)
    memory.write(head, struct.pack("<IIQ", kind, 0, sector))
    places = [(memory.allocate(length + shift, 4096) + shift, length) for length in pieces]
    position = 0
    for address, length in places if kind else ():
        memory.write(address, data[position : position + length])
        position += length
    token = ring.add([(head, 16), *(places if kind else ())], [*(() if kind else places), (status, 1)])
    ring.publish()
    ring.kick(force=True)
    assert ring.wait(10.0)
    ((got, length),) = ring.poll_many()
    assert got == token
    assert memory.read(status, 1) == b"\0"
    assert length == 1 + (0 if kind else sum(pieces))
    read = b"".join(memory.read(address, length) for address, length in places)
    for address, _ in places:
        memory.free(address - shift)
    return read


@pytest.mark.parametrize("shift", [0, 512, 16, 1])
@pytest.mark.parametrize(
    "pieces",
    [[4096], [4096] * 5, [1, 4095], [4095, 4097], [512] * 200, [100] * 40 + [96], [BOUNCE_SIZE + 8192]],
    ids=["one", "five", "a byte first", "odd", "many", "crumbs", "large"],
)
def test_any_buffers_are_read_and_written(
    disk: BlockDriver, image: Path, shift: int, pieces: list[int]
) -> None:
    length = sum(pieces)
    assert transfer(disk, 0, 8, pieces, shift=shift) == CONTENT[4096 : 4096 + length]
    new = random.Random(shift).randbytes(length)
    transfer(disk, 1, 16, pieces, shift=shift, data=new)
    assert transfer(disk, 0, 16, [length]) == new
    disk.flush()
    assert image.read_bytes() == CONTENT[:8192] + new + CONTENT[8192 + length :]


def test_zeroes_are_written_where_the_file_system_cannot(
    image: Path, serve_device: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Allocation, "change", lambda *_: False)
    device = Blk(FileStorage(image, direct=True), block_size=4096)
    with BlockDriver(serve_device(device)) as driver:
        driver.write_zeroes(8, 4096)
        assert driver.read(0, 4112) == CONTENT[:4096] + bytes(2 << 20) + CONTENT[4096 + (2 << 20) :][:4096]
    device.close()


def test_nothing_stays_in_the_page_cache(image: Path, serve_device: Serve) -> None:
    """What another host reads of a shared image, this one has not kept."""
    fd = os.open(image, os.O_RDWR)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    device = Blk(FileStorage(image, direct=True), block_size=4096)
    with BlockDriver(serve_device(device)) as driver:
        assert driver.read(0, 2048) == CONTENT[: 1 << 20]
        driver.write(0, bytes(1 << 20))
    device.close()
    with pytest.raises(BlockingIOError):
        os.preadv(fd, [bytearray(4096)], 4096, os.RWF_NOWAIT)
    os.close(fd)


def test_a_file_system_without_direct_access_is_named() -> None:
    with pytest.raises(
        StorageError, match=r"seqnum: its file system has no direct access \(O_DIRECT\).*--direct"
    ):
        FileStorage("/sys/kernel/uevent_seqnum", read_only=True, direct=True)


def test_the_block_is_found_without_the_kernels_word(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = os.open(image, os.O_RDONLY | os.O_DIRECT)
    told = direct_block(fd)
    monkeypatch.setattr("vhost_user.devices.direct._told_by_kernel", lambda _: 0)
    assert direct_block(fd) == told
    preadv = os.preadv

    def picky(fd: int, views: list[memoryview], offset: int) -> int:
        if len(views[0]) % 2048:
            raise OSError(errno.EINVAL, "Invalid argument")
        return preadv(fd, views, offset)

    monkeypatch.setattr(os, "preadv", picky)
    assert direct_block(fd) == 2048
    os.close(fd)


def test_blocks_smaller_than_direct_access_has_are_refused(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vhost_user.devices.direct.direct_block", lambda _: 4096)
    with pytest.raises(StorageError, match=r"whole blocks of 4096 bytes.*--block-size=4096"):
        Blk(FileStorage(image, direct=True))
    device = Blk(FileStorage(image, direct=True), block_size=4096)
    assert isinstance(device.storage, FileStorage)
    access = device.storage._direct
    assert isinstance(access, DirectAccess)
    with pytest.raises(OSError, match=r"512 bytes at byte 512 are not whole blocks of 4096"):
        access._check(512, 512)
    device.close()
