"""The block device (virtio 1.4, 5.2) on a raw file, a block device of the host, or memory.

from vhost_user import serve
from vhost_user.devices import Blk, MemoryStorage

serve(Blk("disk.img", num_queues=4))
serve(Blk(MemoryStorage(1 << 30)))
"""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING

from vhost_user.devices.blk_activation import ActiveDisk
from vhost_user.devices.blk_config import odd_size
from vhost_user.devices.blk_refusals import IOERR, BlkRequestError, bad_range, no_status_byte, short
from vhost_user.devices.storage import FileStorage, Storage, StorageError
from vhost_user.engine.device.request import Request
from vhost_user.engine.errors import EngineError, MemoryFault, RequestError
from vhost_user.protocol.limited_log import LimitedLog
from vhost_user.spec.blk import (
    IDENTITY_SIZE,
    REQUEST_FORMAT,
    SECTOR_SIZE,
    SEGMENT,
    SEGMENT_FLAG_UNMAP,
    BlkConfig,
    BlkFeature,
    BlkRequestType,
    BlkStatus,
)
from vhost_user.spec.features import VirtioFeature

MAX_QUEUES = 256
"""Vring indices of the protocol have eight bits."""
MAX_DATA_SEGMENTS = 126
"""seg_max: with header and status this fills a ring of 128, the default of QEMU.

Smaller rings: see docs/devices/blk.md.
"""
SEG_MAX_OFFSET = 12
MAX_DISCARD_SECTORS = 1 << 22
"""2 GiB a segment: a hole of any size costs the host about the same."""
MAX_DISCARD_SEGMENTS = 64
MAX_WRITE_ZEROES_SECTORS = 1 << 17
"""64 MiB a segment: where zeroes must be written one by one.

A request must not hold up its queue for long.
"""
MAX_WRITE_ZEROES_SEGMENTS = 8

if TYPE_CHECKING:
    from vhost_user.backend import ServedBy, Vring
    from vhost_user.engine.blk.fast_path import BlockFastPath

# Plain numbers: comparing with a member of an IntEnum costs more than the rest of the dispatch.
_IN, _OUT, _FLUSH, _GET_ID = (
    int(kind) for kind in (BlkRequestType.IN, BlkRequestType.OUT, BlkRequestType.FLUSH, BlkRequestType.GET_ID)
)
_DISCARD, _WRITE_ZEROES = int(BlkRequestType.DISCARD), int(BlkRequestType.WRITE_ZEROES)
_OK, _UNSUPP = bytes((BlkStatus.OK,)), bytes((BlkStatus.UNSUPP,))
_SECTOR_MASK = SECTOR_SIZE - 1
_BLOCK_SIZES = (512, 1024, 2048, 4096)


log = logging.getLogger(__name__)


class Blk(ActiveDisk, type="blk"):
    """A disk.

    ``storage`` is the path of a raw image or block device, which is opened, and locked while a guest uses it,
    or a ``Storage``; the device closes it. ``num_queues`` queues are dealt to ``workers`` threads (one for
    each queue up to the number of CPUs it may use if not given). ``block_size`` is the logical block size the
    guest sees, in bytes. ``identity`` is what GET_ID answers, up to 20 bytes; by default the same for the
    same file. Plain reads and writes are carried out by compiled code where the storage has it, unless
    ``fast_path`` is false; the same requests fail in the same way, and a subclass that overrides ``handle``
    gets every request.

    Raises ValueError (StorageError for the storage) for what cannot be served, OSError if the image cannot
    be opened.
    """

    header = REQUEST_FORMAT
    capability_features = ("read-only", "blk-file")
    stop_patience = None  # a write that came after its ring was said to rest would do harm

    def __init__(
        self,
        storage: Storage | str | os.PathLike[str],
        *,
        read_only: bool = False,
        num_queues: int = 1,
        workers: int | None = None,
        block_size: int = 512,
        identity: bytes | None = None,
        fast_path: bool = True,
    ) -> None:
        super().__init__()
        if not 1 <= num_queues <= MAX_QUEUES:
            raise ValueError(f"num_queues is {num_queues}: a block device has 1 to {MAX_QUEUES} queues")
        if block_size not in _BLOCK_SIZES:
            raise ValueError(f"block_size is {block_size}: choose one of {', '.join(map(str, _BLOCK_SIZES))}")
        if identity is not None and len(identity) > IDENTITY_SIZE:
            raise ValueError(
                f"the identity {identity!r} is longer than the {IDENTITY_SIZE} bytes that GET_ID has room for"
            )
        if not isinstance(storage, Storage):
            storage = FileStorage(storage, read_only=read_only)
        if block_size < storage.smallest_block:
            storage.close()
            raise StorageError(
                f"direct access to this image moves whole blocks of {storage.smallest_block} bytes: give the "
                f"guest such blocks, with --block-size={storage.smallest_block} (block_size=...)"
            )
        if storage.size % block_size:
            storage.close()
            raise odd_size(storage.size, block_size)
        self.storage = storage
        self.read_only = read_only or storage.read_only
        self.queues = num_queues
        self.workers = workers or min(num_queues, len(os.sched_getaffinity(0)))
        self.identity = storage.identity if identity is None else identity
        self._block_size = block_size
        self._sectors = storage.size // SECTOR_SIZE
        # What the hot path needs, found once.
        self._read = storage.read
        self._write = storage.write
        self._write_through = True
        self._failures = LimitedLog(log)
        self._fast_path = fast_path and type(self).handle is Blk.handle
        self._fast_paths: tuple[BlockFastPath, ...] = ()
        self._prepare_activation(num_queues)
        self.device_features = int(self._features())
        if not self.read_only:
            start = BlkConfig.WRITEBACK_OFFSET
            self.config_writable = (range(start, start + 1),)
        self._config = bytearray(self._initial_config().pack())
        self.config = self._config
        self._configure()

    def _features(self) -> BlkFeature:
        features = (
            BlkFeature.SEG_MAX | BlkFeature.BLK_SIZE | BlkFeature.TOPOLOGY | BlkFeature.FLUSH | BlkFeature.MQ
        )
        if self.read_only:
            return features | BlkFeature.RO
        return features | BlkFeature.CONFIG_WCE | BlkFeature.DISCARD | BlkFeature.WRITE_ZEROES

    def _initial_config(self) -> BlkConfig:
        writing = not self.read_only
        return BlkConfig(
            capacity=self._sectors,
            seg_max=max(1, min(MAX_DATA_SEGMENTS, self.queue_size - 2)),
            blk_size=self._block_size,
            physical_block_exp=max(0, (4096 // self._block_size).bit_length() - 1),
            min_io_size=max(1, 4096 // self._block_size),
            writeback=1,
            num_queues=self.queues,
            max_discard_sectors=MAX_DISCARD_SECTORS if writing else 0,
            max_discard_seg=MAX_DISCARD_SEGMENTS if writing else 0,
            discard_sector_alignment=max(8, self._block_size // SECTOR_SIZE) if writing else 0,
            max_write_zeroes_sectors=MAX_WRITE_ZEROES_SECTORS if writing else 0,
            max_write_zeroes_seg=MAX_WRITE_ZEROES_SEGMENTS if writing else 0,
            write_zeroes_may_unmap=int(writing),
        )

    # Requests

    def handle(self, request: Request) -> None:
        """One request: a 16-byte header and data to read, data and a status byte to write.

        Framed in any way (V009).
        """
        try:
            kind, _, sector = request.header
            if kind == _IN:
                length = request.writable - 1
                if length & _SECTOR_MASK or sector + (length >> 9) > self._sectors:
                    raise bad_range("read", sector, length, self._sectors)
                if self._read(request, sector << 9, length) != length:
                    raise short("read", sector, length)
            elif kind == _OUT:
                length = request.readable
                if (
                    length & _SECTOR_MASK
                    or sector + (length >> 9) > self._sectors
                    or not request.writable
                    or self.read_only
                ):
                    raise self._bad_write(request, sector, length)
                if self._write(request, sector << 9, length) != length:
                    raise short("write", sector, length)
                if self._write_through:
                    self.storage.flush()
            else:
                self._handle_rare(request, kind)
            request.write_last(_OK)
        except (BlkRequestError, MemoryFault, RequestError, OSError) as error:
            # The guest's or the host's doing: a traceback would say nothing, and much of it.
            self._failures.log(
                logging.ERROR if isinstance(error, OSError) else logging.WARNING,
                "%s: a request of queue %d (head %d) failed: %s",
                type(self).__name__,
                request.queue,
                request.head,
                error,
            )
            self.fail(request, error)

    def _handle_rare(self, request: Request, kind: int) -> None:
        if not request.writable:
            raise no_status_byte()
        if kind == _FLUSH:
            self.storage.flush()
        elif kind == _GET_ID:
            request.write(
                self.identity.ljust(IDENTITY_SIZE, b"\0")[: min(IDENTITY_SIZE, request.writable - 1)]
            )
        elif kind == _DISCARD and not self.read_only:
            self._discard(request)
        elif kind == _WRITE_ZEROES and not self.read_only:
            self._write_zeroes(request)
        elif kind in (_DISCARD, _WRITE_ZEROES):
            raise BlkRequestError(f"{BlkRequestType(kind).name} on a read-only disk")
        else:
            raise BlkRequestError(f"requests of type {kind} are not supported", status=_UNSUPP)

    def _segments(
        self, request: Request, name: str, most: int, most_sectors: int
    ) -> list[tuple[int, int, int]]:
        """The checked segments of a DISCARD or WRITE_ZEROES.

        Every one is checked before any is carried out (H76).
        """
        length = request.readable
        if not length or length % SEGMENT.size or length > most * SEGMENT.size:
            raise BlkRequestError(
                f"{name} with {length} bytes of segments: 1 to {most} of {SEGMENT.size} bytes are legal"
            )
        segments: list[tuple[int, int, int]] = list(SEGMENT.iter_unpack(request.read()))
        for sector, count, flags in segments:
            if flags & ~SEGMENT_FLAG_UNMAP:
                raise BlkRequestError(f"{name} with unknown flags {flags:#x}", status=_UNSUPP)
            if count > most_sectors:
                raise BlkRequestError(
                    f"{name} of {count} sectors: at most {most_sectors} are allowed in a segment"
                )
            if sector + count > self._sectors:
                raise bad_range(name, sector, count * SECTOR_SIZE, self._sectors)
        return segments

    def _discard(self, request: Request) -> None:
        segments = self._segments(request, "DISCARD", MAX_DISCARD_SEGMENTS, MAX_DISCARD_SECTORS)
        if any(flags for _, _, flags in segments):
            raise BlkRequestError("DISCARD with the unmap flag", status=_UNSUPP)
        for sector, count, _ in segments:
            if count:
                self.storage.discard(sector * SECTOR_SIZE, count * SECTOR_SIZE)

    def _write_zeroes(self, request: Request) -> None:
        for sector, count, flags in self._segments(
            request, "WRITE_ZEROES", MAX_WRITE_ZEROES_SEGMENTS, MAX_WRITE_ZEROES_SECTORS
        ):
            if count:
                unmap = bool(flags & SEGMENT_FLAG_UNMAP)
                self.storage.write_zeroes(sector * SECTOR_SIZE, count * SECTOR_SIZE, unmap=unmap)
        if self._write_through:
            self.storage.flush()

    def _bad_write(self, request: Request, sector: int, length: int) -> BlkRequestError:
        if not request.writable:
            return no_status_byte()
        if self.read_only:
            return BlkRequestError(f"write of {length} bytes at sector {sector} of a read-only disk")
        return bad_range("write", sector, length, self._sectors)

    def fail(self, request: Request, exception: BaseException) -> None:
        """Answer with the error status in the last byte.

        Or with nothing written where there is no such byte.
        """
        status = exception.status if isinstance(exception, BlkRequestError) else IOERR
        try:
            if request.writable_total:
                request.write_last(status)
        except EngineError:  # the status byte itself lies in memory that is not there
            request.complete(0)
        else:
            request.complete()

    # Segments of a request (virtio 1.4, 5.2.4)

    def get_config(self, offset: int, size: int) -> bytes:
        """``seg_max`` is what fits the smallest ring set up, unless the driver has indirect tables."""
        segments = max(1, min(MAX_DATA_SEGMENTS, self.queue_size - 2))
        if self._daemon is not None and not self.driver_features & VirtioFeature.RING_INDIRECT_DESC:
            sizes = [vring.size for vring in self._daemon.vrings if vring.size]
            segments = max(1, min([segments, *(size - 2 for size in sizes)]))
        self._config[SEG_MAX_OFFSET : SEG_MAX_OFFSET + 4] = segments.to_bytes(4, "little")
        return super().get_config(offset, size)

    # The fast path: one for each queue, in front of ``handle``

    def attached(self, daemon: ServedBy) -> None:
        """Make the fast paths, and have each looked after by the worker of its queue."""
        super().attached(daemon)
        if not daemon.succeeds and (obstacle := self.storage.obstacle()) is not None:
            log.warning("%s. Until then no request of a guest is served", obstacle)
        if not self._fast_path or self.filters:  # a filter sees every request
            return
        made: list[BlockFastPath] = []
        for _ in range(self.queues):
            fast_path = self.storage.fast_path(read_only=self.read_only)
            if fast_path is None:
                return
            made.append(fast_path)
        self._fast_paths = tuple(made)
        with self._cache.lock:
            self._choose_cache_mode()
        for number, worker in enumerate(daemon.get_epoll_handlers()):
            for vring in worker.vrings:
                if made[vring.index].fd >= 0:
                    self.listen(made[vring.index].fd, partial(self._finished, vring), worker=number)

    def _finished(self, vring: Vring, _events: int) -> None:
        """Requests that were under way have ended: the vring gives them back."""
        with self._in_use[vring.index], suppress(BlockingIOError):
            if self._fast_paths:
                os.eventfd_read(self._fast_paths[vring.index].fd)
        self.queue_event(vring)

    def queue_event(self, vring: Vring) -> object:
        """Requests go to the fast path first, if there is one; what it declines goes to ``handle``."""
        if self._late and not self._late_ones_ended(vring):
            return None
        index = vring.index
        try:
            with self._in_use[index]:
                if not (self._active or self._may_be_served(vring)):
                    return None
                if index not in self._began and vring.started:
                    self._begin(vring)
                if not self._fast_paths:
                    return super().queue_event(vring)
                return vring.process(self.handle, self._failed, fast_path=self._fast_paths[index])
        finally:
            if self._leaving:
                self._let_go()

    def close(self) -> None:
        """Close the storage, and with it the lock on the image.

        Where a daemon still serves the disk, requests that come later fail.
        """
        super().close()
        with ExitStack() as stack:
            for lock in self._in_use:
                stack.enter_context(lock)
            fast_paths, self._fast_paths = self._fast_paths, ()
            for fast_path in fast_paths:
                fast_path.close()
            self._active = True  # as far as anybody may ask: what comes now fails because there is no storage
            self.storage.close()
