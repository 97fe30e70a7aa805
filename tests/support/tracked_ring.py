"""A ring with an in-flight area, made the same way each time, so that its past can be put back."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence

from tests.support.store_recorder import StoreRecorder, mapping_of
from vhost_user.engine.device.inflight import InflightArea, make_area_file
from vhost_user.engine.device.request import Request
from vhost_user.engine.device.vring import Vring
from vhost_user.engine.driver.memory import DriverMemory
from vhost_user.engine.driver.packed import PackedDriverQueue
from vhost_user.engine.driver.split import SplitDriverQueue
from vhost_user.engine.memory.guest_memory import GuestMemory
from vhost_user.engine.memory.region import MemoryRegion
from vhost_user.spec import inflight as layout

BUFFERS = 16384
"""Bytes of guest memory, from its beginning, that the ring and all buffers fit into."""
STALE = {False: 0, True: 0x8000_8000}
"""What a front-end that knows nothing says in SET_VRING_BASE."""


class TrackedRing:
    """Driver, device and area. The device can be killed, and another one take over (``serve``)."""

    def __init__(
        self,
        packed: bool,
        size: int = 8,
        *,
        first: int | None = None,
        in_order: bool = False,
        event_idx: bool = False,
        memory: int = BUFFERS,
    ) -> None:
        self.packed = packed
        self.in_order = in_order
        self.event_idx = event_idx
        self.memory = DriverMemory(memory)
        kind = PackedDriverQueue if packed else SplitDriverQueue
        start = STALE[packed] if first is None else first
        self.queue: PackedDriverQueue | SplitDriverQueue = kind(
            self.memory, size, indirect=True, start=start, in_order=in_order, event_idx=event_idx
        )
        self.area_fd, self.area_size = make_area_file(1, size, packed=packed)
        self.region = self.memory.regions[0]
        self.waiting: dict[int, tuple[int, list[int]]] = {}
        """Token of the driver: number of the request, addresses of the answer and of the rest."""
        self.answered: list[int] = []
        self.kept: list[Request] = []
        """What the device has taken and does not answer."""
        self.number = 0
        self.base = self.queue.base
        self._driver_mapping = frozenset({mapping_of(self.region.fd)})
        self.vring: Vring
        self.serve()

    # the device
    def serve(self, *, start: bool = True) -> None:
        """A new process: its own mappings, nothing known but the files."""
        self.alive = True
        self.area = InflightArea(self.area_fd, size=self.area_size, num_queues=1, queue_size=self.queue.size)
        self.guest = GuestMemory(
            [
                MemoryRegion(
                    self.region.fd,
                    guest_address=self.region.guest_address,
                    size=self.region.size,
                    user_address=self.region.user_address,
                )
            ]
        )
        self.vring = Vring(0, self.queue.size)
        self.vring.set_features(packed=self.packed, event_idx=self.event_idx, in_order=self.in_order)
        self.vring.set_size(self.queue.size)
        self.vring.set_memory(self.guest)
        self.vring.set_addresses(
            descriptor=self.queue.descriptor_address,
            driver=self.queue.driver_address,
            device=self.queue.device_address,
        )
        self.vring.set_base(self.base)
        self.vring.set_call(os.dup(self.queue.call_fd))
        self.vring.recovery.set_inflight(self.area)
        if start:
            self.start()

    def start(self) -> None:
        self.vring.start()
        self.vring.set_enabled(True)

    def kill(self) -> None:
        """It is gone, with all that it held."""
        self.vring.abandon()
        self.vring.reset()
        self.kept.clear()
        self.guest.close()
        self.area.close()
        self.alive = False

    def close(self) -> None:
        if self.alive:
            self.kill()
        self.queue.close()
        self.memory.close()
        os.close(self.area_fd)

    # the driver
    def add(self, count: int = 1, *, descriptors: int = 2, indirect: bool = False) -> list[int]:
        """So many requests: their number in eight bytes, and room for an answer. The numbers."""
        numbers = []
        for _ in range(count):
            number = self.number
            self.number += 1
            readable = [(self._buffer(number.to_bytes(8, "little")), 8)]
            readable += [(self._buffer(b"more"), 4)] * (descriptors - 2)
            answer = self._buffer(bytes(8))
            token = self.queue.add(readable, [(answer, 8)], indirect=indirect)
            self.queue.publish()
            assert token not in self.waiting, "the driver gives a token twice"
            self.waiting[token] = number, [answer, *{address for address, _ in readable}]
            numbers.append(number)
        return numbers

    def _buffer(self, data: bytes) -> int:
        address = self.memory.allocate(len(data))
        self.memory.write(address, data)
        return address

    def poll(self) -> list[int]:
        """The numbers of what came back, each with the right answer."""
        back = []
        for token, length in self.queue.poll_many():
            number, buffers = self.waiting.pop(token)
            assert length == 8, f"request {number} came back with {length} bytes"
            assert int.from_bytes(self.memory.read(buffers[0], 8), "little") == ~number & (1 << 64) - 1
            for address in buffers:
                self.memory.free(address)
            back.append(number)
        self.answered += back
        return back

    # requests
    def take(self, most: int = 1000) -> list[Request]:
        taken: list[Request] = []
        while len(taken) < most and (request := self.vring.pop()) is not None:
            taken.append(request)
        return taken

    @staticmethod
    def number_of(request: Request) -> int:
        return int.from_bytes(request.read_at(0, 8), "little")

    @classmethod
    def answer(cls, request: Request) -> None:
        request.write((~cls.number_of(request) & (1 << 64) - 1).to_bytes(8, "little"))

    @classmethod
    def complete(cls, requests: Sequence[Request]) -> None:
        for request in requests:
            cls.answer(request)
            request.complete()

    # pictures
    @property
    def _areas(self) -> list[tuple[int, int]]:
        """Guest addresses and lengths of the ring."""
        size = self.queue.size
        lengths = (16 * size, 4, 4) if self.packed else (16 * size, 6 + 2 * size, 6 + 8 * size)
        addresses = (self.queue.descriptor_address, self.queue.driver_address, self.queue.device_address)
        return list(zip(addresses, lengths, strict=True))

    def recorder(self) -> StoreRecorder:
        """Watches the ring and the area as the device has them mapped; pictures have the buffers as well."""
        mapped = mapping_of(self.region.fd, but=self._driver_mapping)
        offset = mapped - self.region.guest_address
        area = (mapping_of(self.area_fd), self.area_size)
        ring = [(offset + address, length) for address, length in self._areas]
        return StoreRecorder([*ring, area], [(mapped, BUFFERS), area])

    def put_back(self, picture: bytes) -> None:
        """Ring, buffers and area as they were then."""
        os.pwrite(self.region.fd, picture[:BUFFERS], 0)
        os.pwrite(self.area_fd, picture[BUFFERS:], 0)

    # the proof
    def prove(self, chance: random.Random, rounds: int = 3) -> None:
        """Every request is answered exactly once, in the order of submission, and the ring goes on."""
        for turn in range(rounds):
            taken = self.take()
            numbers = [self.number_of(request) for request in taken]
            assert numbers == sorted(numbers), f"not in the order of submission: {numbers}"
            if not turn:
                again = [request.recovered for request in taken]
                assert again == sorted(again, reverse=True), "new ones came before recovered ones"
            chance.shuffle(taken)
            self.complete(taken)
            self.poll()
            assert not self.waiting, f"lost: {sorted(self.waiting.values())}"
            assert sorted(self.answered) == list(range(self.number)), "answered twice"
            for _ in range(chance.randrange(1, 4)):
                self.add(descriptors=2, indirect=chance.random() < 0.3)
        taken = self.take()
        self.complete(taken)
        self.poll()
        assert not self.waiting
        assert self.queue.broken_by is None
        assert self.vring.broken is None


MakeTracked = Callable[..., TrackedRing]
SIZE = 16
"""Descriptors of the rings that the fixture ``make_tracked`` makes."""


def states(ring: TrackedRing) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """Header and states as the specification lays them out."""
    data = os.pread(ring.area_fd, ring.area_size, 0)
    header, state, start = (
        (layout.PACKED_HEADER, layout.PACKED_DESCRIPTOR, layout.PACKED_HEADER_SIZE)
        if ring.packed
        else (layout.SPLIT_HEADER, layout.SPLIT_DESCRIPTOR, layout.SPLIT_HEADER_SIZE)
    )
    end = start + state.size * ring.queue.size
    return header.unpack_from(data), list(state.iter_unpack(data[start:end]))


def in_flight(ring: TrackedRing) -> list[int]:
    """The entries of the area that say so."""
    return [index for index, state in enumerate(states(ring)[1]) if state[0]]
