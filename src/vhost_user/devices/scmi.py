"""An SCMI platform (virtio 1.4, 5.17): sensors that a guest reads, and is told of.

    cpu = Sensor("cpu", SensorUnit.CELSIUS, value=40.0)
    serve(Scmi(cpu))
    cpu.value = 80.0

Sensors of this machine are in ``vhost_user.devices.scmi_host``, what a protocol is in
``vhost_user.devices.scmi_protocol``.
"""

from __future__ import annotations

import functools
import logging
import struct
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from vhost_user.backend import BufferQueue, Device, Queue
from vhost_user.devices.scmi_base import BaseProtocol
from vhost_user.devices.scmi_protocol import Command, Key, ScmiProtocol, ScmiRefusal, status
from vhost_user.devices.scmi_sensor import Sensor
from vhost_user.devices.scmi_sensors import SensorProtocol
from vhost_user.engine.errors import EngineError
from vhost_user.protocol.limited_log import LimitedLog
from vhost_user.spec.scmi import (
    COMMAND_QUEUE,
    EVENT_QUEUE,
    ScmiFeature,
    ScmiHeader,
    ScmiStatus,
    ScmiType,
)

if TYPE_CHECKING:
    from vhost_user.backend.timers import Timer
    from vhost_user.engine.device.request import Request

_report = LimitedLog(logging.getLogger(__name__))

MOST_PARAMETERS = 4096
"""Bytes: no message of these protocols has more than sixteen."""
_HEAD = ScmiHeader.SIZE + 4
"""Bytes of the shortest answer: header and status."""


class Scmi(Device, type="scmi", device_features=ScmiFeature.P2A_CHANNELS):
    """The base protocol, that of sensors with ``sensors`` in their order, and ``protocols`` of your own.

    Raises ValueError for two sensors of one name, or two protocols of one number.
    """

    commands = Queue(COMMAND_QUEUE)
    events = BufferQueue(EVENT_QUEUE, feature=ScmiFeature.P2A_CHANNELS)

    def __init__(self, *sensors: Sensor, protocols: Iterable[ScmiProtocol] = ()) -> None:
        super().__init__()
        self.sensors = SensorProtocol(sensors)
        more = [self.sensors, *protocols]
        self.base = BaseProtocol([protocol.number for protocol in more])
        self.protocols = {protocol.number: protocol for protocol in (self.base, *more)}
        """By their numbers."""
        if len(self.protocols) != len(more) + 1:
            raise ValueError("two protocols have the same number")
        for protocol in self.protocols.values():
            protocol.platform = self
        # The worker, timers and whoever sets a sensor: nobody waits under it.
        self._lock = threading.RLock()
        self._pending: dict[tuple[int, Key], None] = {}
        self._timer: Timer | None = None
        self._served = False
        for number, sensor in enumerate(sensors):
            sensor.on_change(functools.partial(self._changed, number))

    def sensor(self, which: int | str) -> Sensor:
        """A sensor by its name or number. Raises KeyError or IndexError for one that is not there."""
        if isinstance(which, int):
            return self.sensors.sensors[which]
        return {sensor.name: sensor for sensor in self.sensors.sensors}[which]

    def report_error(self, code: ScmiStatus = ScmiStatus.GENERIC_ERROR, *, fatal: bool = False) -> None:
        """Tell the guest of an error that is not the answer to a command, if it wants to hear of such."""
        with self._lock:
            self.base.report(code, fatal=fatal)

    # The life of the device

    def setup(self) -> None:
        """Sensors may be looked at from now on; the timer is made now, and not by the first guest."""
        with self._lock:
            self._served = True
            if self.sensors.measuring:
                self._timer = self.call_later(0, self._poll)

    def shutdown(self) -> None:
        """They may still be set, but nobody is told."""
        with self._lock:
            self._served = False
            self.reset()

    def reset(self) -> None:
        """What this driver has set is not for the next."""
        with self._lock:
            self._pending.clear()
            for protocol in self.protocols.values():
                protocol.reset()
            self._plan()

    def save_state(self) -> object:
        """What the driver has set, and what it is to be told."""
        with self._lock:
            return {
                "protocols": {
                    str(int(number)): protocol.save_state() for number, protocol in self.protocols.items()
                },
                "pending": [[int(number), *key] for number, key in self._pending],
            }

    def load_state(self, state: Any, version: int) -> None:
        """Go on with that. Raises ValueError for what is no such state."""
        del version  # there was one so far
        if not isinstance(state, dict) or not isinstance(state.get("protocols"), dict):
            raise ValueError("the state of an SCMI device is about its protocols")  # noqa: TRY004  # as below
        if set(state["protocols"]) != {str(int(number)) for number in self.protocols}:
            raise ValueError(f"the state has the protocols {', '.join(map(str, state['protocols']))}")
        pending = state.get("pending")
        if not isinstance(pending, list) or not all(
            isinstance(each, list) and len(each) > 1 and each[0] in self.protocols for each in pending
        ):
            raise ValueError(f"{pending!r:.80} are not events of these protocols")
        with self._lock:
            for number, protocol in self.protocols.items():
                protocol.load_state(state["protocols"][str(int(number))])
            self._pending.clear()
            for number, *key in pending:
                self.protocols[number].resume(tuple(key))
                self._pending[number, tuple(key)] = None
            self._plan()

    # Commands, in the worker

    @commands.handler
    def asked(self, request: Request) -> None:
        """Answer a command; what is too short to be one comes back as it is."""
        if request.readable < ScmiHeader.SIZE or request.writable < _HEAD:
            _report.warning(
                "queue 0, head %d: %d bytes are not a command, or %d no room for its answer",
                request.head, request.readable, request.writable,
            )  # fmt: skip
            return
        word = request.read(ScmiHeader.SIZE)
        room = request.writable - _HEAD
        parameters = request.read(min(request.readable, MOST_PARAMETERS))
        events = bool(self.driver_features & ScmiFeature.P2A_CHANNELS)
        command = Command(ScmiHeader.unpack(word), parameters, room, events)
        try:
            with self._lock:
                answer = self._perform(command)
            code = ScmiStatus.SUCCESS if len(answer) <= room else ScmiStatus.COMMS_ERROR
        except ScmiRefusal as error:
            code = error.status
        if code is not ScmiStatus.SUCCESS:
            answer = b""
        request.write(word + status(code) + answer)
        if command.afterwards:
            # The answer goes first, whoever may tell of other events at this moment.
            request.hold()
            request.complete()
            protocol = self.protocols[command.header.protocol]
            for key in command.afterwards:
                self.tell(protocol, key)
        self._plan()

    def _perform(self, command: Command) -> bytes:
        protocol = self.protocols.get(command.header.protocol)
        if protocol is None or command.header.type != ScmiType.COMMAND:
            raise ScmiRefusal(ScmiStatus.NOT_SUPPORTED)
        try:
            return protocol.carry_out(command)
        except ScmiRefusal as error:
            if error.status in {ScmiStatus.HARDWARE_ERROR, ScmiStatus.GENERIC_ERROR}:
                self.base.report(error.status, header=command.header)
            raise

    def fail(self, request: Request, exception: BaseException) -> None:
        """A protocol with a fault."""
        del exception
        try:
            word = request.read_at(0, ScmiHeader.SIZE)
            if len(word) == ScmiHeader.SIZE and request.writable >= _HEAD:
                request.write(word + status(ScmiStatus.GENERIC_ERROR))
        except EngineError as error:
            _report.warning("queue 0, head %d: %s", request.head, error)
        request.complete()

    # Events

    def tell(self, protocol: ScmiProtocol, key: Key) -> None:
        """An event has happened: the driver is told as soon as there is a buffer (see ``Platform``)."""
        if not self.driver_features & ScmiFeature.P2A_CHANNELS:
            return
        with self._lock:
            self._pending[protocol.number, key] = None
        self._deliver()

    @events.on_available
    def _deliver(self) -> None:
        """Tell the driver what has happened, while there are buffers."""
        with self._lock:
            while self._served and self._pending and (buffer := self.events.take()) is not None:
                number, key = next(iter(self._pending))
                message = self.protocols[number].event(key)
                if message is None:
                    self.events.put_back(buffer)
                elif not self._filled(buffer, message):
                    continue
                del self._pending[number, key]
                self.protocols[number].told(key)

    @staticmethod
    def _filled(buffer: Request, message: bytes) -> bool:
        """False: the buffer was none."""
        try:
            if buffer.writable < len(message):
                _report.warning(
                    "a buffer of %d bytes is too small for an event of %d", buffer.writable, len(message)
                )
                buffer.complete(0)
                return False
            buffer.write(message)
            buffer.complete()
        except EngineError as error:
            _report.warning("an event cannot be told: %s", error)
            if buffer.alive:
                buffer.complete(0)
            return False
        return True

    def _changed(self, number: int, _sensor: Sensor) -> None:
        """A program has set a sensor, in any thread."""
        with self._lock:
            if self._served:
                self.sensors.look(number)

    def _plan(self) -> None:
        """Look at sensors of this machine as often as the driver wants to hear of them."""
        with self._lock:
            seconds = self.sensors.until_next() if self._served else None
            if seconds is None and self._timer is not None:
                self._timer.cancel()
                self._timer = None
            elif seconds is not None and (self._timer is None or not self._timer.active):
                self._timer = self.call_later(seconds, self._poll)

    def _poll(self) -> None:
        with self._lock:
            for number, sensor in enumerate(self.sensors.sensors):
                if sensor.polled and self._served:
                    self.sensors.look(number)
            self._timer = None
            self._plan()


assert struct.calcsize("<Ii") == _HEAD
