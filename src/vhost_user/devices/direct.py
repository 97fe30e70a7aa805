"""Direct access to an image (O_DIRECT): past the host's page cache, in whole blocks at aligned addresses."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from vhost_user.spec.blk import SECTOR_SIZE

if TYPE_CHECKING:
    from vhost_user.engine.device.request import Request

BOUNCE_SIZE = 1 << 20
"""Bytes that are moved at a time where the guest's buffers are not aligned."""
MAX_BLOCK = 4096
_AT_EMPTY_PATH, _STATX_DIOALIGN, _STATX_SIZE, _DIO_OFFSET_ALIGN = 0x1000, 0x2000, 256, 0x9C


def direct_block(fd: int) -> int:
    """Bytes that offsets and lengths must be multiples of in a file that was opened with O_DIRECT."""
    told = _told_by_kernel(fd)
    if told:
        return max(told, SECTOR_SIZE)
    with mmap.mmap(-1, MAX_BLOCK) as page, memoryview(page) as view:
        block = SECTOR_SIZE
        while block < MAX_BLOCK:
            with suppress(OSError), view[:block] as part:
                os.preadv(fd, [part], 0)
                break
            block *= 2
    return block


def _told_by_kernel(fd: int) -> int:
    """What statx says, 0 for nothing: it has to be Linux 6.1 or later, and the file system must know."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "statx"):
        return 0
    answer = ctypes.create_string_buffer(_STATX_SIZE)
    if library.statx(fd, b"", _AT_EMPTY_PATH, _STATX_DIOALIGN, answer) != 0:
        return 0
    known = int.from_bytes(answer.raw[:4], "little") & _STATX_DIOALIGN
    return int.from_bytes(answer.raw[_DIO_OFFSET_ALIGN:][:4], "little") if known else 0


class DirectAccess:
    """Moves data; through an aligned buffer of its own where the kernel refuses the guest's (EINVAL)."""

    def __init__(self, fd: int) -> None:
        self.block = direct_block(fd)
        self._buffers = threading.local()

    def read(self, fd: int, request: Request, offset: int, length: int) -> int:
        """As ``request.write_from_file``."""
        done = 0
        while done < length:
            try:
                moved = request.write_from_file(fd, offset + done, length - done)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                with memoryview(self._bounce()) as buffer, buffer[: length - done] as part:
                    self._check(offset + done, len(part))
                    moved = os.preadv(fd, [part], offset + done)
                    request.write_from(part, 0, moved)
            if moved == 0:
                break
            done += moved
        return done

    def write(self, fd: int, request: Request, offset: int, length: int) -> int:
        """As ``request.read_to_file``."""
        done = 0
        while done < length:
            try:
                moved = request.read_to_file(fd, offset + done, length - done)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                with memoryview(self._bounce()) as buffer, buffer[: length - done] as part:
                    self._check(offset + done, len(part))
                    request.read_to(part, 0, len(part))
                    moved = 0
                    while moved < len(part):
                        step = os.pwritev(fd, [part[moved:]], offset + done + moved)
                        if step == 0:
                            return done + moved
                        moved += step
            if moved == 0:
                break
            done += moved
        return done

    def _check(self, offset: int, length: int) -> None:
        if offset % self.block or length % self.block:
            raise OSError(
                errno.EINVAL,
                f"{length} bytes at byte {offset} are not whole blocks of {self.block} bytes, "
                "which direct access to this image wants",
            )

    def _bounce(self) -> mmap.mmap:
        """One for each thread; pages are aligned as well as any block."""
        buffer: mmap.mmap | None = getattr(self._buffers, "buffer", None)
        if buffer is None:
            buffer = self._buffers.buffer = mmap.mmap(
                -1, BOUNCE_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            )
        return buffer
