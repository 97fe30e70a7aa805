"""Images and memory as places for a disk: what is accepted, what is refused, and the lock."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from vhost_user.devices import FileStorage, MemoryStorage, StorageError
from vhost_user.devices.image_lock import ImageInUseError


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(range(256)) * 64)
    return path


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_size_that_is_no_multiple_of_512_is_refused_with_the_cure(tmp_path: Path) -> None:
    path = tmp_path / "odd.img"
    path.write_bytes(b"x" * 1000)
    before = open_descriptors()
    with pytest.raises(StorageError, match=r"1000 bytes long.*512-byte sector.*truncate -s 1024") as caught:
        FileStorage(path)
    assert str(path) in str(caught.value)
    assert open_descriptors() == before


def test_an_empty_file_is_refused_with_the_cure(tmp_path: Path) -> None:
    path = tmp_path / "empty.img"
    path.touch()
    with pytest.raises(StorageError, match=r"is empty.*truncate -s 1G"):
        FileStorage(path)


def test_a_missing_file_is_named_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing\.img: no such image.*truncate"):
        FileStorage(tmp_path / "missing.img")


@pytest.mark.parametrize("read_only", [True, False])
def test_H54_a_directory_a_fifo_and_a_device_are_no_disks(tmp_path: Path, read_only: bool) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    before = open_descriptors()
    for path in (tmp_path, fifo, Path("/dev/null")):
        with pytest.raises(StorageError, match=r"directory|neither a regular file nor a block device"):
            FileStorage(path, read_only=read_only)
    assert open_descriptors() == before


def test_a_second_writer_is_refused_until_the_first_is_done(image: Path) -> None:
    first, second, reader = FileStorage(image), FileStorage(image), FileStorage(image, read_only=True)
    assert second.obstacle() is None
    first.activate()
    with pytest.raises(ImageInUseError, match=r"another program has this image open.*for writing.*lslocks"):
        second.activate()
    with pytest.raises(ImageInUseError, match="for reading"):
        reader.activate()
    assert "for writing" in (second.obstacle() or "")
    assert "for reading" in (reader.obstacle() or "")
    first.close()
    second.activate()
    for storage in (second, reader):
        storage.close()


def test_readers_share_an_image_and_keep_a_writer_out(image: Path) -> None:
    first, second = FileStorage(image, read_only=True), FileStorage(image, read_only=True)
    writer = FileStorage(image)
    first.activate()
    second.activate()
    first.close()
    with pytest.raises(ImageInUseError):
        writer.activate()
    second.deactivate()
    writer.activate()
    for storage in (second, writer):
        storage.close()


def test_closing_twice_does_no_harm(image: Path) -> None:
    for storage in (FileStorage(image), MemoryStorage(512)):
        storage.close()
        storage.close()


def test_the_same_file_keeps_its_identity(image: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.img"
    other.write_bytes(b"\0" * 512)
    identities = []
    for path in (image, image, other):
        storage = FileStorage(path)
        identities.append(storage.identity)
        storage.close()
    assert identities[0] == identities[1] != identities[2]
    assert all(len(identity) <= 20 for identity in identities)


@pytest.mark.parametrize("unmap", [True, False])
@pytest.mark.parametrize(
    ("offset", "length"), [(0, 16384), (512, 512), (4096, 4096), (512, 12288), (3584, 1024)]
)
def test_write_zeroes_clears_exactly_its_range(image: Path, offset: int, length: int, unmap: bool) -> None:
    content = image.read_bytes()
    expected = content[:offset] + bytes(length) + content[offset + length :]
    memory = MemoryStorage.of(content)
    file = FileStorage(image)
    for storage in (memory, file):
        storage.write_zeroes(offset, length, unmap=unmap)
    assert memory.buffer[:] == expected
    assert image.read_bytes() == expected
    memory.close()
    file.close()


def test_where_the_file_system_cannot_do_it_zeroes_are_written(image: Path) -> None:
    storage = FileStorage(image)
    storage._allocation.refused.update((2, 16))
    storage.write_zeroes(512, 8192, unmap=True)
    storage.discard(12288, 512)
    storage.close()
    content = image.read_bytes()
    assert content[512:8704] == bytes(8192)
    assert content[12288:12800] == (bytes(range(256)) * 2)


def test_discard_gives_the_space_back(tmp_path: Path) -> None:
    path = tmp_path / "full.img"
    path.write_bytes(b"x" * (1 << 20))
    before = path.stat().st_blocks
    storage = FileStorage(path)
    storage.discard(0, 1 << 19)
    storage.close()
    assert path.stat().st_size == 1 << 20
    assert path.stat().st_blocks <= before // 2


def test_memory_disk_takes_pages_only_when_written() -> None:
    storage = MemoryStorage(1 << 30)
    storage.buffer[:3] = b"abc"
    storage.discard(0, 1 << 29)
    assert storage.buffer[: mmap.PAGESIZE] == bytes(mmap.PAGESIZE)
    storage.close()


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


@pytest.mark.parametrize("old_kernel", [False, True])
def test_memory_disk_takes_all_its_pages_when_asked(
    monkeypatch: pytest.MonkeyPatch, old_kernel: bool
) -> None:
    if old_kernel:
        monkeypatch.setattr("vhost_user.devices.storage.MADV_POPULATE_WRITE", 0x7FFF)
    size = 64 << 20
    before = resident()
    lazy = MemoryStorage(size)
    assert resident() < before + size // 2
    storage = MemoryStorage(size, populate=True)
    assert resident() >= before + size * 9 // 10
    assert storage.buffer[size - 1] == 0
    storage.close()
    lazy.close()


@pytest.mark.parametrize("size", [0, -512, 100, 513, 1 << 62])
def test_memory_disk_of_an_impossible_size_is_refused(size: int) -> None:
    with pytest.raises(StorageError, match=f"{size} bytes"):
        MemoryStorage(size)


def test_memory_disk_starts_with_the_content_it_is_given() -> None:
    storage = MemoryStorage.of(b"hello")
    assert storage.size == 512
    assert storage.buffer[:] == b"hello".ljust(512, b"\0")
    storage.close()
