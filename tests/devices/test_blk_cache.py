"""When a disk is write-through: by features, by choice, and when it cannot be known (virtio 1.4, 5.2.5.2)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from vhost_user import Listener, VhostUserDaemon
from vhost_user.devices import Blk, MemoryStorage
from vhost_user.frontend import BlockDriver, RequestRefused
from vhost_user.spec.blk import BlkConfig, BlkFeature
from vhost_user.spec.features import VirtioFeature

PLAIN = int(VirtioFeature.VERSION_1)
FLUSH = PLAIN | BlkFeature.FLUSH
WCE = PLAIN | BlkFeature.CONFIG_WCE
BOTH = FLUSH | BlkFeature.CONFIG_WCE
IN_USE = 1000
"""The base of a ring that was used before."""


class Counting(MemoryStorage):
    """Counts what reaches stable storage."""

    flushes = 0

    def flush(self) -> None:
        self.flushes += 1


class Silent(BlockDriver):
    """A front-end that never reads the configuration, as QEMU after a reconnect."""

    def ready(self) -> None:
        pass


class LikeQemu(Silent):
    """Reads the configuration once, as soon as it is made, and shows the guest its copy."""

    def acknowledge(self) -> None:
        self.read_config(0, 60)
        super().acknowledge()


def flushed(driver: BlockDriver, storage: Counting, count: int = 4) -> int:
    """How many flushes ``count`` writes need."""
    before = storage.flushes
    for sector in range(count):
        assert driver.queue(0).request([struct.pack("<IIQ", 1, 0, sector), bytes(512)], 1) == b"\0"
    return storage.flushes - before


class Disk:
    """A disk at a socket, for one front-end after the other."""

    def __init__(self, path: Path, *, fast_path: bool) -> None:
        self.storage = Counting(1 << 20)
        self.device = Blk(self.storage, fast_path=fast_path, num_queues=2)
        self.path = path
        self.stack = ExitStack()
        listener = self.stack.enter_context(Listener.bind(str(path)))
        daemon = self.stack.enter_context(VhostUserDaemon("disk", self.device))
        self.stack.callback(daemon.close)
        daemon.start(listener)


MakeDisk = Callable[[], Disk]


@pytest.fixture(params=[True, False], ids=["fast", "Python"])
def make_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeDisk]:
    """Makes a disk with a back-end that knows nothing yet, as one that was started again."""
    with ExitStack() as stack:

        def make() -> Disk:
            stack.close()
            made = Disk(tmp_path / "disk.sock", fast_path=request.param)
            stack.enter_context(made.stack)
            return made

        yield make


@pytest.mark.parametrize("driver", [BlockDriver, LikeQemu, Silent])
@pytest.mark.parametrize("features", [PLAIN, WCE], ids=["neither", "CONFIG_WCE alone"])
def test_without_FLUSH_writeback_starts_at_0_and_every_write_is_flushed(
    make_disk: MakeDisk, driver: type[BlockDriver], features: int
) -> None:
    disk = make_disk()
    with driver(disk.path, features=features) as one:
        assert one.read_config(32, 1) == b"\0"
        assert flushed(one, disk.storage) == 4
    with driver(disk.path, features=FLUSH) as one:
        assert one.read_config(32, 1) == b"\1"


def test_without_FLUSH_there_is_no_write_back_to_choose(make_disk: MakeDisk) -> None:
    """The front-end's copy of the configuration may be older than the features: see LikeQemu."""
    disk = make_disk()
    with LikeQemu(disk.path, features=WCE) as one:
        one.write_config(32, b"\1")
        assert one.read_config(32, 1) == b"\1"
        assert flushed(one, disk.storage) == 4


@pytest.mark.parametrize("driver", [BlockDriver, LikeQemu])
@pytest.mark.parametrize("features", [FLUSH, BOTH], ids=["FLUSH", "FLUSH and CONFIG_WCE"])
def test_with_FLUSH_a_disk_is_write_back(
    make_disk: MakeDisk, driver: type[BlockDriver], features: int
) -> None:
    disk = make_disk()
    with driver(disk.path, features=features) as one:
        assert one.read_config(32, 1) == b"\1"
        assert flushed(one, disk.storage) == 0


def test_C129_writeback_is_0_or_1(make_disk: MakeDisk) -> None:
    disk = make_disk()
    with BlockDriver(disk.path, features=BOTH) as one:
        config = one.read_config(0, 96)
        for data in (b"\2", b"\xff"):
            with pytest.raises(RequestRefused):
                one.write_config(32, data)
            with pytest.raises(RequestRefused):
                one.write_config(0, config[:32] + data + config[33:])
            with pytest.raises(RequestRefused):
                one.frontend.set_config(0, BlkConfig(writeback=data[0]).pack(), flags=1)
        assert one.read_config(0, 96) == config
        assert flushed(one, disk.storage) == 0


@pytest.mark.parametrize("base", [0, IN_USE])
@pytest.mark.parametrize("queue", [0, 1])
def test_write_through_is_kept_when_the_back_end_restarts(
    make_disk: MakeDisk, base: int, queue: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    disk = make_disk()
    with LikeQemu(disk.path, features=BOTH, num_queues=2) as one:
        one.write_config(32, b"\0")
        assert flushed(one, disk.storage) == 4
    disk = make_disk()
    # The front-end comes back with what it and its guest know; about the cache mode it says nothing.
    start = [base if index == queue else 0 for index in range(2)]
    with Silent(disk.path, features=BOTH, num_queues=2, start=start) as one:
        assert flushed(one, disk.storage) == 4
        one.read_config(0, 60)
        assert flushed(one, disk.storage) == (4 if base else 0)
        one.write_config(32, b"\1")
        assert flushed(one, disk.storage) == 0
    assert ("nothing tells whether it chose write-through" in caplog.text) == bool(base)


@pytest.mark.parametrize("base", [0, IN_USE])
@pytest.mark.parametrize("chosen", [None, 0, 1])
def test_the_cache_mode_is_kept_when_the_front_end_comes_back(
    make_disk: MakeDisk, base: int, chosen: int | None
) -> None:
    disk = make_disk()
    with LikeQemu(disk.path, features=BOTH) as one:
        if chosen is not None:
            one.write_config(32, bytes((chosen,)))
    for _ in range(2):
        with Silent(disk.path, features=BOTH, start=base) as one:
            assert flushed(one, disk.storage) == (4 if chosen == 0 else 0)


def test_another_front_end_begins_with_write_back(make_disk: MakeDisk) -> None:
    disk = make_disk()
    with LikeQemu(disk.path, features=BOTH) as one:
        one.write_config(32, b"\0")
    with LikeQemu(disk.path, features=BOTH) as one:
        assert one.read_config(32, 1) == b"\1"
        assert flushed(one, disk.storage) == 0


def test_a_guest_that_migrated_here_is_believed_to_be_write_through(make_disk: MakeDisk) -> None:
    """QEMU shows it the mode it had, and tells only the front-end where it came from."""
    disk = make_disk()
    with LikeQemu(disk.path, features=BOTH, start=IN_USE) as one:
        assert flushed(one, disk.storage) == 4
        one.frontend.set_config(32, b"\1", flags=1)
        assert flushed(one, disk.storage) == 0


def test_C075_a_reset_keeps_the_cache_mode(make_disk: MakeDisk) -> None:
    """QEMU shows the next driver its copy, which still says 0."""
    disk = make_disk()
    with LikeQemu(disk.path, features=BOTH) as one:
        one.write_config(32, b"\0")
        one.frontend.reset_device()
        one.frontend.set_features(one.frontend.features)
        one.enable_queue(0)
        assert one.read_config(32, 1) == b"\0"
        assert flushed(one, disk.storage) == 4


def test_what_is_read_after_a_change_of_the_size_tells_nothing(make_disk: MakeDisk) -> None:
    """QEMU takes the capacity out of it, and nothing else."""
    disk = make_disk()
    with Silent(disk.path, features=BOTH) as one:
        assert flushed(one, disk.storage) == 4
        disk.device.config_changed()
        one.read_config(0, 60)
        assert flushed(one, disk.storage) == 4
