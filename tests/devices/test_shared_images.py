"""An image that other hosts may open as well: what is durable and forgotten when, and its lock."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.images import is_free
from tests.support.programs import run_program
from vhost_user.devices import FileStorage
from vhost_user.devices.image_lock import ImageInUseError
from vhost_user.devices.shared_images import seen_by_other_hosts

SIZE = 1 << 20


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(b"\x11" * SIZE)
    return path


def test_what_another_host_may_go_on_with_is_durable_and_not_read_from_the_cache(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr("vhost_user.devices.storage.seen_by_other_hosts", lambda _: True)
    monkeypatch.setattr("vhost_user.devices.storage.forget_cached", lambda _: done.append("forgotten"))
    monkeypatch.setattr("vhost_user.devices.storage.os.fdatasync", lambda _: done.append("durable"))
    storage = FileStorage(image)
    storage.activate()
    assert done == ["forgotten"]
    storage.deactivate()
    assert done == ["forgotten", "durable"]
    storage.close()
    reader = FileStorage(image, read_only=True)
    reader.activate()
    reader.deactivate()
    reader.close()
    assert done == ["forgotten", "durable", "forgotten"]


def test_the_lock_is_given_up_even_if_the_disk_fails_then(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vhost_user.devices.storage.seen_by_other_hosts", lambda _: True)
    monkeypatch.setattr("vhost_user.devices.storage.os.fdatasync", full)
    storage = FileStorage(image)
    storage.activate()
    with pytest.raises(OSError, match="No space left"):
        storage.deactivate()
    assert is_free(image)
    storage.close()


def test_a_file_of_this_host_and_one_that_others_may_write(image: Path) -> None:
    with image.open("rb") as file:
        command = ["stat", "--file-system", "--format=%T", str(image)]
        kind = run_program(command, check=True).stdout.strip()
        assert seen_by_other_hosts(file.fileno()) == (kind not in {"ext2/ext3", "xfs", "overlayfs", "tmpfs"})
    with Path("/proc/self/status").open("rb") as file:
        assert seen_by_other_hosts(file.fileno()), "procfs is not among those known to be local"


def test_a_lock_that_cannot_be_had_leaves_nothing_locked(image: Path) -> None:
    first, second = FileStorage(image), FileStorage(image)
    first.activate()
    with pytest.raises(ImageInUseError, match=r"another program has this image open.*for writing.*lslocks"):
        second.activate()
    first.deactivate()
    second.activate()
    second.deactivate()
    first.activate()
    for storage in (first, second):
        storage.close()
