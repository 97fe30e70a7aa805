"""A dirty log as the front-end holds it, and what ought to stand in it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from tests.engine.pair import MakePair, Pair
from vhost_user.engine.memory.dirty_log import Bitmap

PAGE = 4096
BASE = 0x1000_0000
LOG_SIZE = 12288  # of guest space: 384 MiB


def dirty_pages(raw: bytes) -> set[int]:
    return {
        match.start() * 8 + bit
        for match in re.finditer(rb"[^\0]", raw, re.DOTALL)
        for bit in range(8)
        if raw[match.start()] >> bit & 1
    }


@dataclass
class Log:
    """A log as the front-end holds it."""

    fd: int
    bitmap: Bitmap
    offset: int

    def bits(self) -> bytes:
        return os.pread(self.fd, LOG_SIZE, self.offset)

    def pages(self) -> set[int]:
        """The pages marked since last asked (read and clear, as the front-end does)."""
        raw = self.bits()
        os.pwrite(self.fd, b"\0" * LOG_SIZE, self.offset)
        return dirty_pages(raw)


def pages_of(address: int, length: int) -> set[int]:
    return set(range(address // PAGE, (address + length - 1) // PAGE + 1)) if length else set()


def with_log(make_pair: MakePair, log: Log, **options: object) -> Pair:
    return make_pair(bitmap=log.bitmap, regions=8 << 20, **options)
