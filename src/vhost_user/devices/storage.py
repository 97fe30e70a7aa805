"""Where the bytes of a block device live: a raw file or block device of the host, or memory.

A storage moves bulk data straight between itself and the buffers of a request; no Python bytes in between.
All offsets and lengths are bytes, already checked by the device to lie inside ``size``. Methods are called
from several threads.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import stat
import sys
import threading
import warnings
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from vhost_user.devices.allocation import PUNCH_HOLE, ZERO_RANGE, Allocation
from vhost_user.devices.direct import DirectAccess
from vhost_user.devices.image_lock import image_in_use, in_use, lock_image, unlock_image
from vhost_user.devices.shared_images import forget_cached, seen_by_other_hosts
from vhost_user.spec.blk import SECTOR_SIZE
from vhost_user.spec.errors import VhostUserError

if TYPE_CHECKING:
    from vhost_user.engine.blk.fast_path import BlockFastPath
    from vhost_user.engine.device.request import Request

SECTOR = SECTOR_SIZE
"""Bytes in a sector of the virtio block device, whatever its block size is (virtio 1.4, 5.2.4)."""

# A mapping, because direct access wants addresses that are multiples of a block.
_ZEROES = memoryview(mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ))
MADV_POPULATE_WRITE = 23


class StorageError(VhostUserError, ValueError):
    """A storage cannot be used as a disk as it is; the message says why and how to put it right."""


class Storage(ABC):
    """What a block device needs of the place where its bytes are."""

    size: int
    """Bytes, a multiple of 512."""
    read_only: bool
    identity: bytes
    """Up to 20 bytes for GET_ID; the same disk keeps the same one."""
    smallest_block: int = SECTOR
    """Bytes: the device refuses to show the guest smaller blocks."""

    @abstractmethod
    def read(self, request: Request, offset: int, length: int) -> int:
        """Move ``length`` bytes from ``offset`` into the writable part of the request; the bytes moved.

        Raises OSError.
        """

    @abstractmethod
    def write(self, request: Request, offset: int, length: int) -> int:
        """Move ``length`` bytes of the readable part of the request to ``offset``; the bytes moved.

        Raises OSError.
        """

    @abstractmethod
    def flush(self) -> None:
        """Return when everything written so far would survive a power cut. Raises OSError."""

    @abstractmethod
    def discard(self, offset: int, length: int) -> None:
        """Give the range back to the host where it can take it; its content is undefined afterwards.

        Raises OSError.
        """

    @abstractmethod
    def write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        """Make the range read as zeroes; with ``unmap`` its space may be given back. Raises OSError."""

    def fast_path(self, *, read_only: bool) -> BlockFastPath | None:
        """A compiled fast path to these bytes for one queue, if there is one; whoever asks closes it.

        With ``read_only`` it leaves writes alone, even where the storage itself could be written.
        """
        del read_only
        return None

    def __init_subclass__(cls, **given: Any) -> None:
        """Take a method ``accelerator``, as ``fast_path`` was called, for it."""
        super().__init_subclass__(**given)
        if "accelerator" in vars(cls) and "fast_path" not in vars(cls):
            warnings.warn(
                f"{cls.__name__}.accelerator is now called fast_path", DeprecationWarning, stacklevel=2
            )
            cls.fast_path = vars(cls)["accelerator"]  # type: ignore[method-assign]

    def accelerator(self, *, read_only: bool) -> BlockFastPath | None:
        """The old name of ``fast_path``."""
        warnings.warn("Storage.accelerator is now called fast_path", DeprecationWarning, stacklevel=2)
        return self.fast_path(read_only=read_only)

    def measure(self) -> int:
        """The size by now, in bytes: an image can grow while it is served. Raises StorageError, OSError."""
        return self.size

    def activate(self) -> None:  # noqa: B027  # most storages have nobody to share with
        """From now on the guest's requests come: have the bytes for ourselves, as far as that can be had.

        Called before the first request of a guest, in a worker, which serves nobody meanwhile. Raises OSError
        when somebody else has them (ImageInUseError): it is tried again for a while.
        """

    def deactivate(self) -> None:  # noqa: B027
        """No request is under way, and none comes before ``activate``: another program may have the bytes.

        Called when all queues have stopped, before the front-end learns of the last. Raises OSError.
        """

    def obstacle(self) -> str | None:
        """Why ``activate`` would fail now, in words; None if it would not."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Release everything; twice does no harm."""


def _changes_data_path(storage: Storage, base: type[Storage]) -> bool:
    """Whether a subclass moves the bytes itself: a fast path must not pass it by."""
    kind = type(storage)
    return kind.read is not base.read or kind.write is not base.write


class FileStorage(Storage):
    """A raw image file or a block device.

    The format is never guessed: what is in the file is what the guest sees (H72).

    ``path`` is opened, and locked by ``activate``. With ``direct`` the host's page cache is left out
    (O_DIRECT): data that the guest caches anyway is not kept twice, and a host that shares the image sees it
    at once.

    Raises StorageError if it is not a file or block device, is empty or not a multiple of 512 bytes, or lies
    where there is no direct access; OSError if it cannot be opened.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, read_only: bool = False, direct: bool = False
    ) -> None:
        self.path = os.fspath(path)
        self.read_only = read_only
        flags = (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC | os.O_NONBLOCK
        if direct:
            flags |= os.O_DIRECT
        try:
            self.fd = os.open(self.path, flags)
        except FileNotFoundError:
            raise FileNotFoundError(
                errno.ENOENT, f"{self.path}: no such image; make one with `truncate -s 1G {self.path}`"
            ) from None
        except PermissionError:
            hint = "" if read_only else ", or serve it read-only"
            raise PermissionError(
                errno.EACCES, f"{self.path}: not allowed to open this image; check who owns it{hint}"
            ) from None
        except IsADirectoryError:
            raise StorageError(f"{self.path} is a directory; name the image file in it") from None
        except OSError as error:
            if direct and error.errno == errno.EINVAL:
                raise StorageError(
                    f"{self.path}: its file system has no direct access (O_DIRECT), as some in memory; "
                    "serve it without --direct (direct=True), or move it to a disk's file system"
                ) from None
            raise
        try:
            os.set_blocking(
                self.fd, True
            )  # non-blocking was only for the open: a FIFO must be refused, not waited for
            self.size = self.measure()
            self._elsewhere = seen_by_other_hosts(self.fd)
            self._direct = DirectAccess(self.fd) if direct else None
        except BaseException:
            os.close(self.fd)
            raise
        if self._direct is not None:
            self.smallest_block = self._direct.block
        self.identity = hashlib.blake2s(self._name(), digest_size=10).hexdigest().encode()
        self._allocation = Allocation()
        self._lock = threading.Lock()

    def _name(self) -> bytes:
        status = os.fstat(self.fd)
        return b"%d:%d:%d" % (status.st_dev, status.st_ino, status.st_rdev)

    def measure(self) -> int:
        """The size of the file or block device. Raises StorageError if no disk can have it."""
        mode = os.fstat(self.fd).st_mode
        if stat.S_ISDIR(mode):
            raise StorageError(f"{self.path} is a directory; name the image file in it")
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            raise StorageError(
                f"{self.path} is neither a regular file nor a block device, so it cannot be a disk"
            )
        size = os.lseek(self.fd, 0, os.SEEK_END)
        if size == 0:
            raise StorageError(f"{self.path} is empty; give it a size with `truncate -s 1G {self.path}`")
        if size % SECTOR:
            wanted = (size // SECTOR + 1) * SECTOR
            raise StorageError(
                f"{self.path} is {size} bytes long, which is not a multiple of the {SECTOR}-byte sector; "
                f"lengthen it with `truncate -s {wanted} {self.path}`"
            )
        return size

    def read(self, request: Request, offset: int, length: int) -> int:
        """``preadv`` straight into the guest's buffers."""
        if self._direct is not None:
            return self._direct.read(self.fd, request, offset, length)
        return request.write_from_file(self.fd, offset, length)

    def write(self, request: Request, offset: int, length: int) -> int:
        """``pwritev`` straight from the guest's buffers."""
        if self._direct is not None:
            return self._direct.write(self.fd, request, offset, length)
        return request.read_to_file(self.fd, offset, length)

    def flush(self) -> None:
        """``fdatasync``."""
        os.fdatasync(self.fd)

    def fast_path(self, *, read_only: bool) -> BlockFastPath | None:
        """By io_uring where kernel and file system make it worth while, else by ``preadv`` and such."""
        if _changes_data_path(self, FileStorage):
            return None
        from vhost_user.engine.blk.file_fast_path import FileFastPath  # noqa: PLC0415 - only for those who use it

        return FileFastPath(self.fd, self.size, read_only=read_only)

    def discard(self, offset: int, length: int) -> None:
        """Punch a hole; where the file system has no holes the range may stay as it is, and does."""
        self._allocation.change(self.fd, PUNCH_HOLE, offset, length)

    def write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        """A hole with ``unmap``, else zeroed extents that stay allocated.

        Written zeroes where neither exists.
        """
        mode = PUNCH_HOLE if unmap else ZERO_RANGE
        if self._allocation.change(self.fd, mode, offset, length):
            return
        end = offset + length
        while offset < end:
            done = os.pwrite(self.fd, _ZEROES[: min(len(_ZEROES), end - offset)], offset)
            if done == 0:
                raise OSError(errno.EIO, f"{self.path}: nothing written at byte {offset}")
            offset += done

    def activate(self) -> None:
        """Lock the image. Raises ImageInUseError while another program has it open.

        What this host's page cache has of it is forgotten where another host may have written it since.
        """
        lock_image(self.fd, self.path, read_only=self.read_only)
        if self._elsewhere:
            forget_cached(self.fd)

    def deactivate(self) -> None:
        """Give the lock up. What was written is made durable first where another host may go on with it."""
        if self.fd < 0:
            return  # closed, and the lock went with it
        try:
            if self._elsewhere and not self.read_only:
                os.fdatasync(self.fd)
        finally:
            unlock_image(self.fd)

    def obstacle(self) -> str | None:
        """Another program has the image open."""
        taken = image_in_use(self.fd, read_only=self.read_only)
        return in_use(self.path, read_only=self.read_only) if taken else None

    def close(self) -> None:
        """Close the file, which ends the lock."""
        with self._lock:
            fd, self.fd = self.fd, -1  # a late request must not reach what has the number next
            if fd >= 0:
                os.close(fd)


class MemoryStorage(Storage):
    """A disk in memory of this process, all zeroes at first, gone when the program ends.

    Pages are taken from the host when they are first written, huge ones where it has them, and given back by
    discard. With ``populate`` all are taken now, so that no request waits for one, which can take
    milliseconds where the host is itself a guest. ``size`` is in bytes; raises StorageError unless it is a
    positive multiple of 512, or if the host has no room.
    """

    def __init__(self, size: int, *, read_only: bool = False, populate: bool = False) -> None:
        if size <= 0 or size % SECTOR:
            raise StorageError(
                f"a disk of {size} bytes is impossible: the size must be a positive multiple of {SECTOR}"
            )
        self.size = size
        self.read_only = read_only
        self.identity = b"memory"
        try:
            self.buffer = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            with suppress(OSError):  # a kernel without huge pages
                # Random requests to a large disk spend a fourth of their time on translating addresses.
                self.buffer.madvise(mmap.MADV_HUGEPAGE)
            if populate:
                self._populate()
        except (OSError, OverflowError) as error:
            raise StorageError(f"the host has no room for a memory disk of {size} bytes: {error}") from error

    def _populate(self) -> None:
        try:
            self.buffer.madvise(MADV_POPULATE_WRITE)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            for page in range(0, self.size, mmap.PAGESIZE):  # a kernel before 5.14
                self.buffer[page] = 0

    @classmethod
    def of(cls, content: bytes | bytearray | memoryview, *, read_only: bool = False) -> MemoryStorage:
        """A memory disk that starts with ``content``, filled up with zeroes to the next whole sector."""
        storage = cls(max(SECTOR, -(-len(content) // SECTOR) * SECTOR), read_only=read_only)
        storage.buffer[: len(content)] = bytes(content)
        return storage

    def read(self, request: Request, offset: int, length: int) -> int:
        """Copy straight into the guest's buffers."""
        return request.write_from(self.buffer, offset, length)

    def write(self, request: Request, offset: int, length: int) -> int:
        """Copy straight from the guest's buffers."""
        return request.read_to(self.buffer, offset, length)

    def fast_path(self, *, read_only: bool) -> BlockFastPath | None:
        """By copying."""
        if _changes_data_path(self, MemoryStorage):
            return None
        from vhost_user.engine.blk.fast_path import MemoryFastPath  # noqa: PLC0415 - only for those who use it

        return MemoryFastPath(self.buffer, read_only=read_only)

    def flush(self) -> None:
        """Nothing: memory has no more durable place to go."""

    def discard(self, offset: int, length: int) -> None:
        """Give the pages back; the range reads as zeroes."""
        self.write_zeroes(offset, length, unmap=True)

    def write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        """Whole pages are given back with ``unmap``; everything else is overwritten."""
        end = offset + length
        first_page = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE
        last_page = end // mmap.PAGESIZE * mmap.PAGESIZE
        if unmap and last_page > first_page and sys.platform == "linux":
            self._overwrite(offset, first_page)
            # A private anonymous page that is given back comes back as zeroes.
            self.buffer.madvise(mmap.MADV_DONTNEED, first_page, last_page - first_page)
            self._overwrite(last_page, end)
        else:
            self._overwrite(offset, end)

    def _overwrite(self, start: int, end: int) -> None:
        while start < end:
            step = min(len(_ZEROES), end - start)
            self.buffer[start : start + step] = _ZEROES[:step]
            start += step

    def close(self) -> None:
        """Free the memory, or leave that to the last request that still copies from it."""
        with suppress(BufferError):
            self.buffer.close()
