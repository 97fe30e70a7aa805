"""Driver of the network device (virtio 1.4 section 5.1): whole Ethernet frames, no offloads."""

from collections.abc import Sequence
from typing import Any, ClassVar

from vhost_user.frontend.driver import Target
from vhost_user.frontend.drivers.device import DeviceDriver
from vhost_user.frontend.errors import DeviceError
from vhost_user.frontend.pending import Pending
from vhost_user.protocol.errors import PeerTimeout
from vhost_user.spec.features import ProtocolFeature
from vhost_user.spec.net import NetConfig, NetFeature, NetHeader

MAX_FRAME = 65550


class NetDriver(DeviceDriver):
    """``with NetDriver(socket) as nic: nic.send(frame); nic.receive()``.

    ``pairs`` is the number of queue pairs; without it as many as ``num_queues`` has, or one. ``buffers``
    receive buffers of ``buffer_size`` bytes wait in each pair; with MRG_RXBUF a frame may fill several.
    """

    FEATURES: ClassVar[int] = (
        NetFeature.MAC | NetFeature.MRG_RXBUF | NetFeature.STATUS | NetFeature.MTU | NetFeature.MQ
    )

    def __init__(
        self,
        target: Target,
        *,
        pairs: int | None = None,
        buffers: int = 64,
        buffer_size: int = 2048,
        **options: Any,
    ) -> None:
        if pairs is None:
            pairs = max(1, (options.get("num_queues") or 2) // 2)
        if options.setdefault("num_queues", 2 * pairs) is not None and options["num_queues"] < 2 * pairs:
            raise ValueError(
                f"num_queues is {options['num_queues']}, but {pairs} pairs are {2 * pairs} queues"
            )
        self.config = NetConfig(bytes(6))
        self.pairs = pairs
        self.buffer_size = buffer_size
        self._buffers = buffers
        self._received: list[list[Pending]] = [[] for _ in range(pairs)]
        super().__init__(target, **options)

    def ready(self) -> None:
        """Read the configuration space where there is one, leave receive buffers with the device."""
        if self.frontend.has_protocol_feature(ProtocolFeature.CONFIG) and self.features & NetFeature.MAC:
            size = 12 if self.features & NetFeature.MTU else 6
            self.config = NetConfig.unpack(self.read_config(0, size).ljust(NetConfig.SIZE, b"\0"))
        for pair in range(self.pairs):
            self.queues[2 * pair].post(self.buffer_size, count=min(self._buffers, self.queue_size))

    @property
    def mac(self) -> bytes:
        """The device's address, 6 bytes; zeroes when it has none."""
        return self.config.mac

    def send(self, frame: bytes, *, pair: int = 0) -> None:
        """Send one frame."""
        self.queues[2 * pair + 1].request([NetHeader(num_buffers=0).pack(), frame])

    def send_many(self, frames: Sequence[bytes], *, pair: int = 0) -> None:
        """Send frames as one batch."""
        header = NetHeader(num_buffers=0).pack()
        self.queues[2 * pair + 1].request_many([([header, frame], 0) for frame in frames])

    def receive(self, *, pair: int = 0, timeout: float | None = None) -> bytes:
        """The next frame. Raises PeerTimeout when none comes, DeviceError for one that breaks the rules."""
        first = self._next(pair, timeout)
        if len(first) < NetHeader.SIZE:
            raise DeviceError(f"a received buffer of {len(first)} bytes has no room for the header")
        count = NetHeader.unpack(first[: NetHeader.SIZE]).num_buffers
        if count != 1 and not (
            self.features & NetFeature.MRG_RXBUF and 1 < count * self.buffer_size <= 2 * MAX_FRAME
        ):
            raise DeviceError(f"num_buffers is {count}")
        frame = bytearray(first[NetHeader.SIZE :])
        for _ in range(count - 1):
            frame += self._next(pair, timeout)
        return bytes(frame)

    def receive_all(self, *, pair: int = 0) -> list[bytes]:
        """The frames that are there already."""
        frames = []
        while True:
            try:
                frames.append(self.receive(pair=pair, timeout=0))
            except PeerTimeout:
                return frames

    def _next(self, pair: int, timeout: float | None) -> bytes:
        queue, waiting = self.queues[2 * pair], self._received[pair]
        if not waiting:
            waiting += queue.completed(minimum=1, timeout=timeout)
        pending = waiting.pop(0)
        data = pending.written
        pending.release()
        queue.post(self.buffer_size)
        return data
