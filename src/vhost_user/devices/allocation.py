"""Holes and zeroed extents in a file, as far as its file system has them."""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PUNCH_HOLE, ZERO_RANGE = 2, 16
_KEEP_SIZE = 1
_NEVER_SUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV)


def _fallocate() -> Callable[[int, int, int, int], None]:
    """The system call that the os module lacks: modes, offset, length; OSError as usual."""
    import ctypes  # noqa: PLC0415 - costs milliseconds at start and is needed only at the first discard

    library = ctypes.CDLL(None, use_errno=True)
    function = getattr(library, "fallocate64", None) or library.fallocate
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)

    def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
        while function(fd, mode, offset, length) != 0:
            number = ctypes.get_errno()
            if number != errno.EINTR:
                raise OSError(number, os.strerror(number))

    return fallocate


class Allocation:
    """What ``fallocate`` can do with one file; what it cannot is asked for once."""

    def __init__(self) -> None:
        self.refused: set[int] = set()
        """Modes that the file system does not have."""
        self._lock = threading.Lock()
        self._fallocate: Callable[[int, int, int, int], None] | None = None

    def change(self, fd: int, mode: int, offset: int, length: int) -> bool:
        """PUNCH_HOLE or ZERO_RANGE: True if the file system did it; False if it cannot. Raises OSError."""
        if mode in self.refused:
            return False
        with self._lock:
            if self._fallocate is None:
                self._fallocate = _fallocate()
        try:
            self._fallocate(fd, mode | _KEEP_SIZE, offset, length)
        except OSError as error:
            if error.errno in _NEVER_SUPPORTED:
                self.refused.add(mode)
            elif (
                error.errno != errno.EINVAL
            ):  # a range that this block device cannot take, its neighbour may fit
                raise
            return False
        return True
