"""Driver of the input device (virtio 1.4 section 5.8)."""

from collections import deque
from typing import Any, ClassVar

from vhost_user.frontend.driver import Target
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
from vhost_user.spec.input_codes import EventType, Synchronization


class InputDriver(DeviceDriver):
    """``with InputDriver(socket) as keyboard: keyboard.report()``.

    It leaves ``buffers`` with the device, and each again when it has been used; with 0 it leaves none until
    ``leave`` does.
    """

    QUEUES: ClassVar[int] = 2
    BUFFERS: ClassVar[int] = 64

    def __init__(self, target: Target, *, buffers: int = BUFFERS, **options: Any) -> None:
        self._buffers = buffers
        self._read: deque[InputEvent] = deque()
        super().__init__(target, **options)

    def ready(self) -> None:
        """Leave buffers with the device."""
        self.leave(min(self._buffers, self.queue_size))

    def leave(self, count: int) -> None:
        """Leave so many buffers more with the device."""
        if count:
            self.queues[EVENT_QUEUE].post(InputEvent.SIZE, count=count)

    def events(self, *, minimum: int = 0, timeout: float | None = None) -> list[InputEvent]:
        """Events that have come, oldest first; waits for ``minimum``. Raises PeerTimeout."""
        self._fetch(0, timeout)
        while len(self._read) < minimum:
            self._fetch(1, timeout)
        events = list(self._read)
        self._read.clear()
        return events

    def report(self, *, timeout: float | None = None) -> list[InputEvent]:
        """The next report, whole and without the SYN_REPORT that ends it. Raises PeerTimeout."""
        while (end := self._end()) is None:
            self._fetch(1, timeout)
        report = [self._read.popleft() for _ in range(end)]
        self._read.popleft()
        return report

    def _end(self) -> int | None:
        """Where the first report ends."""
        ends = (EventType.EV_SYN, Synchronization.SYN_REPORT)
        return next((n for n, event in enumerate(self._read) if (event.type, event.code) == ends), None)

    def _fetch(self, minimum: int, timeout: float | None) -> None:
        """Take over what has come, and leave as many buffers again."""
        done = self.queues[EVENT_QUEUE].completed(minimum=minimum, timeout=timeout)
        for pending in done:
            if pending.length != InputEvent.SIZE:
                raise DeviceError(f"an event of {pending.length} bytes: {InputEvent.SIZE} are due")
            self._read.append(InputEvent.unpack(pending.written))
            pending.release()
        if self._buffers:
            self.leave(len(done))

    def send(self, event: InputEvent) -> None:
        """Send an event to the device, as for a LED."""
        self.queues[STATUS_QUEUE].request(event.pack())

    def light(self, led: int, lit: bool = True) -> None:
        """Light a LED, or put it out."""
        self.send(InputEvent(EventType.EV_LED, led, int(lit)))

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

    @property
    def properties(self) -> set[int]:
        """The properties of the device (INPUT_PROP_…)."""
        return _codes(self.query(InputSelect.PROP_BITS))

    def codes(self, event_type: int) -> set[int]:
        """The codes of an event type that the device has."""
        return _codes(self.query(InputSelect.EV_BITS, event_type))

    def axis(self, code: int) -> InputAbsInfo:
        """Range and resolution of an absolute axis."""
        return InputAbsInfo.unpack(self.query(InputSelect.ABS_INFO, code))


def _codes(bitmap: bytes) -> set[int]:
    bits = int.from_bytes(bitmap, "little")
    return {code for code in range(bits.bit_length()) if bits >> code & 1}
