"""``Stream``: a PCM stream of a sound device, and the states that its driver leads it through."""

from __future__ import annotations

import enum
import logging
from typing import Any

from vhost_user.devices.rtc_clock import Clock
from vhost_user.devices.sound_ends import SoundEnd
from vhost_user.devices.sound_flow import CHUNK, Buffer, Flow
from vhost_user.devices.sound_format import USUAL_MAPS, PcmFormat
from vhost_user.protocol.limited_log import LimitedLog
from vhost_user.spec.sound import (
    FRAME_RATES,
    MAX_CHANNELS,
    ChannelMapInfo,
    PcmFeature,
    PcmInfo,
    PcmSetParams,
    SampleFormat,
    SoundRequest,
    SoundStatus,
)

_report = LimitedLog(logging.getLogger(__name__))

FEATURES = PcmFeature.EVT_SHMEM_PERIODS | PcmFeature.EVT_XRUNS
_NUMBERS = 10


class StreamState(enum.IntEnum):
    """What the driver said last (5.14.6.6.1)."""

    IDLE = 0
    SET = 1
    PREPARED = 2
    RUNNING = 3
    STOPPED = 4
    RELEASED = 5


_IDLE, _SET, _PREPARED, _RUNNING, _STOPPED, _RELEASED = StreamState
_OPEN = {_PREPARED, _RUNNING, _STOPPED}
_COMES_AFTER: dict[int, set[StreamState]] = {
    SoundRequest.PCM_SET_PARAMS: {_IDLE, _SET, _PREPARED, _RELEASED},
    SoundRequest.PCM_PREPARE: {_SET, _PREPARED, _RELEASED},
    SoundRequest.PCM_START: {_PREPARED, _STOPPED},
    SoundRequest.PCM_STOP: {_RUNNING},
    SoundRequest.PCM_RELEASE: {_PREPARED, _STOPPED},
}


class Stream(Flow):
    """The stream with this number, in this function group; the rest is of :class:`Flow`."""

    def __init__(self, number: int, group: int, end: SoundEnd, clock: Clock, **calls: Any) -> None:
        self.number = number
        self.group = group
        self.state = _IDLE
        self.buffer_bytes = 0
        super().__init__(end, clock, **calls)

    def forget(self) -> None:
        """As new: the buffers were those of a driver that is gone."""
        if self.takes_buffers and self.heard:
            self.end.close()
        self.state, self.buffer_bytes = _IDLE, 0
        self.begin_anew()

    def overhear(self) -> None:
        """A driver at work before this program began has said what it will not say again.

        Its buffers go back with IO_ERR, at the pace of a usual stream, until it sets parameters.
        """
        self.forget()
        self.heard, self.state = False, _RUNNING

    # What the driver says

    def info(self) -> PcmInfo:
        """What the driver may choose from."""
        end = self.end
        formats = sum(1 << sample for sample in {SampleFormat(each) for each in end.formats})
        rates = sum(1 << FRAME_RATES.index(rate) for rate in set(end.rates))
        return PcmInfo(self.group, FEATURES, formats, rates, self.direction, *end.channels)

    def channel_maps(self) -> list[ChannelMapInfo]:
        """Where its channels are: as its end says, or as usual for each number of them."""
        fewest, most = self.end.channels
        maps = self.end.channel_maps
        if maps is None:
            maps = [each for each in USUAL_MAPS if fewest <= len(each) <= most]
        return [
            ChannelMapInfo(self.group, self.direction, len(each), bytes(each).ljust(MAX_CHANNELS, b"\0"))
            for each in maps
        ]

    def set_params(self, asked: PcmSetParams) -> SoundStatus:
        """SET_PARAMS."""
        if self.heard and self.state not in _COMES_AFTER[SoundRequest.PCM_SET_PARAMS]:
            return SoundStatus.BAD_MSG
        end = self.end
        fewest, most = end.channels
        if (
            asked.features & ~int(FEATURES)
            or not fewest <= asked.channels <= most
            or asked.format not in end.formats
            or asked.rate >= len(FRAME_RATES)
            or FRAME_RATES[asked.rate] not in end.rates
        ):
            return SoundStatus.NOT_SUPP
        pcm = PcmFormat(FRAME_RATES[asked.rate], asked.channels, SampleFormat(asked.format))
        if not asked.period_bytes or asked.period_bytes % pcm.frame:
            return SoundStatus.BAD_MSG
        if not asked.buffer_bytes or asked.buffer_bytes % asked.period_bytes:
            return SoundStatus.BAD_MSG
        self.flush()
        self.forget()
        self.pcm, self.state = pcm, _SET
        self.buffer_bytes, self.period_bytes = asked.buffer_bytes, asked.period_bytes
        self.features = asked.features
        return SoundStatus.OK

    def command(self, code: int) -> SoundStatus:
        """PREPARE, START, STOP or RELEASE."""
        if not self.heard:
            return self._command_of_before(code)
        if self.state not in _COMES_AFTER[code]:
            return SoundStatus.BAD_MSG
        try:
            self._obey(code)
        except OSError as error:
            _report.error("stream %d of a sound device: %s", self.number, error)
            return SoundStatus.IO_ERR
        return SoundStatus.OK

    def _obey(self, code: int) -> None:
        match code:
            case SoundRequest.PCM_PREPARE:
                self.end.open(self.pcm)
                self.state = _PREPARED
            case SoundRequest.PCM_START:
                self.end.start()
                self.state = _RUNNING
                self.flow()
            case SoundRequest.PCM_STOP:
                self.stand()
                self.end.stop()
                self.state = _STOPPED
            case SoundRequest.PCM_RELEASE:
                self.flush()
                self.end.close()
                self.state = _RELEASED

    def _command_of_before(self, code: int) -> SoundStatus:
        """How it is to be played is not known, so it cannot be begun."""
        if code == SoundRequest.PCM_STOP:
            self.stand()
        elif code == SoundRequest.PCM_RELEASE:
            self.flush()
        else:
            return SoundStatus.IO_ERR
        self.state = _STOPPED
        return SoundStatus.OK

    # Buffers

    @property
    def takes_buffers(self) -> bool:
        """Whether it is prepared, so that a buffer has its place."""
        return self.state in _OPEN

    def offer(self, buffer: Buffer) -> None:
        """One more buffer. Raises EngineError."""
        self.add(buffer)
        if self.state is _RUNNING:
            self.flow()

    def pause(self, overtaken: int) -> list[Buffer]:
        """Its queue stops; see :meth:`Flow.take_back`."""
        left = self.take_back(overtaken)
        if self.state is _RUNNING and self.heard:
            self.end.stop()
        return left

    def resume(self) -> None:
        """Its queue runs again."""
        if self.state is _RUNNING and self.heard:
            self._at_end(self.end.start)

    def _at_end(self, call: Any, *arguments: Any) -> None:
        """What the driver does not wait for."""
        try:
            call(*arguments)
        except OSError as error:
            _report.error("stream %d of a sound device: %s", self.number, error)

    # Elsewhere

    def saved(self) -> list[int]:
        """Its state, in numbers: the last two are where it is in the first buffer, moved and played."""
        pcm, ended = self.pcm, self.ended
        return [
            self.state, int(self.heard), pcm.rate, pcm.channels, pcm.sample, self.buffer_bytes,
            self.period_bytes, self.features, max(0, self.moved - ended), max(0, self.base - ended),
        ]  # fmt: skip

    def load(self, saved: Any) -> None:
        """Go on with that. Raises ValueError for what cannot be the state of this stream."""
        if not isinstance(saved, list) or [type(each) for each in saved] != [int] * _NUMBERS:
            raise ValueError(f"the state of a stream is {_NUMBERS} numbers, not {saved!r:.60}")
        state, heard, rate, channels, sample, buffer_bytes, period_bytes, features, moved, played = saved
        pcm = PcmFormat(rate, channels, SampleFormat(sample))
        wanted = StreamState(state)
        self.forget()
        if wanted is not _IDLE and heard:
            place = FRAME_RATES.index(rate)
            asked = PcmSetParams(
                0, self.number, buffer_bytes, period_bytes, features, channels, sample, place
            )
            if self.set_params(asked) is not SoundStatus.OK:
                raise ValueError(f"the state of stream {self.number} is {pcm}, which it does not offer here")
        most = max(buffer_bytes, CHUNK)
        if any(not 0 <= place <= most or place % pcm.frame for place in (moved, played)):
            raise ValueError(f"the state of stream {self.number} is at byte {played}, {moved} moved")
        self.heard, self.state = bool(heard), wanted
        self.moved, self.base = moved, played
        if self.takes_buffers and self.heard:
            self._at_end(self.end.open, pcm)
