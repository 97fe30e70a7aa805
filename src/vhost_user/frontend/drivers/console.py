"""Driver of the console (virtio 1.4 section 5.3): the first port, or several with MULTIPORT."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from vhost_user.frontend.driver import Target
from vhost_user.frontend.drivers.device import DeviceDriver
from vhost_user.frontend.errors import DeviceError
from vhost_user.protocol.errors import PeerTimeout
from vhost_user.spec.console import (
    CONTROL_RECEIVE_QUEUE,
    CONTROL_TRANSMIT_QUEUE,
    ConsoleConfig,
    ConsoleControl,
    ConsoleEvent,
    ConsoleFeature,
    ConsoleResize,
    port_queues,
)
from vhost_user.spec.features import ProtocolFeature

BUFFER_SIZE = 4096
BUFFERS = 16
CONTROL_SIZE = 256


@dataclass
class ConsolePort:
    """What the device has said of a port."""

    name: str = ""
    console: bool = False
    host_open: bool = False
    size: tuple[int, int] = (0, 0)
    """Columns and rows."""


class ConsoleDriver(DeviceDriver):
    r"""``with ConsoleDriver(socket) as console: console.write(b"ls\\n"); console.read_until(b"$ ")``.

    With ``num_queues=4`` or more and MULTIPORT offered the control queues are served: ``control`` gives what
    the device says, ``say`` answers; ports are numbered from 0. ``attend`` does both as a driver should, and
    keeps ``ports``.
    """

    FEATURES: ClassVar[int] = ConsoleFeature.SIZE
    QUEUES: ClassVar[int] = 2

    def __init__(self, target: Target, **options: Any) -> None:
        self.config = ConsoleConfig()
        self.ports: dict[int, ConsolePort] = {}
        """The ports that the device has added, as far as ``attend`` has seen."""
        self._received: dict[int, bytearray] = {}
        if options.get("num_queues", 2) > 2:
            options.setdefault("features", ConsoleFeature.SIZE | ConsoleFeature.MULTIPORT)
        super().__init__(target, **options)

    def ready(self) -> None:
        """Read the configuration space, leave receive buffers with the device."""
        if self.frontend.has_protocol_feature(ProtocolFeature.CONFIG):
            self.read_configuration()
        count = min(BUFFERS, self.queue_size)
        for port in self._ports():
            self.queues[port_queues(port)[0]].post(BUFFER_SIZE, count=count)
        if self.multiport:
            self.queues[CONTROL_RECEIVE_QUEUE].post(CONTROL_SIZE, count=count)
            self.say(0, ConsoleEvent.DEVICE_READY, 1)

    def read_configuration(self) -> ConsoleConfig:
        """Read columns, rows and the number of ports again, as after a change."""
        self.config = ConsoleConfig.unpack(self.read_config(0, ConsoleConfig.SIZE))
        return self.config

    @property
    def multiport(self) -> bool:
        """Whether there are control queues."""
        return bool(self.features & ConsoleFeature.MULTIPORT)

    def _ports(self) -> list[int]:
        return [port for port in range(len(self.queues)) if port_queues(port)[1] < len(self.queues)]

    def write(self, data: bytes, *, port: int = 0) -> int:
        """Send bytes; returns when the device has taken them."""
        self.queues[port_queues(port)[1]].request(data)
        return len(data)

    def read_some(self, *, port: int = 0, timeout: float | None = None) -> bytes:
        """What has come: at least one byte. Raises PeerTimeout."""
        self._fill(port, timeout)
        data = bytes(self._received[port])
        self._received[port].clear()
        return data

    def read(self, size: int, *, port: int = 0, timeout: float | None = None) -> bytes:
        """Exactly ``size`` bytes. Raises PeerTimeout; what came until then stays for the next read."""
        return self._take(port, lambda data: size if len(data) >= size else -1, f"{size} bytes", timeout)

    def read_until(self, end: bytes, *, port: int = 0, timeout: float | None = None) -> bytes:
        """Everything up to and with ``end``. Raises PeerTimeout."""

        def found(data: bytearray) -> int:
            position = data.find(end)
            return -1 if position < 0 else position + len(end)

        return self._take(port, found, repr(end), timeout)

    def _take(self, port: int, found: Any, what: str, timeout: float | None) -> bytes:
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        buffer = self._received.setdefault(port, bytearray())
        while (length := found(buffer)) < 0:
            try:
                self._fill(port, deadline - time.monotonic(), more=True)
            except PeerTimeout as error:
                raise PeerTimeout(
                    f"port {port}: {what} did not come; got {bytes(buffer[-200:])!r}"
                ) from error
        data = bytes(buffer[:length])
        del buffer[:length]
        return data

    def _fill(self, port: int, timeout: float | None, *, more: bool = False) -> None:
        buffer = self._received.setdefault(port, bytearray())
        queue = self.queues[port_queues(port)[0]]
        done = queue.completed(minimum=0 if buffer and not more else 1, timeout=timeout)
        for pending in done:
            buffer += pending.written
            pending.release()
        queue.post(BUFFER_SIZE, count=len(done))

    def say(self, port: int, event: ConsoleEvent, value: int = 0) -> None:
        """Send a control message."""
        self.queues[CONTROL_TRANSMIT_QUEUE].request(ConsoleControl(port, event, value).pack())

    def attend(self, ready: Callable[[], object], *, timeout: float | None = None) -> None:
        """Take control messages and answer them until ``ready`` says so. Raises PeerTimeout, DeviceError."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while not ready():
            for message, more in self.control(timeout=max(0.0, deadline - time.monotonic())):
                self._attend_to(message, more)

    def _attend_to(self, message: ConsoleControl, more: bytes) -> None:
        if message.event == ConsoleEvent.DEVICE_ADD:
            self.ports[message.id] = ConsolePort()
            self.say(message.id, ConsoleEvent.PORT_READY, 1)
            return
        port = self.ports.get(message.id)
        if port is None:
            raise DeviceError(f"{message} is about a port that was not added")
        match message.event:
            case ConsoleEvent.DEVICE_REMOVE:
                del self.ports[message.id]
            case ConsoleEvent.CONSOLE_PORT:
                port.console = bool(message.value)
            case ConsoleEvent.PORT_OPEN:
                port.host_open = bool(message.value)
            case ConsoleEvent.PORT_NAME:
                port.name = more.decode()
            case ConsoleEvent.RESIZE:
                size = ConsoleResize.unpack(more)
                port.size = (size.cols, size.rows)
            case _:
                raise DeviceError(f"{message} is nothing that a device says")

    def open(self, port: int, is_open: bool = True) -> None:
        """Tell the device that a program has opened the port, or closed it."""
        self.say(port, ConsoleEvent.PORT_OPEN, int(is_open))

    def emergency(self, text: bytes) -> None:
        """Show these bytes without a queue (EMERG_WRITE)."""
        for byte in text:
            self.frontend.set_config(8, byte.to_bytes(4, "little"))

    def control(
        self, *, minimum: int = 1, timeout: float | None = None
    ) -> list[tuple[ConsoleControl, bytes]]:
        """Control messages of the device, each with the bytes behind it; waits for ``minimum``."""
        queue = self.queues[CONTROL_RECEIVE_QUEUE]
        messages = []
        done = queue.completed(minimum=minimum, timeout=timeout)
        for pending in done:
            data = pending.written
            pending.release()
            if len(data) < ConsoleControl.SIZE:
                raise DeviceError(f"a control message of {len(data)} bytes")
            messages.append((ConsoleControl.unpack(data[: ConsoleControl.SIZE]), data[ConsoleControl.SIZE :]))
        queue.post(CONTROL_SIZE, count=len(done))
        return messages
