"""Devices of ours for the suite to look at: one that can do everything, and one that lies."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from vhost_user import Device, Request, SharedObjects
from vhost_user.backend.daemon import VhostUserDaemon
from vhost_user.devices.rng import Rng
from vhost_user.spec.blk import BlkFeature
from vhost_user.spec.features import ProtocolFeature, VirtioFeature

EXTRA = int(ProtocolFeature.DEVICE_STATE | ProtocolFeature.SHMEM | ProtocolFeature.INBAND_NOTIFICATIONS)


class Rich(Rng):
    """Our device with everything that the framework can do; mutants change what it does with requests."""

    packed = True
    in_order = False
    device_features = int(VirtioFeature.RING_RESET | VirtioFeature.ACCESS_PLATFORM)
    """Nothing offers it by itself (see DEFAULT_FEATURES); the checks forward it."""
    extra_protocol_features = EXTRA
    shared_objects = SharedObjects()
    queues = 2
    daemon: VhostUserDaemon
    spoil: Callable[[Rich, Request], bool] = staticmethod(lambda _device, _request: False)
    """Called with each request; True when the device is not to answer it."""
    skip_events = 0
    calls: list[int]

    def __init__(self) -> None:
        super().__init__()
        self.calls = []
        self.count = 0
        self.lost: list[Request] = []
        """Requests that are never answered; nobody may forget them, or they go back empty."""

    def handle(self, request: Request) -> None:
        self.count += 1
        if type(self).spoil(self, request):
            if not request.completed:
                request.hold()
                self.lost.append(request)
            return
        for fd in self.calls:
            os.eventfd_write(fd, 1)
        super().handle(request)

    def queue_event(self, vring: Any) -> object:
        if self.skip_events > 0:
            self.skip_events -= 1
            return None
        return super().queue_event(vring)

    def get_shmem_config(self) -> dict[int, int]:
        return {0: 4096}

    def save_state(self) -> object:
        return b"state" * 50_000

    def load_state(self, state: Any, version: int) -> None:
        if (state, version) != (b"state" * 50_000, 1):
            raise ValueError("another state")

    def close(self) -> None:
        for fd in self.calls:
            os.close(fd)
        self.calls.clear()
        super().close()


class LyingBlk(Device, type="blk"):
    """A block device that answers everything with OK and remembers nothing; its capacity can be written."""

    config = bytearray((100).to_bytes(8, "little") + bytes(24) + b"\1" + bytes(63))
    config_writable = (range(8), range(32, 33))
    device_features = int(BlkFeature.BLK_SIZE | BlkFeature.SEG_MAX | BlkFeature.FLUSH | BlkFeature.CONFIG_WCE)

    def handle(self, request: Request) -> None:
        kind = int.from_bytes(request.read(4), "little")
        request.fill(0, request.writable - 1)
        request.write(b"\x07" if kind == 8 else b"\0")
