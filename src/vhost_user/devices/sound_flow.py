"""``Flow``: the buffers of a PCM stream, and when each of them is over.

All places in it are counted in bytes of sound since it was prepared:

    ended ≤ played        buffers before ``ended`` went back to the driver; the first one held begins there
    moved                 what the end was given, or gave; the end may want it before its time (``lead``)
    queued                where the last buffer held ends

Time goes on only while there is a buffer: one that comes late is played late, and none is over early.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vhost_user.devices.sound_ends import Sink, SoundEnd, Source
from vhost_user.devices.sound_format import SECOND, PcmFormat
from vhost_user.engine.errors import EngineError
from vhost_user.protocol.limited_log import LimitedLog
from vhost_user.spec.sound import Direction, PcmFeature, PcmStatus, SoundEventType, SoundStatus

if TYPE_CHECKING:
    from vhost_user.devices.rtc_clock import Clock
    from vhost_user.engine.device.request import Request

_report = LimitedLog(logging.getLogger(__name__))

CHUNK = 1 << 16
"""Bytes that are moved at a time, about: a buffer may have gigabytes."""
MOST_AT_ONCE = 1 << 20
"""Bytes of a buffer that must go back before its time and are moved all the same."""
_MOST_LATENCY = (1 << 32) - 1


@dataclass(eq=False, slots=True)
class Buffer:
    """A buffer of the driver with ``size`` bytes of sound. ``order`` is its number in its queue."""

    request: Request
    queue: int
    order: int
    size: int
    ends: int = 0
    """Its place in the stream."""
    failed: bool = False


class Flow:
    """Sound between buffers and ``end``. The device's lock is held by whoever calls.

    ``tell`` is called with events for the driver, ``used`` with each buffer that goes back.
    """

    def __init__(
        self,
        end: SoundEnd,
        clock: Clock,
        *,
        tell: Callable[[SoundEventType], object],
        used: Callable[[Buffer], object],
    ) -> None:
        if not isinstance(end, Sink | Source):
            raise TypeError(f"{end!r} is not a sink or a source")
        self.end = end
        self.direction = Direction.OUTPUT if isinstance(end, Sink) else Direction.INPUT
        self.clock = end.clock or clock
        self._tell = tell
        self._used = used
        self.begin_anew()

    def begin_anew(self) -> None:
        """As new: no driver has said anything."""
        self.heard = True
        """This program knows what the driver said of the stream."""
        self.pcm = PcmFormat()
        self.period_bytes = self.features = 0
        self.buffers: deque[Buffer] = deque()
        self.rewind()

    def rewind(self) -> None:
        """To the beginning, without a buffer."""
        self.buffers.clear()
        self._unmoved: deque[Buffer] = deque()
        self.ended = self.moved = self.queued = self._periods = 0
        self.base = 0
        """What was played when it last began to flow, at the time ``_since``."""
        self._since = 0
        self._heard_up_to = 0
        """What was played when it was last looked at."""
        self.flows = False
        self._dry_since: int | None = None

    # Buffers

    def add(self, buffer: Buffer) -> None:
        """One more buffer at the end. Raises EngineError."""
        # After a stop of the queue the first one comes again, and a part of it was moved before.
        again = min(buffer.size, max(0, self.moved - self.queued))
        if again:
            if self.direction is Direction.OUTPUT:
                buffer.request.skip_readable(again)
            else:
                buffer.request.skip_writable(again)
        buffer.failed = not self.heard
        self.queued += buffer.size
        buffer.ends = self.queued
        self.buffers.append(buffer)
        if again < buffer.size:
            self._unmoved.append(buffer)

    def take_back(self, overtaken: int) -> list[Buffer]:
        """Its queue stops. Gives the buffers that go back unused, and come again.

        A ring cannot keep those that are older than one which was used, number ``overtaken``: these are over
        now, before their time.
        """
        self.stand()
        while self.buffers and self.buffers[0].order < overtaken:
            first = self.buffers[0]
            if first.ends - self.moved > MOST_AT_ONCE:
                first.failed = True
            self._move(first.ends)
            self.base = max(self.base, first.ends)
            self._end_first()
        left = list(self.buffers)
        self.buffers.clear()
        self._unmoved.clear()
        self.queued = self.ended
        return left

    def flush(self) -> None:
        """All buffers go back, those of an input with what was recorded."""
        self.stand()
        while self.buffers:
            self._end_first()
        self.rewind()

    # Time

    def flow(self) -> None:
        """Its state allows it: if there is a buffer, time goes on."""
        if self.buffers and not self.flows:
            self.flows = True
            self._since = self.clock.now()
            self._dry_since = None

    def stand(self) -> None:
        """Time does not go on."""
        self.advance()
        if self.flows:
            self.base = min(self._played(), self.queued)
            self.flows = False
        self._dry_since = None

    def _played(self) -> int:
        return self.base + self.pcm.frames(max(0, self.clock.now() - self._since)) * self.pcm.frame

    def advance(self) -> None:
        """Bring it to where its clock is: move sound, give back the buffers that are over."""
        if not self.flows:
            self._look_for_xrun()
            return
        played = self._heard_up_to = self._played()
        self._move(played + self._ahead)
        while self.buffers and self.buffers[0].ends <= played:
            self._end_first()
        if self.features & PcmFeature.EVT_SHMEM_PERIODS:
            periods = min(played, self.queued) // self.period_bytes
            if periods > self._periods:
                self._tell(SoundEventType.PCM_PERIOD_ELAPSED)
            self._periods = periods
        if not self.buffers:
            self.base, self.flows = self.queued, False
            self._dry_since = self.clock.now()

    def _look_for_xrun(self) -> None:
        if self._dry_since is not None and self.clock.now() >= self._dry_until:
            self._dry_since = None
            if self.features & PcmFeature.EVT_XRUNS:
                self._tell(SoundEventType.PCM_XRUN)

    @property
    def _dry_until(self) -> int:
        """A driver has a period's time to bring the next buffer before that is an xrun."""
        period = self.pcm.nanoseconds(self.period_bytes // self.pcm.frame)
        return (self._dry_since or 0) + period

    @property
    def _ahead(self) -> int:
        """Bytes that the end wants before their time."""
        return int(self.end.lead * self.pcm.rate) * self.pcm.frame if self.heard else 0

    def due(self) -> float | None:
        """Seconds until it must be looked at again; None: not before something happens."""
        if self.clock.frozen or (not self.flows and self._dry_since is None):
            return None
        if not self.flows:
            return max(0, self._dry_until - self.clock.now()) / SECOND
        place = self.buffers[0].ends
        if self.features & PcmFeature.EVT_SHMEM_PERIODS:
            place = min(place, (self._periods + 1) * self.period_bytes)
        if self._ahead and self._unmoved:
            place = min(place, self.moved - self._ahead // 2)
        time = self._since + self.pcm.nanoseconds(max(0, place - self.base) // self.pcm.frame)
        return max(0, time - self.clock.now()) / SECOND

    # Sound

    def _move(self, target: int) -> None:
        """Give the end what is before ``target``, or take it from there."""
        chunk = max(1, CHUNK // self.pcm.frame) * self.pcm.frame
        while self._unmoved and self.moved < target:
            buffer = self._unmoved[0]
            size = min(buffer.ends, target) - self.moved
            if not buffer.failed:
                size = min(size, chunk)
                self._transfer(buffer, size)
            self.moved += size
            if self.moved >= buffer.ends:
                self._unmoved.popleft()

    def _transfer(self, buffer: Buffer, size: int) -> None:
        end = self.end
        try:
            if isinstance(end, Sink):
                end.write(buffer.request.read(size))
            elif isinstance(end, Source):
                data = end.read(size)
                buffer.request.write(data + self.pcm.silence((size - len(data)) // self.pcm.frame))
        except (EngineError, OSError) as error:
            buffer.failed = True
            _report.warning("the sound of a buffer is lost: %s", error)

    def _end_first(self) -> None:
        """The first buffer goes back."""
        buffer = self.buffers.popleft()
        recorded = min(max(0, self.moved - self.ended), buffer.size)
        self.ended = buffer.ends
        latency = int(self.end.latency() * self.pcm.rate) * self.pcm.frame
        if self.direction is Direction.OUTPUT:
            latency += max(0, self.moved - max(self.ended, self._heard_up_to))
        code = SoundStatus.IO_ERR if buffer.failed else SoundStatus.OK
        status = PcmStatus(code, min(latency, _MOST_LATENCY))
        if self.direction is Direction.OUTPUT:
            give_back_output(buffer.request, status)
        else:
            give_back_input(buffer.request, status, 0 if buffer.failed else recorded)
        self._used(buffer)


def give_back_output(request: Request, status: PcmStatus) -> None:
    """Complete a buffer that was played."""
    try:
        request.write(status.pack()[: request.writable])
        request.complete()
    except EngineError as error:
        _lost(request, error)


def give_back_input(request: Request, status: PcmStatus, recorded: int) -> None:
    """Complete a buffer with so many recorded bytes.

    The status is at its very end, and used.len counts it behind what was recorded (5.14.6.8): what lies
    between is zero, as far as it is counted, so that all that is counted was written.
    """
    try:
        room = request.writable - PcmStatus.SIZE
        if room >= 0:
            request.fill(0, min(PcmStatus.SIZE, room))
            request.write_last(status.pack())
            recorded += PcmStatus.SIZE
        request.complete(recorded)
    except EngineError as error:
        _lost(request, error)


def _lost(request: Request, error: EngineError) -> None:
    _report.warning("queue %d, head %d: %s", request.queue, request.head, error)
    if request.alive:
        request.complete(0)
