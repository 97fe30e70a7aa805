"""Driver of the clock device (virtio 1.4 section 5.23)."""

from typing import Any, ClassVar

from vhost_user.frontend.driver import Target
from vhost_user.frontend.drivers.device import DeviceDriver
from vhost_user.frontend.errors import DeviceError
from vhost_user.spec.record import Record
from vhost_user.spec.rtc import (
    ALARM_NOTIFICATION,
    ALARM_QUEUE,
    REQUEST_QUEUE,
    RtcAlarm,
    RtcCapability,
    RtcClockRequest,
    RtcConfiguration,
    RtcCounterRequest,
    RtcCrossCapability,
    RtcEnableAlarm,
    RtcFeature,
    RtcHead,
    RtcReading,
    RtcRequestType,
    RtcSetAlarm,
    RtcStatus,
    RtcStatusHead,
)

BUFFERS = 4


class RtcDriver(DeviceDriver):
    """``with RtcDriver(socket) as rtc: rtc.read(0)``. Raises DeviceError when the device says no."""

    FEATURES: ClassVar[int] = RtcFeature.ALARM
    QUEUES: ClassVar[int] = 2

    def __init__(self, target: Target, **options: Any) -> None:
        self.num_clocks = 0
        self._alarms: list[bytes] = []
        super().__init__(target, **options)

    def ready(self) -> None:
        """Ask how many clocks there are, leave buffers for alarms."""
        answer = self._ask(RtcRequestType.CFG, b"", RtcConfiguration.SIZE)
        self.num_clocks = RtcConfiguration.unpack(answer).num_clocks
        if self.features & RtcFeature.ALARM:
            self.queues[ALARM_QUEUE].post(RtcHead.SIZE + RtcClockRequest.SIZE, count=BUFFERS)

    def read(self, clock: int = 0) -> int:
        """What the clock shows, in nanoseconds since its epoch."""
        return RtcReading.unpack(self._ask(RtcRequestType.READ, RtcClockRequest(clock), 8)).clock_reading

    def capability(self, clock: int) -> RtcCapability:
        """Type, smearing, and whether there is an alarm."""
        return RtcCapability.unpack(self._ask(RtcRequestType.CLOCK_CAP, RtcClockRequest(clock), 8))

    def can_cross(self, clock: int, counter: int) -> bool:
        """Whether cross-timestamps with this counter are offered."""
        answer = self._ask(RtcRequestType.CROSS_CAP, RtcCounterRequest(clock, counter), 8)
        return bool(RtcCrossCapability.unpack(answer).flags)

    def read_cross(self, clock: int, counter: int) -> tuple[int, int]:
        """What the clock shows, and the counter at that moment."""
        answer = self._ask(RtcRequestType.READ_CROSS, RtcCounterRequest(clock, counter), 16)
        return int.from_bytes(answer[:8], "little"), int.from_bytes(answer[8:], "little")

    def alarm(self, clock: int) -> RtcAlarm:
        """The alarm as it is set."""
        return RtcAlarm.unpack(self._ask(RtcRequestType.READ_ALARM, RtcClockRequest(clock), RtcAlarm.SIZE))

    def set_alarm(self, clock: int, when: int, *, enabled: bool = True) -> None:
        """Set the alarm, in nanoseconds of its clock."""
        self._ask(RtcRequestType.SET_ALARM, RtcSetAlarm(when, clock, int(enabled)))

    def enable_alarm(self, clock: int, enabled: bool = True) -> None:
        """Turn the alarm on or off, and leave its time."""
        self._ask(RtcRequestType.SET_ALARM_ENABLED, RtcEnableAlarm(clock, int(enabled)))

    def wait_alarm(self, *, timeout: float | None = None) -> int:
        """Wait for an alarm: the number of its clock. Raises PeerTimeout."""
        queue = self.queues[ALARM_QUEUE]
        if not self._alarms:
            for pending in queue.completed(minimum=1, timeout=timeout):
                self._alarms.append(pending.written)
                pending.release()
            queue.post(RtcHead.SIZE + RtcClockRequest.SIZE, count=len(self._alarms))
        data = self._alarms.pop(0)
        if len(data) != RtcHead.SIZE + RtcClockRequest.SIZE or (
            RtcHead.unpack(data[: RtcHead.SIZE]).msg_type != ALARM_NOTIFICATION
        ):
            raise DeviceError(f"{data.hex()} is not the notification of an alarm")
        return RtcClockRequest.unpack(data[RtcHead.SIZE :]).clock_id

    def _ask(self, kind: RtcRequestType, more: Record | bytes = b"", size: int = 0) -> bytes:
        request = RtcHead(kind).pack() + (more if isinstance(more, bytes) else more.pack())
        answer = self.queues[REQUEST_QUEUE].request(request, RtcStatusHead.SIZE + size)
        if answer[:1] != bytes([RtcStatus.OK]) or len(answer) != RtcStatusHead.SIZE + size:
            status = answer[0] if answer else -1
            raise DeviceError(f"{kind.name}: status {status}, {len(answer)} bytes", status=status)
        return answer[RtcStatusHead.SIZE :]
