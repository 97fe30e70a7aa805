"""Driver of the GPIO device (virtio 1.4 section 5.18)."""

from typing import Any, ClassVar

from vhost_user.frontend.driver import Target
from vhost_user.frontend.drivers.device import DeviceDriver
from vhost_user.frontend.errors import DeviceError
from vhost_user.frontend.pending import Pending
from vhost_user.protocol.errors import PeerTimeout
from vhost_user.spec.gpio import (
    EVENT_QUEUE,
    REQUEST_QUEUE,
    GpioConfig,
    GpioDirection,
    GpioFeature,
    GpioIrqRequest,
    GpioIrqStatus,
    GpioIrqType,
    GpioRequest,
    GpioRequestType,
    GpioStatus,
)


class GpioDriver(DeviceDriver):
    """``with GpioDriver(socket) as gpio: gpio.set_value(3, 1)``. Raises DeviceError when the device says no.

    A device with interrupts has two queues; ``num_queues=1`` does without them.
    """

    FEATURES: ClassVar[int] = GpioFeature.IRQ
    QUEUES: ClassVar[int] = 2

    def __init__(self, target: Target, **options: Any) -> None:
        self.config = GpioConfig(0)
        self._interrupts: dict[int, Pending] = {}
        super().__init__(target, **options)

    def ready(self) -> None:
        """Read the configuration space."""
        self.config = GpioConfig.unpack(self.read_config(0, GpioConfig.SIZE))

    def names(self) -> list[str]:
        """The names of the lines, empty for those that have none."""
        size = self.config.gpio_names_size
        if not size:
            return [""] * self.config.ngpio
        answer = self._ask(GpioRequestType.GET_LINE_NAMES, 0, 0, size)
        return [name.decode() for name in answer.split(b"\0")[: self.config.ngpio]]

    def direction(self, line: int) -> GpioDirection:
        """Direction of a line."""
        return GpioDirection(self._ask(GpioRequestType.GET_DIRECTION, line)[0])

    def set_direction(self, line: int, direction: GpioDirection) -> None:
        """Change the direction of a line."""
        self._ask(GpioRequestType.SET_DIRECTION, line, direction)

    def value(self, line: int) -> int:
        """Level of a line, 0 or 1."""
        return self._ask(GpioRequestType.GET_VALUE, line)[0]

    def set_value(self, line: int, value: int) -> None:
        """Level of an output; set it before the direction."""
        self._ask(GpioRequestType.SET_VALUE, line, value)

    def set_irq_type(self, line: int, kind: GpioIrqType) -> None:
        """When the line interrupts; NONE turns it off."""
        self._ask(GpioRequestType.SET_IRQ_TYPE, line, kind)

    def arm(self, line: int) -> None:
        """Unmask the interrupt of a line: one buffer is good for one interrupt."""
        if line not in self._interrupts:
            self._interrupts[line] = self.queues[EVENT_QUEUE].submit(GpioIrqRequest(line).pack(), 1)

    def wait_irq(self, line: int, *, timeout: float | None = None) -> bool:
        """Wait for an interrupt of a line, armed first if it is not; False when it was turned off meanwhile.

        Raises PeerTimeout.
        """
        self.arm(line)
        pending = self._interrupts[line]
        try:
            status = pending.wait(self.timeout if timeout is None else timeout)
        except PeerTimeout as error:
            raise PeerTimeout(f"no interrupt of line {line}") from error
        del self._interrupts[line]
        pending.release()
        return status[:1] == bytes([GpioIrqStatus.VALID])

    def _ask(self, kind: GpioRequestType, line: int, value: int = 0, size: int = 1) -> bytes:
        answer = self.queues[REQUEST_QUEUE].request(GpioRequest(kind, line, value).pack(), 1 + size)
        if len(answer) != 1 + size or answer[0] != GpioStatus.OK:
            status = answer[0] if answer else -1
            raise DeviceError(
                f"{kind.name} of line {line}: status {status}, {len(answer)} bytes", status=status
            )
        return answer[1:]
