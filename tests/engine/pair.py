"""A driver's queue and the vring that serves it, with raw access for what no driver would write."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from vhost_user.engine.device.request import Request
from vhost_user.engine.device.vring import Vring
from vhost_user.engine.driver.memory import DriverMemory, DriverRegion
from vhost_user.engine.driver.packed import PackedDriverQueue
from vhost_user.engine.driver.split import SplitDriverQueue
from vhost_user.engine.errors import RingError
from vhost_user.engine.memory.dirty_log import Bitmap
from vhost_user.engine.memory.guest_memory import GuestMemory
from vhost_user.engine.memory.region import MemoryRegion

NEXT, WRITE, INDIRECT = 1, 2, 4


@dataclass
class D:
    """A descriptor as it will stand in memory. ``next`` None: the following one; ``id`` None: the chain's."""

    address: int
    length: int
    flags: int = 0
    next: int | None = None
    id: int | None = None


def mapped(memory: DriverMemory, bitmap: Bitmap | None = None) -> GuestMemory:
    """The driver's memory as the device maps it."""
    return GuestMemory([device_region(region) for region in memory.regions], bitmap)


def device_region(region: DriverRegion) -> MemoryRegion:
    """One region of the driver, mapped once more for the device."""
    return MemoryRegion(
        region.fd,
        guest_address=region.guest_address,
        size=region.size,
        user_address=region.user_address,
        file_offset=region.file_offset,
    )


class Pair:
    """Both ends of a ring. The vring runs from the beginning unless ``start`` says otherwise."""

    def __init__(
        self,
        packed: bool,
        size: int = 8,
        *,
        event_idx: bool = False,
        indirect: bool = True,
        in_order: bool = False,
        notify_on_empty: bool = False,
        first: int = 0,
        regions: int | Sequence[DriverRegion] = 4 << 20,
        bitmap: Bitmap | None = None,
        log_address: int | None = None,
        start: bool = True,
        on_broken: Callable[[Vring, RingError], object] | None = None,
    ) -> None:
        self.packed = packed
        self.size = size
        self.memory = DriverMemory(regions)
        kind = PackedDriverQueue if packed else SplitDriverQueue
        self.queue: PackedDriverQueue | SplitDriverQueue = kind(
            self.memory, size, event_idx=event_idx, indirect=indirect, in_order=in_order, start=first
        )
        self.guest = mapped(self.memory, bitmap)
        self.log_address = log_address
        self.errors: list[RingError] = []
        self.vring = Vring(0, 32768, on_broken=on_broken or (lambda _vring, error: self.errors.append(error)))
        self.vring.set_features(
            packed=packed,
            event_idx=event_idx,
            in_order=in_order,
            notify_on_empty=notify_on_empty,
        )
        self.vring.set_size(size)
        self.vring.set_memory(self.guest)
        self.set_addresses()
        self.vring.set_base(self.queue.base)
        self.vring.set_kick(os.dup(self.queue.kick_fd))
        self.vring.set_call(os.dup(self.queue.call_fd))
        self.at = (self.queue.base & 0x7FFF, self.queue.base >> 15 & 1)
        if start:
            self.start()

    def set_addresses(self) -> None:
        self.vring.set_addresses(
            descriptor=self.queue.descriptor_address,
            driver=self.queue.driver_address,
            device=self.queue.device_address,
            log_address=self.log_address,
        )

    def start(self) -> None:
        self.vring.start()
        self.vring.set_enabled(True)

    def runs(self) -> bool:
        """A method, because a type checker takes a property for something that stays."""
        return self.vring.runnable

    def is_mapped(self) -> bool:
        return self.vring.mapped

    def close(self) -> None:
        self.vring.reset()
        self.guest.close()
        self.queue.close()
        self.memory.close()

    # ------------------------------------------------------------------ the well-behaved driver
    def buffer(self, data: bytes | int) -> tuple[int, int]:
        """A segment with these bytes in it, or of this length and filled with 0xEE (V056)."""
        length = data if isinstance(data, int) else len(data)
        address = self.memory.allocate(max(length, 1))
        self.memory.write(address, b"\xee" * length if isinstance(data, int) else data)
        return address, length

    def add(
        self,
        readable: Sequence[bytes] = (),
        writable: Sequence[int] = (),
        *,
        indirect: bool = False,
        direct: int = 0,
    ) -> int:
        """Make a chain available; its token."""
        token = self.queue.add(
            [self.buffer(data) for data in readable],
            [self.buffer(length) for length in writable],
            indirect=indirect,
            direct=direct,
        )
        self.queue.publish()
        return token

    def take(self) -> Request:
        """The next request, which must be there."""
        request = self.vring.pop()
        assert request is not None, self.queue.describe()
        return request

    def serve(
        self, readable: Sequence[bytes] = (), writable: Sequence[int] = (), *, indirect: bool = False
    ) -> Request:
        """Make a chain available and take it."""
        self.add(readable, writable, indirect=indirect)
        return self.take()

    # ------------------------------------------------------------------ the driver that writes what it likes
    @property
    def split(self) -> SplitDriverQueue:
        assert isinstance(self.queue, SplitDriverQueue)
        return self.queue

    @property
    def ring(self) -> PackedDriverQueue:
        assert isinstance(self.queue, PackedDriverQueue)
        return self.queue

    def entry(self, descriptor: D, following: int) -> bytes:
        """An entry of an indirect table."""
        after = following & 0xFFFF if descriptor.next is None else descriptor.next
        if self.packed:
            return struct.pack("<QIHH", descriptor.address, descriptor.length, after, descriptor.flags)
        return struct.pack("<QIHH", descriptor.address, descriptor.length, descriptor.flags, after)

    def table(self, *descriptors: D, link: bool = True) -> tuple[int, int]:
        """Write an indirect table; its address and length."""
        raw = b""
        for index, descriptor in enumerate(descriptors):
            if link and not self.packed and index + 1 < len(descriptors):
                descriptor.flags |= NEXT
            raw += self.entry(descriptor, index + 1)
        return self.buffer(raw)

    def offer(self, *descriptors: D, head: int = 0, link: bool = True) -> None:
        """Make these descriptors available as one chain; ``head`` is the buffer id of a packed one."""
        count = len(descriptors)
        for index, descriptor in enumerate(descriptors):
            if link and index + 1 < count:
                descriptor.flags |= NEXT
        if not self.packed:
            for index, descriptor in enumerate(descriptors):
                after = head + index + 1 if descriptor.next is None else descriptor.next
                self.split.write_descriptor(
                    (head + index) % self.size,
                    descriptor.address,
                    descriptor.length,
                    descriptor.flags,
                    after & 0xFFFF,
                )
            self.make_available(head)
            return
        places = []
        position, wrap = self.at
        for descriptor in descriptors:
            places.append((position, wrap, descriptor))
            position += 1
            if position == self.size:
                position, wrap = 0, wrap ^ 1
        self.at = position, wrap
        for place, turn, descriptor in reversed(places):
            flags = descriptor.flags | (0x80 if turn else 0x8000)
            identity = head if descriptor.id is None else descriptor.id
            self.ring.write_descriptor(place, descriptor.address, descriptor.length, identity, flags)

    def make_available(self, head: int) -> None:
        """Split ring: name a chain that stands in the table."""
        index = self.split.avail_index
        self.split.write_avail(index % self.size, head)
        self.split.set_avail_index((index + 1) & 0xFFFF)

    def refused(self) -> str:
        """The rule that the ring was found to break at the next look; it is broken from then on."""
        with pytest.raises(RingError) as caught:
            self.vring.pop()
        assert self.vring.broken is caught.value
        assert not self.vring.runnable
        assert self.vring.pop() is None
        return caught.value.rule


MakePair = Callable[..., Pair]


def used_length(pair: Pair) -> int:
    """The length that the next used buffer came back with."""
    used = pair.queue.poll()
    assert used is not None
    return used[1]


def written(pair: Pair, address: int, length: int) -> bytes:
    """What stands in a segment, as the driver sees it."""
    return pair.memory.read(address, length)


def fill_ring(pair: Pair, count: int) -> list[int]:
    """So many requests, with their number in them; their tokens."""
    return [pair.add([b"%04d" % number], [8]) for number in range(count)]
