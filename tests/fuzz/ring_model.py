"""The fuzzer's oracle: what a device may take from a ring, worked out again, slowly and in plain Python.

It reads the same bytes as the engine and says what the next look at the ring must give: nothing, a broken
ring, or a chain with these segments. It knows nothing about how the engine does it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

NEXT, WRITE, INDIRECT = 1, 2, 4

Read = Callable[[int, int], bytes | None]
"""Guest address and length to bytes; None if that is not wholly mapped."""


class Broken(Exception):  # noqa: N818 (a state, not an error)
    """The driver broke the ring; carries the rule."""


TABLE_LIMIT = 4096
"""Entries of an indirect table."""
LONGEST = 1 << 32
"""Bytes of a chain."""


@dataclass
class Chain:
    """A chain as the device must see it: (address, length) of each buffer that is not empty."""

    head: int
    slots: int = 0
    readable: list[tuple[int, int]] = field(default_factory=list)
    writable: list[tuple[int, int]] = field(default_factory=list)
    count: int = 0
    most: int = 0
    """Descriptors that it may have, if not as many as the ring."""


@dataclass
class Areas:
    """Where the ring lies, and what was negotiated."""

    descriptor: int
    driver: int
    device: int
    size: int
    indirect: bool


class Model:
    """What the device knows of one ring."""

    def __init__(self, packed: bool, areas: Areas, base: int) -> None:
        self.packed = packed
        self.areas = areas
        self.in_flight: dict[int, int] = {}
        """Slots by head."""
        self.restart(base)

    def restart(self, base: int) -> None:
        """As after SET_VRING_BASE."""
        self.in_flight.clear()
        self.last = self.seen = base & 0xFFFF
        self.position, self.wrap = base & 0x7FFF, base >> 15 & 1

    def next(self, read: Read) -> Chain | None:
        """The next chain or None; raises Broken. Ring areas are mapped, the caller saw to that."""
        chain = self._packed(read) if self.packed else self._split(read)
        if chain is None:
            return None
        if chain.head in self.in_flight:
            raise Broken("V021")
        if sum(self.in_flight.values()) + chain.slots > self.areas.size:
            raise Broken("V022")
        if sum(length for _, length in chain.readable + chain.writable) > LONGEST:
            raise Broken("V012")
        self.in_flight[chain.head] = chain.slots
        return chain

    def _word(self, read: Read, address: int) -> int:
        raw = read(address, 2)
        assert raw is not None
        return int.from_bytes(raw, "little")

    def _split(self, read: Read) -> Chain | None:
        areas = self.areas
        if self.seen == self.last:
            self.seen = self._word(read, areas.driver + 2)
            pending = (self.seen - self.last) & 0xFFFF
            if pending == 0:
                return None
            if pending > areas.size:
                raise Broken("V003")
        index = self._word(read, areas.driver + 4 + 2 * (self.last % areas.size))
        if index >= areas.size:
            raise Broken("V004")
        chain = Chain(index)
        while True:
            chain.slots += 1
            raw = read(areas.descriptor + 16 * index, 16)
            assert raw is not None
            address, length, flags, following = struct.unpack("<QIHH", raw)
            if flags & INDIRECT:
                if flags & NEXT:
                    raise Broken("V007")
                self._table(read, chain, address, length)
                break
            self._buffer(chain, address, length, flags)
            if not flags & NEXT:
                break
            index = following
            if index >= areas.size:
                raise Broken("V004")
        # Only now: a chain that broke the ring was not taken.
        self.last = (self.last + 1) & 0xFFFF
        return chain

    def _packed(self, read: Read) -> Chain | None:
        areas = self.areas
        position, wrap = self.position, self.wrap
        flags = self._word(read, areas.descriptor + 16 * position + 14)
        if (flags >> 7 & 1, flags >> 15) != (wrap, 1 - wrap):
            return None
        chain = Chain(0)
        while True:
            raw = read(areas.descriptor + 16 * position, 16)
            assert raw is not None
            address, length, chain.head, flags = struct.unpack("<QIHH", raw)
            chain.slots += 1
            if chain.slots > areas.size:
                raise Broken("V031")
            position += 1
            if position == areas.size:
                position, wrap = 0, 1 - wrap
            if flags & INDIRECT:
                if flags & NEXT or chain.slots > 1:
                    raise Broken("V030")
                self._table(read, chain, address, length)
                break
            self._buffer(chain, address, length, flags)
            if not flags & NEXT:
                break
        if chain.head in self.in_flight or sum(self.in_flight.values()) + chain.slots > areas.size:
            return chain
        self.position, self.wrap = position, wrap
        return chain

    def _buffer(self, chain: Chain, address: int, length: int, flags: int) -> None:
        chain.count += 1
        if chain.count > (chain.most or self.areas.size):
            raise Broken("V005")
        if length == 0:
            return
        if flags & WRITE:
            chain.writable.append((address, length))
        elif chain.writable:
            raise Broken("V006")
        else:
            chain.readable.append((address, length))

    def _table(self, read: Read, chain: Chain, address: int, length: int) -> None:
        if length == 0 or length % 16:
            raise Broken("V030" if self.packed else "V007")
        # What is longer than the rest of the ring has a limit of its own.
        if length // 16 > self.areas.size - chain.count:
            chain.most = chain.count + min(length // 16, TABLE_LIMIT)
        entry = 0
        while True:
            raw = read(address + 16 * entry, 16)
            if raw is None:
                raise Broken("V011")
            place, size, first, second = struct.unpack("<QIHH", raw)
            flags = second if self.packed else first
            if flags & INDIRECT and not self.packed:
                raise Broken("V007")
            self._buffer(chain, place, size, flags)
            if self.packed:
                entry += 1
                if entry == length // 16:
                    return
            elif not flags & NEXT:
                return
            else:
                entry = second
                if entry >= length // 16:
                    raise Broken("V007")
