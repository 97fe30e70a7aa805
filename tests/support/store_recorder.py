"""What watched memory looked like after each store to it: every point at which a process can be killed.

The stores are those of the compiled engine as it is installed, in the order in which the processor executes
them.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

SOURCE = Path(__file__).with_suffix(".c")
WORKS = platform.machine() == "x86_64"
"""A process can have itself stopped after one instruction."""
LOG_SIZE = 64 << 20


@functools.cache
def library() -> ctypes.CDLL:
    """The recorder, compiled once for each run of the tests."""
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "recorder.so"
        compiler = shutil.which("cc") or shutil.which("gcc") or "cc"
        subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", built, SOURCE], check=True)
        loaded = ctypes.CDLL(str(built))
    loaded.recorder_start.restype = None
    loaded.recorder_stop.restype = ctypes.c_long
    return loaded


def mapping_of(fd: int, *, but: frozenset[int] = frozenset()) -> int:
    """Where this process has the beginning of a file mapped; ``but``: mappings that are not meant."""
    inode = os.fstat(fd).st_ino
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, offset, _, number, *_ = line.split()
        start = int(span.split("-")[0], 16)
        if int(number) == inode and int(offset, 16) == 0 and start not in but:
            found.append(start)
    if len(found) != 1:
        raise LookupError(f"the file is mapped {len(found)} times")
    return found[0]


class StoreRecorder:
    """Use with ``with``; then ``pictures`` has the bytes of all ``parts``, at first and after each store.

    Stores to ``watched`` are meant, and to what shares a page with it. Both are addresses of this process
    with lengths. Two pictures in a row that are equal count as one.
    """

    def __init__(self, watched: list[tuple[int, int]], parts: list[tuple[int, int]]) -> None:
        self.watched = watched
        self.parts = parts
        self.pictures: list[bytes] = []
        self._log = mmap.mmap(-1, LOG_SIZE)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._log))

    def _look(self) -> bytes:
        return b"".join(ctypes.string_at(address, length) for address, length in self.parts)

    def __enter__(self) -> Self:
        page = mmap.PAGESIZE
        pages: list[int] = []
        for address, length in self.watched:
            start = address - address % page
            pages += [start, -(-(address + length - start) // page) * page]
        parts = [number for part in self.parts for number in part]
        self.pictures = [self._look()]
        library().recorder_start(
            (ctypes.c_uint64 * len(pages))(*pages),
            len(pages) // 2,
            (ctypes.c_uint64 * len(parts))(*parts),
            len(self.parts),
            ctypes.c_void_p(self._address),
            ctypes.c_size_t(LOG_SIZE),
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        count = library().recorder_stop()
        assert count >= 0, "the log is too small"
        size = sum(length for _, length in self.parts)
        for index in range(count):
            picture = ctypes.string_at(self._address + index * size, size)
            if picture != self.pictures[-1]:
                self.pictures.append(picture)
