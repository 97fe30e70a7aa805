"""A scripted front-end over a real socket: one message at a time, and the driver's side of split rings."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from vhost_user.engine.driver.memory import DriverMemory, DriverRegion
from vhost_user.engine.driver.split import SplitDriverQueue
from vhost_user.protocol.requester import Reply
from vhost_user.protocol.sessions import FrontendSession
from vhost_user.protocol.transport import Connection
from vhost_user.spec.features import VirtioFeature
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.structs import (
    U64,
    Memory,
    MemoryRegion,
    MemorySlot,
    Payload,
    VringAddress,
    VringFd,
    VringState,
)

PATIENCE = 10.0
REQUEST = FrontendRequest
OTHER_RINGS = VirtioFeature.RING_PACKED | VirtioFeature.IN_ORDER
"""Not taken although offered: the driver's side here is a plain split ring."""


def until(condition: Callable[[], object], what: str = "it", timeout: float = PATIENCE) -> None:
    """Wait for something another thread, program or guest does; fails after ``timeout`` seconds."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"waited {timeout:g} s in vain: {what}"
        time.sleep(0.001)


class FrontEnd:
    """What a VMM does, one message at a time, and the driver's side of split rings in its memory."""

    def __init__(self, connection: Connection, *, regions: Sequence[DriverRegion] | None = None) -> None:
        self.connection = connection
        self.session = FrontendSession()
        self.memory = DriverMemory(1 << 20 if regions is None else regions)
        self.rings: dict[int, SplitDriverQueue] = {}

    def call(
        self,
        request: FrontendRequest,
        payload: Payload | None = None,
        fds: Sequence[int] = (),
        *,
        need_reply: bool | None = None,
    ) -> Any:
        """The payload of the reply, None if none was due; RequestRefused when the back-end says no."""
        reply: Reply | None = self.connection.call(
            self.session, request, payload, fds, need_reply=need_reply, timeout=PATIENCE
        )
        if reply is None:
            return None
        with reply.fds:
            return reply.payload

    def send(self, request: FrontendRequest, payload: Payload | None = None, fds: Sequence[int] = ()) -> None:
        """Send and do not wait; ``receive`` gets the reply."""
        self.connection.send(self.session.send(request, payload, fds))

    def receive(self, timeout: float = PATIENCE) -> Any:
        reply = self.connection.receive(self.session, timeout=timeout)
        return None if reply is None else reply.payload

    def negotiate(self, features: int | None = None, protocol_features: int | None = None) -> None:
        offered = self.call(REQUEST.GET_FEATURES).value
        if offered & VirtioFeature.PROTOCOL_FEATURES:
            protocol = self.call(REQUEST.GET_PROTOCOL_FEATURES).value
            wanted = protocol if protocol_features is None else protocol & protocol_features
            self.call(REQUEST.SET_PROTOCOL_FEATURES, U64(wanted), need_reply=False)
        self.call(REQUEST.SET_OWNER)
        # Its rings are split ones; who wants others says so.
        keep = ~int(VirtioFeature.LOG_ALL | VirtioFeature.RING_PACKED) if features is None else features
        self.call(REQUEST.SET_FEATURES, U64(offered & keep & ~int(OTHER_RINGS)))

    def share_memory(self) -> None:
        regions = self.memory.regions
        table = Memory(tuple(self.region(region) for region in regions))
        self.call(REQUEST.SET_MEM_TABLE, table, [region.fd for region in regions])

    def region(self, region: DriverRegion) -> MemoryRegion:
        return MemoryRegion(region.guest_address, region.size, region.user_address, region.file_offset)

    def add_region(self, region: DriverRegion) -> None:
        self.call(REQUEST.ADD_MEM_REG, MemorySlot(self.region(region)), [region.fd])

    def make_ring(self, index: int = 0, size: int = 16) -> SplitDriverQueue:
        event_idx = self.session.negotiation.has_feature(VirtioFeature.RING_EVENT_IDX)
        ring = SplitDriverQueue(self.memory, size, index=index, event_idx=event_idx)
        self.rings[index] = ring
        return ring

    def addresses(self, index: int = 0, *, flags: int = 0, log: int = 0) -> VringAddress:
        ring = self.rings[index]
        translate = self.memory.guest_to_user
        return VringAddress(
            index,
            flags,
            translate(ring.descriptor_address),
            translate(ring.device_address),
            translate(ring.driver_address),
            log,
        )

    def configure_ring(self, index: int = 0, size: int = 16, base: int = 0) -> SplitDriverQueue:
        ring = self.rings.get(index) or self.make_ring(index, size)
        self.call(REQUEST.SET_VRING_NUM, VringState(index, ring.size))
        self.call(REQUEST.SET_VRING_BASE, VringState(index, base))
        self.call(REQUEST.SET_VRING_ADDR, self.addresses(index))
        self.call(REQUEST.SET_VRING_CALL, VringFd.of(index), [ring.call_fd])
        return ring

    def kick(self, index: int = 0) -> None:
        self.call(REQUEST.SET_VRING_KICK, VringFd.of(index), [self.rings[index].kick_fd])

    def enable(self, index: int = 0, on: bool = True) -> None:
        self.call(REQUEST.SET_VRING_ENABLE, VringState(index, int(on)))

    def start_ring(self, index: int = 0, size: int = 16, base: int = 0) -> SplitDriverQueue:
        ring = self.configure_ring(index, size, base)
        self.kick(index)
        if self.session.negotiation.has_feature(VirtioFeature.PROTOCOL_FEATURES):
            self.enable(index)
        return ring

    def stop_ring(self, index: int = 0) -> int:
        return int(self.call(REQUEST.GET_VRING_BASE, VringState(index)).num)

    def bring_up(self, queues: int = 1, size: int = 16) -> None:
        self.negotiate()
        self.share_memory()
        for index in range(queues):
            self.start_ring(index, size)

    def post(
        self, index: int = 0, readable: bytes = b"", writable: int = 0, *, kick: bool = True
    ) -> tuple[int, int]:
        """Make a buffer available; gives its token and the guest address of the writable part."""
        ring = self.rings[index]
        address = self.memory.allocate(len(readable) + writable + 1)
        if readable:
            self.memory.write(address, readable)
        inputs = [(address, len(readable))] if readable else []
        outputs = [(address + len(readable), writable)] if writable else []
        token = ring.add(inputs, outputs)
        ring.publish()
        if kick:
            ring.kick()
        return token, address + len(readable)

    def post_nowhere(self, index: int, readable: bytes, writable: int) -> None:
        """A request whose answer would lie where no memory is."""
        address = self.memory.allocate(len(readable))
        self.memory.write(address, readable)
        ring = self.rings[index]
        ring.add([(address, len(readable))], [(0xDEAD_0000_0000, writable)])
        ring.publish()
        ring.kick()

    def collect(self, index: int = 0, timeout: float = PATIENCE) -> tuple[int, int]:
        """The next used buffer: token and length."""
        ring = self.rings[index]
        assert ring.wait(timeout), f"queue {index}: nothing came back: {ring.describe()}"
        used = ring.poll()
        assert used is not None
        return used

    def request(self, index: int = 0, readable: bytes = b"", writable: int = 0) -> bytes:
        """One request, from the driver's view."""
        token, address = self.post(index, readable, writable)
        back, length = self.collect(index)
        assert back == token
        return self.memory.read(address, min(length, writable)) if writable else b""

    def close(self) -> None:
        self.session.close()
        self.connection.close()
        for ring in self.rings.values():
            ring.close()
        self.memory.close()


def quiet(front: FrontEnd, index: int = 0, seconds: float = 0.05) -> bool:
    """Nothing comes back from the device for a while."""
    return not front.rings[index].wait(seconds)
