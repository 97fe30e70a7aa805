"""Driver of the CAN device (virtio 1.4 section 5.20)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from vhost_user.frontend.driver import Target
from vhost_user.frontend.drivers.device import DeviceDriver
from vhost_user.frontend.errors import DeviceError
from vhost_user.frontend.pending import Pending
from vhost_user.spec.can import (
    CONTROL_QUEUE,
    MAX_FD,
    RECEIVE_QUEUE,
    TRANSMIT_QUEUE,
    CanConfig,
    CanControl,
    CanFeature,
    CanFlag,
    CanHeader,
    CanMessage,
    CanResult,
)

BUFFERS = 64


@dataclass(frozen=True, slots=True)
class ReceivedFrame:
    """A frame as the driver found it in a buffer."""

    can_id: int
    data: bytes
    flags: CanFlag

    @property
    def extended(self) -> bool:
        """The identifier has 29 bits."""
        return bool(self.flags & CanFlag.EXTENDED)

    @property
    def fd(self) -> bool:
        """A frame of CAN FD."""
        return bool(self.flags & CanFlag.FD)

    @property
    def rtr(self) -> bool:
        """A remote request."""
        return bool(self.flags & CanFlag.RTR)


class CanDriver(DeviceDriver):
    """``with CanDriver(socket) as can: can.send(0x123, b"hello"); frame = can.receive()``.

    Starts the controller; with ``start=False`` call ``start`` yourself. Raises DeviceError when the device
    says no.
    """

    FEATURES: ClassVar[int] = CanFeature.CLASSIC | CanFeature.FD | CanFeature.RTR_FRAMES
    QUEUES: ClassVar[int] = 3

    def __init__(self, target: Target, *, start: bool = True, **options: Any) -> None:
        self._starts = start
        self._received: list[ReceivedFrame] = []
        super().__init__(target, **options)

    def ready(self) -> None:
        """Leave buffers with the device, start the controller."""
        self._leave_buffers(min(BUFFERS, self.queue_size))
        if self._starts:
            self.start()

    def _leave_buffers(self, count: int) -> None:
        self.queues[RECEIVE_QUEUE].post(CanHeader.SIZE + MAX_FD, count=count)

    def start(self) -> None:
        """Take part in the bus."""
        self._control(CanMessage.START)

    def stop(self) -> None:
        """Take part no more; frames that wait to be sent are refused."""
        self._control(CanMessage.STOP)

    def _control(self, message: CanMessage) -> None:
        answer = self.queues[CONTROL_QUEUE].request(CanControl(message).pack(), 1)
        _check(answer, message.name)

    def status(self) -> int:
        """``status`` of the configuration space: see :class:`vhost_user.spec.can.CanStatus`."""
        return CanConfig.unpack(self.read_config(0, CanConfig.SIZE)).status

    def submit(
        self,
        can_id: int,
        data: bytes = b"",
        *,
        extended: bool = False,
        fd: bool = False,
        rtr: bool = False,
        length: int | None = None,
    ) -> Pending:
        """Give a frame to the device; the one byte of its answer comes later."""
        flags = CanFlag.EXTENDED * extended | CanFlag.FD * fd | CanFlag.RTR * rtr
        size = len(data) if length is None else length
        header = CanHeader(CanMessage.TRANSMIT, size, flags=flags, can_id=can_id)
        return self.queues[TRANSMIT_QUEUE].submit(header.pack() + data, 1)

    def send(self, can_id: int, data: bytes = b"", **kind: Any) -> None:
        """Send a frame, and wait until the device has. Arguments as for ``submit``."""
        pending = self.submit(can_id, data, **kind)
        answer = pending.wait(self.timeout)
        pending.release()
        _check(answer, f"frame {can_id:#x}")

    def receive(self, *, timeout: float | None = None) -> ReceivedFrame:
        """The next frame of the bus. Raises PeerTimeout."""
        if not self._received:
            done = self.queues[RECEIVE_QUEUE].completed(minimum=1, timeout=timeout)
            for pending in done:
                self._received.append(_frame(pending.written))
                pending.release()
            self._leave_buffers(len(done))
        return self._received.pop(0)


def _check(answer: bytes, what: str) -> None:
    if answer != bytes([CanResult.OK]):
        status = answer[0] if answer else -1
        raise DeviceError(f"{what}: the device answers {answer.hex() or 'nothing'}", status=status)


def _frame(data: bytes) -> ReceivedFrame:
    if len(data) < CanHeader.SIZE:
        raise DeviceError(f"a CAN frame of {len(data)} bytes, which is less than its header")
    header = CanHeader.unpack(data[: CanHeader.SIZE])
    content = data[CanHeader.SIZE :]
    if header.msg_type != CanMessage.RECEIVE or len(content) != header.length:
        raise DeviceError(f"{header} with {len(content)} bytes of data is not a received CAN frame")
    return ReceivedFrame(header.can_id, content, CanFlag(header.flags))
