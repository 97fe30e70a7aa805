"""The console (virtio 1.4, 5.3): lines between the guest and whatever is at their other ends.

    serve(Console("stdio"))                                        # /dev/hvc0 in the guest
    serve(Console("pty", Port("file:boot.log", name="log", console=False)))   # and /dev/virtio-ports/log

An end is a word of ``vhost_user.devices.console_words``, an ``End``, or an async function of a reader and a
writer, as for ``asyncio.start_server``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vhost_user.backend import U16, U32, BufferQueue, Config, Device, Queue
from vhost_user.backend.limited_log import LimitedLog
from vhost_user.devices.console_port import EndLike, Port
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

if TYPE_CHECKING:
    from vhost_user.engine.device.request import Request

_report = LimitedLog(logging.getLogger(__name__))

MOST_PORTS = 127
"""Two queues for each, and two for control: a device of vhost-user has 256 at most."""
BACKLOG = 16
"""Pieces of data on their way to a guest that does not read; then the other end waits."""
IN_HAND_PATIENCE = 0.05
"""Seconds that a queue which stops waits for a request that is being read at this moment."""
EMERGENCY_WRITE = 8
"""Offset of ``emerg_wr`` in the configuration space."""


class Space(Config):
    """The configuration space, as :class:`vhost_user.spec.console.ConsoleConfig` has it."""

    cols = U16(80)
    rows = U16(25)
    max_nr_ports = U32(1)
    emerg_wr = U32(writable=True)


class Console(Device, type="console"):
    """Lines to the guest: one, or several with names.

    One port without a name is a plain console, ``/dev/hvc0``. With more, with a name, or with ``max_ports``
    the device offers MULTIPORT; then ports come and go (``plug``, ``unplug``), ``max_ports`` of them at most.
    A driver that does not take MULTIPORT gets the first.

    Nothing is lost when a queue stops: what the other end has not taken goes back to the driver, and comes
    again after the next start. What the guest writes to a port that nobody is connected to is dropped.
    """

    config = Space()

    def __init__(
        self, *ports: Port | EndLike, cols: int = 80, rows: int = 25, max_ports: int | None = None
    ) -> None:
        lines = [port if isinstance(port, Port) else Port(port) for port in ports] or [Port()]
        self.max_ports = len(lines) if max_ports is None else max_ports
        if not len(lines) <= self.max_ports <= MOST_PORTS:
            raise ValueError(
                f"max_ports is {max_ports}: {len(lines)} ports are given, {MOST_PORTS} are possible"
            )
        plain = max_ports is None and len(lines) == 1 and not lines[0].name and lines[0].console
        self.device_features = ConsoleFeature.SIZE | ConsoleFeature.EMERG_WRITE
        self.config.cols, self.config.rows, self.config.max_nr_ports = cols, rows, self.max_ports
        self._ports: dict[int, Port] = {}
        self._to_guest: dict[int, BufferQueue] = {}
        self._driver_speaks = False
        for number in range(self.max_ports):
            receive, transmit = port_queues(number)
            to_guest = BufferQueue(receive, stream=True, backlog=BACKLOG)
            self._to_guest[number] = self.add_queue(to_guest, f"port {number} to the guest")
            self.add_queue(Queue(transmit), f"port {number} from the guest", Console._from_guest)
            if number == 0 and not plain:
                self.device_features |= ConsoleFeature.MULTIPORT
                control = BufferQueue(CONTROL_RECEIVE_QUEUE)
                self._control = self.add_queue(control, "control to the guest")
                self.add_queue(Queue(CONTROL_TRANSMIT_QUEUE), "control from the guest", Console._from_driver)
        for port in lines:
            self._take(port)

    # What a program uses; from any thread

    @property
    def ports(self) -> dict[int, Port]:
        """The ports that are plugged, by number."""
        return dict(self._ports)

    def plug(self, port: Port | EndLike) -> Port:
        """Add a port. Raises ValueError when all of ``max_ports`` are taken."""
        port = self._take(port if isinstance(port, Port) else Port(port))
        if self._daemon is not None:
            self._begin(port)
            self._in_loop(self._say, port, ConsoleEvent.DEVICE_ADD, 0)
        return port

    def unplug(self, port: Port) -> None:
        """Take a port away; the guest's device disappears. Raises ValueError for one that is not plugged."""
        if self._ports.get(port.number) is not port:
            raise ValueError(f"{port!r} is not a port of this console")
        del self._ports[port.number]
        port.end_now()
        if self._daemon is not None:
            self._in_loop(self._say, port, ConsoleEvent.DEVICE_REMOVE, 0)

    def resize(self, cols: int, rows: int, port: int = 0) -> None:
        """The window of a port has another size: the guest's programs get SIGWINCH."""
        self._ports[port].size = (cols, rows)
        if port == 0:
            with self.config.changing():
                self.config.cols, self.config.rows = cols, rows
        if self._daemon is not None:
            self._in_loop(self._say_size, self._ports[port])

    # The life of the device

    def setup(self) -> None:
        """The other ends begin."""
        for port in self._ports.values():
            self._begin(port)

    def started(self) -> None:
        """Without MULTIPORT the first port is open from now on; with it, the driver says so."""
        if not self.driver_features & ConsoleFeature.MULTIPORT:
            self._in_loop(self._open, 0, True)
            self.config_changed()  # Linux before 6.16 reads the size only when it is told of a change

    def queue_started(self, queue: int) -> None:
        """A driver that was at work before this program began will not introduce itself again."""
        # The position in the ring; bit 15 is the wrap counter of a packed one.
        if queue == CONTROL_TRANSMIT_QUEUE and self.vring(queue).base() & 0x7FFF and not self._driver_speaks:
            self._in_loop(self._go_on)

    def reset(self) -> None:
        """The next driver opens its ports itself."""
        self._in_loop(self._forget)

    def queue_stopping(self, queue: int) -> float | None:
        """What its end has no room for goes back to the driver as it is, at once (C054)."""
        port = self._port_of(queue)
        if queue % 2 == 0 or port is None:
            return None
        waiting = port.from_guest.set_aside()
        return IN_HAND_PATIENCE if self.vring(queue).in_flight > waiting else 0.0

    def set_config(self, offset: int, data: bytes) -> None:
        """``emerg_wr`` is a character to be shown; the same twice is two (virtio 1.4, 5.3.4)."""
        super().set_config(offset, data)
        if offset <= EMERGENCY_WRITE < offset + len(data) and 0 in self._ports:
            character = bytes([data[EMERGENCY_WRITE - offset]])
            self._ports[0].from_guest.put(character)

    # Requests, in the worker

    def _port_of(self, queue: int) -> Port | None:
        number = 0 if queue < CONTROL_RECEIVE_QUEUE else (queue - 2) // 2
        return None if queue in {CONTROL_RECEIVE_QUEUE, CONTROL_TRANSMIT_QUEUE} else self._ports.get(number)

    def _from_guest(self, request: Request) -> None:
        port = self._port_of(request.queue)
        if port is not None:
            port.from_guest.offer(request)

    def _from_driver(self, request: Request) -> None:
        message = request.read(ConsoleControl.SIZE)
        if len(message) < ConsoleControl.SIZE:
            _report.warning("a control message of %d bytes is left alone", len(message))
            return
        self._in_loop(self._heed, ConsoleControl.unpack(message))

    # In the loop

    def _heed(self, control: ConsoleControl) -> None:
        if control.event == ConsoleEvent.DEVICE_READY:
            self._driver_speaks = True
            for port in self._ports.values() if control.value else ():
                self._say(port, ConsoleEvent.DEVICE_ADD, 0)
            return
        found = self._ports.get(control.id)
        if found is None:
            _report.warning("the driver speaks of port %d, which does not exist", control.id)
        elif control.event == ConsoleEvent.PORT_READY and control.value:
            self._introduce(found)
        elif control.event == ConsoleEvent.PORT_OPEN:
            self._open(control.id, bool(control.value))

    def _introduce(self, port: Port) -> None:
        port.ready = True
        if port.console:
            self._say(port, ConsoleEvent.CONSOLE_PORT, 1)
            if port.size != (0, 0):
                self._say_size(port)
        if port.name:
            self._say(port, ConsoleEvent.PORT_NAME, 1, port.name.encode())
        if port.connected:
            self._say(port, ConsoleEvent.PORT_OPEN, 1)

    def _take(self, port: Port) -> Port:
        number = next((number for number in range(self.max_ports) if number not in self._ports), None)
        if number is None:
            raise ValueError(f"there are {self.max_ports} ports already: give Console a larger max_ports")
        if number == 0 and port.size == (0, 0):
            port.size = (self.config.cols, self.config.rows)
        self._ports[number] = port
        port.plugged(number, self._to_guest[number], self._connection, self.resize)
        return port

    def _begin(self, port: Port) -> None:
        port.task = self.background(port.run())

    def _in_loop(self, function: Callable[..., object], *arguments: Any) -> None:
        self.loop.call_soon_threadsafe(function, *arguments)

    def _open(self, number: int, is_open: bool) -> None:
        if number in self._ports:
            self._ports[number].guest_is(is_open)

    def _go_on(self) -> None:
        for port in self._ports.values():
            port.ready = True
            port.guest_is(True)
            self._say(port, ConsoleEvent.PORT_OPEN, int(port.connected))

    def _forget(self) -> None:
        self._driver_speaks = False
        for port in self._ports.values():
            port.ready = False
            port.guest_is(False)

    def _connection(self, port: Port) -> None:
        if port.ready:
            self._say(port, ConsoleEvent.PORT_OPEN, int(port.connected))

    def _say_size(self, port: Port) -> None:
        if port.ready and port.console:
            self._say(port, ConsoleEvent.RESIZE, 0, ConsoleResize(*port.size).pack())

    def _say(self, port: Port, event: ConsoleEvent, value: int, more: bytes = b"") -> None:
        if not self.driver_features & ConsoleFeature.MULTIPORT:
            return
        if not self._control.post(ConsoleControl(port.number, event, value).pack() + more):
            _report.warning(
                "the driver takes no control messages: %s of port %d is lost", event.name, port.number
            )


assert len(Space()) == ConsoleConfig.SIZE
