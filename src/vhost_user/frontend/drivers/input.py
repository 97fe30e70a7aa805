"""Driver of the input device (virtio 1.4 section 5.8)."""

from typing import ClassVar

from vhost_user.frontend.drivers.device import DeviceDriver
from vhost_user.frontend.errors import DeviceError
from vhost_user.spec.input import (
    EVENT_QUEUE,
    STATUS_QUEUE,
    InputAbsInfo,
    InputConfig,
    InputDeviceIds,
    InputEvent,
    InputSelect,
)


class InputDriver(DeviceDriver):
    """``with InputDriver(socket) as keyboard: keyboard.events(minimum=2)``."""

    QUEUES: ClassVar[int] = 2
    BUFFERS: ClassVar[int] = 64

    def ready(self) -> None:
        """Leave buffers with the device."""
        self._post(min(self.BUFFERS, self.queue_size))

    def _post(self, count: int) -> None:
        self.queues[EVENT_QUEUE].post(InputEvent.SIZE, count=count)

    def events(self, *, minimum: int = 0, timeout: float | None = None) -> list[InputEvent]:
        """Events that have come, oldest first; waits for ``minimum``. Raises PeerTimeout."""
        done = self.queues[EVENT_QUEUE].completed(minimum=minimum, timeout=timeout)
        events = []
        for pending in done:
            if pending.length != InputEvent.SIZE:
                raise DeviceError(f"an event of {pending.length} bytes: {InputEvent.SIZE} are due")
            events.append(InputEvent.unpack(pending.written))
            pending.release()
        self._post(len(done))
        return events

    def send(self, event: InputEvent) -> None:
        """Send an event to the device, as for a LED."""
        self.queues[STATUS_QUEUE].request(event.pack())

    def query(self, select: InputSelect, subselect: int = 0) -> bytes:
        """What the configuration space says about ``select``; empty where the device has nothing to say."""
        self.write_config(0, bytes([select, subselect]))
        config = InputConfig.unpack(self.read_config(0, InputConfig.SIZE))
        return config.data[: config.size]

    @property
    def name(self) -> str:
        """The device's name."""
        return self.query(InputSelect.ID_NAME).decode(errors="replace")

    @property
    def serial(self) -> str:
        """The device's serial number."""
        return self.query(InputSelect.ID_SERIAL).decode(errors="replace")

    @property
    def ids(self) -> InputDeviceIds:
        """Bus type, vendor, product and version; zeroes where the device has none."""
        return InputDeviceIds.unpack(self.query(InputSelect.ID_DEVIDS).ljust(InputDeviceIds.SIZE, b"\0"))

    def codes(self, event_type: int) -> set[int]:
        """The codes of an event type that the device has."""
        bits = int.from_bytes(self.query(InputSelect.EV_BITS, event_type), "little")
        return {code for code in range(bits.bit_length()) if bits >> code & 1}

    def axis(self, code: int) -> InputAbsInfo:
        """Range and resolution of an absolute axis."""
        return InputAbsInfo.unpack(self.query(InputSelect.ABS_INFO, code))
