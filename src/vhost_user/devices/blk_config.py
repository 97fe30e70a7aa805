"""What a driver sees of a disk besides its requests: cache mode and size (virtio 1.4, 5.2.4 and 5.2.5)."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from vhost_user.backend import Device
from vhost_user.devices.blk_cache import CacheMode
from vhost_user.devices.storage import Storage, StorageError
from vhost_user.spec.blk import SECTOR_SIZE, BlkConfig

if TYPE_CHECKING:
    from vhost_user.backend import Vring
    from vhost_user.engine.blk.fast_path import BlockFastPath

log = logging.getLogger(__name__)


def _was_in_use(vring: Vring) -> bool:
    """Whether a ring that begins now had requests before this session: its base is not that of a new one."""
    # A packed ring's has two positions, each with a wrap counter (V024).
    return bool(vring.base() & (0x7FFF_7FFF if vring.packed else 0xFFFF))


def odd_size(size: int, block_size: int) -> StorageError:
    """A size that the blocks of the disk do not divide."""
    return StorageError(f"a disk of {size} bytes is not a whole number of blocks of {block_size} bytes")


class DiskConfiguration(Device):
    """The part of ``Blk`` that is about its configuration space."""

    storage: Storage
    read_only: bool
    _block_size: int
    _sectors: int
    _config: bytearray
    _fast_paths: tuple[BlockFastPath, ...]

    def _configure(self) -> None:
        """``_config`` is as it is to be at first."""
        self._cache = CacheMode(self._config)
        self._write_through = True
        self._began: set[int] = set()
        """Queues that had an event in this session."""
        self._resizing = threading.Lock()

    # Cache mode

    def _choose_cache_mode(self) -> None:
        """Follow ``_cache``, whose lock is held."""
        self._write_through = self._cache.write_through
        for fast_path in self._fast_paths:
            fast_path.write_through = self._write_through

    def acked_features(self, features: int) -> None:
        """Note what the driver can do: without FLUSH the disk is write-through."""
        super().acked_features(features)
        with self._cache.lock:
            self._cache.negotiated(features)
            self._choose_cache_mode()

    def get_config(self, offset: int, size: int) -> bytes:
        """The configuration space; reading ``writeback`` tells the driver its cache mode."""
        with self._cache.lock:
            self._cache.read(offset, size)
            self._choose_cache_mode()
        return super().get_config(offset, size)

    def set_config(self, offset: int, data: bytes) -> None:
        """Only ``writeback`` can be written, with 0 or 1 (C129).

        It switches between write-back and write-through at once.
        """
        self._cache.check(offset, data)
        super().set_config(offset, data)
        with self._cache.lock:
            self._cache.written()
            self._choose_cache_mode()
        if self._write_through and not self.read_only:
            self.storage.flush()  # what was written back so far must be as durable as what comes

    def restore_config(self, offset: int, data: bytes) -> None:
        """After a migration: take over the cache mode; the shape of the disk is that of the storage here."""
        self._cache.check(offset, data)
        self._inside(self._config_bytes(), offset, data)
        place = BlkConfig.WRITEBACK_OFFSET
        if offset <= place < offset + len(data):
            with self._cache.lock:
                self._config[place] = data[place - offset]
                self._cache.written()
                self._choose_cache_mode()

    def reset(self) -> None:
        """As new, but for the cache mode: a front-end may show the driver a copy of it that it keeps."""
        with self._cache.lock:
            self._cache.reset()
            self._choose_cache_mode()
        super().reset()

    def session_ended(self) -> None:
        """The next session may be that of the same guest."""
        super().session_ended()
        with self._cache.lock:
            self._began.clear()
            self._cache.session_ended()

    # State: what is known about the driver's idea of the cache mode (see blk_cache)

    def save_state(self) -> dict[str, object]:
        """What a migration or an upgrade carries along; the bytes of the disk are where they are."""
        with self._cache.lock:
            return {"cache": self._cache.knowledge(), "began": sorted(self._began)}

    def load_state(self, state: Any, version: int) -> None:
        """Take over what ``save_state`` gave: which queues had begun, what is known of the cache mode."""
        del version  # there was one so far
        began = state["began"]
        if not isinstance(began, list) or not all(number in range(self.queues) for number in began):
            raise ValueError(f"queues {began!r} of {self.queues}")
        with self._cache.lock:
            self._cache.learn(state["cache"])
            self._began = set(began)
            self._choose_cache_mode()

    def _begin(self, vring: Vring) -> None:
        """The first event of a queue in this session, before anything is taken from it."""
        with self._cache.lock:
            # The first one looks at all of them, while none of them can go on: a second queue that was in use
            # is a reason to be careful with the first.
            vrings = self._daemon.vrings if self._daemon is not None and not self._began else ()
            others = [each for each in vrings if each.started]
            self._began.add(vring.index)
            self._cache.runs(began_before=any(map(_was_in_use, (vring, *others))))
            self._choose_cache_mode()
            doubtful = self._cache.doubtful
        if doubtful:
            log.info(
                "%s: queue %d: the guest has been running, and nothing tells whether it chose write-through: "
                "every write is flushed until its driver sets the cache mode (see docs/devices/blk.md)",
                type(self).__name__,
                vring.index,
            )

    # The size

    def resize(self) -> int:
        """Take over the size that the storage has by now, and tell the driver; the size in bytes.

        Call it from any thread after the image has grown or shrunk: ``serve`` does so at SIGHUP. Requests
        past a new end fail. Raises StorageError, with everything as it was, for a size that no disk can have.
        """
        with self._resizing:
            size = self.storage.measure()
            if size % self._block_size:
                raise odd_size(size, self._block_size)
            if size == self._sectors * SECTOR_SIZE:
                return size
            # When the driver learns of a new end, everything goes by it already.
            self._sectors = size // SECTOR_SIZE
            self.storage.size = size
            for fast_path in self._fast_paths:
                fast_path.resize(size)
            self._config[:8] = self._sectors.to_bytes(8, "little")
        log.info("%s: the disk has %d bytes now", type(self).__name__, size)
        self.config_changed()
        return size

    def refresh(self) -> None:
        """Take over the size of the image (SIGHUP): ``resize``."""
        self.resize()

    def config_changed(self) -> None:
        """Tell the driver that the configuration is different now, as ``Device.config_changed`` does."""
        with self._cache.lock:
            self._cache.config_changed()
        super().config_changed()
