"""The clock device (virtio 1.4, 5.23): clocks that the guest reads, and alarms.

serve(Rtc())                                           # UTC, TAI and a monotonic clock of the host
clock = Clock()
serve(Rtc([clock]))
clock.travel(datetime(1985, 10, 26, 1, 20, tzinfo=UTC))
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vhost_user.backend import BufferQueue, Device, Queue
from vhost_user.devices.rtc_clock import MOST, SECOND, Clock
from vhost_user.engine.errors import EngineError
from vhost_user.protocol.limited_log import LimitedLog
from vhost_user.spec.record import Record
from vhost_user.spec.rtc import (
    ALARM_NOTIFICATION,
    ALARM_QUEUE,
    REQUEST_QUEUE,
    ClockType,
    HardwareCounter,
    RtcAlarm,
    RtcCapability,
    RtcClockRequest,
    RtcConfiguration,
    RtcCounterRequest,
    RtcCrossCapability,
    RtcEnableAlarm,
    RtcFeature,
    RtcFlag,
    RtcHead,
    RtcReading,
    RtcRequestType,
    RtcSetAlarm,
    RtcStatus,
    RtcStatusHead,
)

if TYPE_CHECKING:
    from vhost_user.backend.timers import Timer
    from vhost_user.engine.device.request import Request

_report = LimitedLog(logging.getLogger(__name__))

LONGEST_SLEEP = 1.0
"""Seconds after which an alarm is looked at again: somebody may have set the host's clock."""
_NOTIFICATION = RtcHead.SIZE + RtcClockRequest.SIZE
_PARTS: dict[int, tuple[type[Record] | None, int]] = {
    RtcRequestType.READ: (RtcClockRequest, RtcReading.SIZE),
    RtcRequestType.READ_CROSS: (RtcCounterRequest, 2 * RtcReading.SIZE),
    RtcRequestType.CFG: (None, RtcConfiguration.SIZE),
    RtcRequestType.CLOCK_CAP: (RtcClockRequest, RtcCapability.SIZE),
    RtcRequestType.CROSS_CAP: (RtcCounterRequest, RtcCrossCapability.SIZE),
    RtcRequestType.READ_ALARM: (RtcClockRequest, RtcAlarm.SIZE),
    RtcRequestType.SET_ALARM: (RtcSetAlarm, 0),
    RtcRequestType.SET_ALARM_ENABLED: (RtcEnableAlarm, 0),
}
"""What follows the head of a request, and how many bytes follow that of its answer."""


@dataclass
class Alarm:
    """The alarm of a clock."""

    time: int = 0
    enabled: bool = False
    ahead: bool = False
    """The clock was last seen before it."""


class _Status(Exception):  # noqa: N818  # it is an answer
    def __init__(self, status: RtcStatus) -> None:
        super().__init__(status.name)
        self.status = status


class Rtc(Device, type="rtc"):
    """Clocks for the guest: ``clocks`` in this order, by default UTC, TAI and a monotonic one of the host.

    Each has an alarm. Cross-timestamps are refused: a program outside of the guest does not know what the
    guest's counter shows.
    """

    device_features = RtcFeature.ALARM
    requests = Queue(REQUEST_QUEUE)
    alarms = BufferQueue(ALARM_QUEUE)

    def __init__(self, clocks: Iterable[Clock] | None = None) -> None:
        super().__init__()
        kinds = (ClockType.UTC, ClockType.TAI, ClockType.MONOTONIC)
        self.clocks = [Clock(kind) for kind in kinds] if clocks is None else list(clocks)
        self.set_alarms = [Alarm() for _ in self.clocks]
        self._expired: set[int] = set()
        self._timer: Timer | None = None
        self._served = False
        self._lock = threading.RLock()
        for clock in self.clocks:
            clock.on_change(self._look)

    def setup(self) -> None:
        """The timer is made now, and not when the first guest sets an alarm."""
        with self._lock:
            self._served = True
            self._timer = self.call_later(0, self._look)

    def shutdown(self) -> None:
        """Clocks may still be moved, but nobody is told."""
        with self._lock:
            self._served = False
            self.set_alarms = [Alarm() for _ in self.clocks]
            self._look()

    def reset(self) -> None:
        """Alarms of this driver are none of the next."""
        with self._lock:
            self.set_alarms = [Alarm() for _ in self.clocks]
            self._expired.clear()
            self._look()

    def save_state(self) -> object:
        """The alarms, in the order of the clocks."""
        return [
            [alarm.time, alarm.enabled, alarm.ahead, number in self._expired]
            for number, alarm in enumerate(self.set_alarms)
        ]

    def load_state(self, state: Any, version: int) -> None:
        """Take the alarms over. Raises ValueError for what is no such state."""
        del version  # there was one so far
        if not isinstance(state, list | tuple) or len(state) != len(self.clocks):
            raise ValueError(f"the state of a clock device has {len(self.clocks)} alarms, not {state!r:.40}")
        for each in state:
            if not isinstance(each, list | tuple):
                raise ValueError(f"{each!r} is not the state of an alarm")  # noqa: TRY004  # as for its parts
            if [type(value) for value in each] != [int, bool, bool, bool] or not 0 <= each[0] <= MOST:
                raise ValueError(f"{each!r} is not the state of an alarm")
        with self._lock:
            self.set_alarms = [Alarm(*each[:3]) for each in state]
            self._expired = {number for number, each in enumerate(state) if each[3]}
        self._look()

    # Requests, in the worker

    @requests.handler
    def asked(self, request: Request) -> None:
        """Answer a request; with a status alone if it is none, or its answer has no room."""
        try:
            answer = self._answer(request)
        except _Status as refusal:
            request.write(RtcStatusHead(refusal.status).pack()[: request.writable])
        else:
            request.write(RtcStatusHead(RtcStatus.OK).pack() + answer)

    def _answer(self, request: Request) -> bytes:
        head = request.read(RtcHead.SIZE)
        if len(head) < RtcHead.SIZE:
            raise _Status(RtcStatus.EINVAL)
        kind = RtcHead.unpack(head).msg_type
        if kind not in _PARTS:
            raise _Status(RtcStatus.EOPNOTSUPP)
        layout, size = _PARTS[kind]
        data = b"" if layout is None else request.read(layout.SIZE)
        if request.writable < RtcStatusHead.SIZE + size or (layout is not None and len(data) < layout.SIZE):
            raise _Status(RtcStatus.EINVAL)
        if layout is None:
            return RtcConfiguration(len(self.clocks)).pack()
        asked: Any = layout.unpack(data)
        if asked.clock_id >= len(self.clocks):
            raise _Status(RtcStatus.ENODEV)
        clock = self.clocks[asked.clock_id]
        if kind == RtcRequestType.READ:
            return RtcReading(clock.now()).pack()
        if kind == RtcRequestType.CLOCK_CAP:
            flags = RtcFlag.ALARM if self.driver_features & RtcFeature.ALARM else 0
            return RtcCapability(clock.kind, clock.smearing, flags).pack()
        if kind == RtcRequestType.CROSS_CAP and asked.hw_counter in set(HardwareCounter):
            return RtcCrossCapability(0).pack()
        if kind in {RtcRequestType.READ_CROSS, RtcRequestType.CROSS_CAP}:
            raise _Status(RtcStatus.EOPNOTSUPP)
        return self._alarm_request(kind, asked)

    def _alarm_request(self, kind: int, asked: Any) -> bytes:
        if not self.driver_features & RtcFeature.ALARM:
            raise _Status(RtcStatus.EOPNOTSUPP)
        with self._lock:
            alarm = self.set_alarms[asked.clock_id]
            if kind == RtcRequestType.READ_ALARM:
                return RtcAlarm(alarm.time, RtcFlag.ALARM if alarm.enabled else 0).pack()
            if asked.flags & ~int(RtcFlag.ALARM):
                raise _Status(RtcStatus.EINVAL)
            self._expired.discard(asked.clock_id)
            if kind == RtcRequestType.SET_ALARM:
                alarm.time = asked.alarm_time
            alarm.enabled = bool(asked.flags)
            alarm.ahead = True  # if it is not, that is an expiration
            self._look()
        return b""

    # Alarms

    def _look(self) -> None:
        """See which alarms have expired, and when to look again; from any thread."""
        with self._lock:
            sleep = None
            for number, alarm in enumerate(self.set_alarms):
                if not alarm.enabled:
                    continue
                clock = self.clocks[number]
                left = alarm.time - clock.now()
                if left > 0:
                    alarm.ahead = True
                    if not clock.frozen:
                        sleep = min(left / SECOND, LONGEST_SLEEP, LONGEST_SLEEP if sleep is None else sleep)
                elif alarm.ahead:
                    alarm.ahead = False
                    self._expired.add(number)
                else:  # it may be set back under us
                    sleep = LONGEST_SLEEP if sleep is None else sleep
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if sleep is not None and self._served:
                self._timer = self.call_later(sleep, self._look)
            self._notify()

    @alarms.on_available
    def _notify(self) -> None:
        """Tell the driver of alarms that have expired, while there are buffers."""
        with self._lock:
            while self._expired and (buffer := self.alarms.take()) is not None:
                number = min(self._expired)
                try:
                    if buffer.writable < _NOTIFICATION:
                        _report.warning("a buffer of %d bytes is too small for an alarm", buffer.writable)
                        buffer.complete(0)
                        continue
                    buffer.write(RtcHead(ALARM_NOTIFICATION).pack() + RtcClockRequest(number).pack())
                    buffer.complete()
                except EngineError as error:
                    _report.warning("an alarm cannot be told: %s", error)
                    if buffer.alive:
                        buffer.complete(0)
                    continue
                self._expired.discard(number)
