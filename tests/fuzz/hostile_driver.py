"""The driver of the fuzzer: chains as drivers make them, more or less, and bytes where none would put any."""

from __future__ import annotations

import struct

from tests.engine.pair import INDIRECT, NEXT, WRITE
from tests.fuzz.ring_model import Areas, Model

BASE = 0x1000_0000
REGION = 0x8000
LENGTHS = (0, 1, 2, 16, 17, 48, 4096, 0x7FFF, 0x8000, 0x10000, 0xFFFF_FFFF)


class Source:
    """The scenario's bytes, zeros after their end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    @property
    def left(self) -> bool:
        return self.at < len(self.data)

    def byte(self) -> int:
        value = self.data[self.at] if self.left else 0
        self.at += 1
        return value

    def below(self, limit: int) -> int:
        value = self.byte()
        if limit > 256:
            value |= self.byte() << 8
        return value % limit


class HostileDriver:
    """The driver's half of a scenario; the other half sets these."""

    source: Source
    packed: bool
    areas: Areas
    model: Model
    views: list[memoryview]
    copy: bytes
    """The whole memory as it was before the current operation."""

    def read(self, address: int, length: int) -> bytes | None:
        start = address - BASE
        if length < 0 or start < 0 or start + length > 3 * REGION:
            return None
        return self.copy[start : start + length]

    def write(self, address: int, data: bytes) -> None:
        """The driver writes; parts outside of its memory are left out."""
        for index, view in enumerate(self.views):
            start = address - BASE - index * REGION
            low, high = max(start, 0), min(start + len(data), REGION)
            if low < high:
                view[low:high] = data[low - start : high - start]

    # ------------------------------------------------------------------ the driver
    def address(self) -> int:
        kind = self.source.below(8)
        offset = self.source.below(0x10000)
        if kind < 4:
            return BASE + REGION + offset % (2 * REGION)
        if kind == 4:
            return BASE + offset % REGION
        if kind == 5:
            return BASE + 2 * REGION - offset % 64
        if kind == 6:
            return BASE + 3 * REGION - offset % 64
        return ((1 << 64) - 1 - offset) if offset & 1 else offset

    def descriptor(self, following: int, flags: int | None = None) -> bytes:
        address = self.address()
        choice = self.source.byte()
        length = LENGTHS[choice % 11] if choice & 1 else choice
        if flags is None:
            flags = self.source.byte() & 7
        if self.packed:
            return struct.pack("<QIHH", address, length, following & 0xFFFF, flags)
        return struct.pack("<QIHH", address, length, flags, following & 0xFFFF)

    def driver_writes_descriptor(self) -> None:
        index = self.source.below(self.areas.size)
        following = self.source.byte()
        raw = bytearray(self.descriptor(following % (self.areas.size + 1)))
        if self.packed and self.source.byte() & 1:
            flags = int.from_bytes(raw[14:], "little") | (self.source.byte() & 0x81) << 7
            raw[14:] = flags.to_bytes(2, "little")
        self.write(self.areas.descriptor + 16 * index, bytes(raw))

    def driver_offers_chain(self) -> None:
        """A chain as drivers make them, more or less, made available at the next place."""
        count = 1 + self.source.below(min(self.areas.size, 8) + (self.source.byte() & 15 == 15))
        readable = self.source.below(count + 1)
        flags = [
            (0 if index < readable else WRITE) | (NEXT if index + 1 < count else 0) for index in range(count)
        ]
        if self.source.byte() & 15 == 15:
            flags[self.source.below(count)] ^= self.source.byte() & 7
        head = self.source.byte() if self.packed else self.source.below(self.areas.size)
        if self.source.byte() & 15 > (7 if self.areas.indirect else 14):
            # Through an indirect table somewhere in the buffers.
            table = BASE + REGION + self.source.below(2 * REGION - 16 * count + 32)
            entries = [self.descriptor(index + 1, flag) for index, flag in enumerate(flags)]
            self.write(table, b"".join(entries))
            first = INDIRECT | (self.source.byte() & WRITE)
            if self.packed:
                raws = [struct.pack("<QIHH", table, 16 * count, head, first)]
            else:
                raws = [struct.pack("<QIHH", table, 16 * count, first, 0)]
        else:
            following = (
                [head] * count
                if self.packed
                else [(head + index + 1) % self.areas.size for index in range(count)]
            )
            raws = [self.descriptor(after, flag) for after, flag in zip(following, flags, strict=True)]
        if not self.packed:
            for index, raw in enumerate(raws):
                self.write(self.areas.descriptor + 16 * ((head + index) % self.areas.size), raw)
            self.make_available(head)
            return
        # At the place where the device looks next, as far as the driver can know it.
        position, wrap = self.model.position, self.model.wrap
        for raw in raws:
            flag = int.from_bytes(raw[14:], "little") | (0x80 if wrap else 0x8000)
            self.write(self.areas.descriptor + 16 * position, raw[:14] + flag.to_bytes(2, "little"))
            position += 1
            if position == self.areas.size:
                position, wrap = 0, 1 - wrap

    def make_available(self, head: int) -> None:
        raw = self.read(self.areas.driver + 2, 2)
        assert raw is not None
        index = int.from_bytes(
            bytes(self.views[0][self.areas.driver + 2 - BASE : self.areas.driver + 4 - BASE]), "little"
        )
        self.write(self.areas.driver + 4 + 2 * (index % self.areas.size), head.to_bytes(2, "little"))
        self.write(self.areas.driver + 2, ((index + 1) & 0xFFFF).to_bytes(2, "little"))

    def driver_writes_fields(self) -> None:
        kind = self.source.below(8)
        value = (self.source.byte() | self.source.byte() << 8).to_bytes(2, "little")
        if kind == 0:
            self.write(
                self.areas.driver + 2 * self.source.below(2 if self.packed else 3 + self.areas.size), value
            )
        elif kind == 1 and not self.packed:
            self.make_available(self.source.below(self.areas.size))
        elif kind < 5:
            self.write(self.areas.driver + (0 if self.packed else 4 + 2 * self.areas.size), value)
        else:
            self.write(self.address(), value * (1 + self.source.byte()))
