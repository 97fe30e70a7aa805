"""A device of each type that QEMU has something for: just enough of it for QEMU and a firmware to start."""

from __future__ import annotations

from vhost_user import Device, Request


class _StandIn(Device):
    def handle(self, request: Request) -> None:
        """Give everything back with nothing in it."""


class Net(_StandIn, type="net", queues=2):
    pass


class NetOfManyQueues(_StandIn, type="net", queues=4):
    pass


class Blk(_StandIn, type="blk", queues=4, config=bytes(96)):
    pass


class BlkOfSmallRings(_StandIn, type="blk", queue_size=64, config=bytes(96)):
    pass


class Rng(_StandIn, type="rng"):
    pass


class Scsi(_StandIn, type="scsi", queues=4):
    pass


class Fs(_StandIn, type="fs", queues=2):
    pass


class FsOfManyQueues(_StandIn, type="fs", queues=5, queue_size=512):
    pass


class Gpio(_StandIn, type="gpio", queues=2, config=bytes(8)):
    pass


class I2c(_StandIn, type="i2c"):
    pass


class Vsock(_StandIn, type="vsock", queues=3, config=(3).to_bytes(8, "little")):
    pass


class Input(_StandIn, type="input", queues=2, config=bytes(136)):
    pass


class Gpu(_StandIn, type="gpu", queues=2, config=bytes(16)):
    pass


class Sound(_StandIn, type="sound", queues=4, config=bytes(12)):
    pass


class Spi(_StandIn, type="spi", config=bytes(32)):
    pass


class Scmi(_StandIn, type="scmi", queues=2):
    pass


class Rtc(_StandIn, type="rtc", queues=2):
    pass


class Can(_StandIn, type="can", queues=3, config=bytes(2)):
    """One of those that get QEMU's generic device."""


class Console(_StandIn, type="console", queues=2, config=bytes(12)):
    pass
