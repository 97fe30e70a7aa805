"""Sound cards of this machine as ends of a sound device, by sounddevice and PortAudio (extra ``sound``).

    Sound(CardSink(), CardSource("USB microphone"))

The card says how time goes: a buffer of the guest is over when the card has asked for the sound behind it.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, ClassVar

from vhost_user.devices.library import library
from vhost_user.devices.rtc_clock import Clock
from vhost_user.devices.sound_ends import MOST_CHANNELS, Sink, SoundEnd, Source
from vhost_user.devices.sound_format import PcmFormat
from vhost_user.protocol.limited_log import LimitedLog
from vhost_user.spec.rtc import ClockType
from vhost_user.spec.sound import FRAME_RATES, SampleFormat

_report = LimitedLog(logging.getLogger(__name__))

LEAD = 0.1
"""Seconds of sound that a card has in hand, so that a busy machine makes no gaps."""
BACKLOG = 1.0
"""Seconds of sound that wait between card and guest at most; the oldest are lost."""
_FASTEST = 192000
_END_PATIENCE = 2.0
_TYPES: dict[SampleFormat, str] = {
    SampleFormat.S16: "int16",
    SampleFormat.S32: "int32",
    SampleFormat.FLOAT: "float32",
    SampleFormat.S24_3: "int24",
    SampleFormat.U8: "uint8",
    SampleFormat.S8: "int8",
}


class _Card(SoundEnd):
    """A stream of PortAudio. A thread opens and closes it, since that takes time."""

    kind: ClassVar[str]
    clock: Clock
    formats = tuple(_TYPES)
    rates = tuple(rate for rate in FRAME_RATES if rate <= _FASTEST)

    def __init__(self, device: str | int | None = None) -> None:
        self._library = library("sounddevice", extra="sound")
        self._device = device
        self._pcm = PcmFormat()
        self._lock = threading.Lock()
        self._waiting = bytearray()
        """Sound between the card and the guest."""
        self._heard = 0  # nanoseconds of sound that the card asked for or gave
        self._broken: str | None = None
        self.clock = Clock(ClockType.MONOTONIC, source=self._time)
        self.clock.freeze()
        # What the guest wants, and what the thread has made of it.
        self._wanted = threading.Condition()
        self._wanted_pcm: PcmFormat | None = None
        self._wanted_to_run = False
        self._ended = False
        self._stream: Any = None
        self._thread: threading.Thread | None = None

    def _time(self) -> int:
        return self._heard if self._broken is None else time.monotonic_ns()

    def setup(self) -> None:
        """Look whether there is such a card. Raises OSError when there is none."""
        try:
            found = self._library.query_devices(self._device, self.kind)
        except (self._library.PortAudioError, ValueError) as error:
            name = "" if self._device is None else f" {self._device!r}"
            raise OSError(f"there is no sound card{name} for {self.kind}: {error}") from error
        most = int(found[f"max_{self.kind}_channels"])
        self.channels = (1, max(1, min(most, MOST_CHANNELS)))
        self._thread = threading.Thread(target=self._keep, name=f"sound-{self.kind}", daemon=True)
        self._thread.start()

    def open(self, pcm: PcmFormat) -> None:
        """The thread opens the card."""
        with self._lock:
            self._pcm = pcm
            self._waiting.clear()
        self._want(pcm, False)

    def start(self) -> None:
        """The card runs, by and by."""
        self._want(self._pcm, True)

    def stop(self) -> None:
        """It stands; what it was given before its time is kept."""
        self._want(self._pcm, False)

    def close(self) -> None:
        """It is closed."""
        self._want(None, False)

    def shutdown(self) -> None:
        """The thread ends."""
        with self._wanted:
            self._ended = True
            self._wanted_pcm = None
            self._wanted.notify_all()
        if self._thread is not None:
            self._thread.join(_END_PATIENCE)

    def latency(self) -> float:
        """That of the card."""
        stream = self._stream
        return 0.0 if stream is None else float(stream.latency)

    def _want(self, pcm: PcmFormat | None, runs: bool) -> None:
        with self._wanted:
            self._wanted_pcm, self._wanted_to_run = pcm, runs
            self._wanted.notify_all()

    # In a thread of its own, which is the only one that touches the stream

    def _keep(self) -> None:
        pcm, runs = None, False
        while True:
            with self._wanted:
                while (pcm, runs) == (self._wanted_pcm, self._wanted_to_run) and not self._ended:
                    self._wanted.wait()
                changed = pcm != self._wanted_pcm
                pcm, runs = self._wanted_pcm, self._wanted_to_run
                if self._ended:
                    pcm = None
            self._halt(close=changed or pcm is None)
            if self._ended:
                return
            if pcm is not None:
                self._run(pcm, runs)

    def _halt(self, *, close: bool) -> None:
        self.clock.freeze()
        if close:
            self._broken = None
        stream = self._stream
        if stream is None:
            return
        try:
            stream.stop()
            if close:
                self._stream = None
                stream.close()
        except self._library.PortAudioError as error:
            _report.error("a sound card does not stop: %s", error)

    def _run(self, pcm: PcmFormat, runs: bool) -> None:
        try:
            if self._stream is None and self._broken is None:
                self._stream = self._made(pcm)
            if self._stream is not None and runs:
                self._stream.start()
        except (self._library.PortAudioError, ValueError) as error:
            # Time goes on, so that the guest is told with each buffer.
            self._broken = f"the sound card fails: {error}"
            _report.error("%s", self._broken)
        if runs:
            self.clock.thaw()

    def _made(self, pcm: PcmFormat) -> Any:
        kind = self._library.RawOutputStream if self.kind == "output" else self._library.RawInputStream
        return kind(
            samplerate=pcm.rate,
            device=self._device,
            channels=pcm.channels,
            dtype=_TYPES[pcm.sample],
            callback=self._called,
        )

    # In a thread of PortAudio

    def _called(self, data: Any, frames: int, _time: Any, _status: Any) -> None:
        with self._lock:
            self._exchange(memoryview(data), frames)
            self._heard += self._pcm.nanoseconds(frames)

    def _exchange(self, data: memoryview, frames: int) -> None:
        raise NotImplementedError

    def _bound(self) -> None:
        """With the lock held: not more than ``BACKLOG`` waits."""
        most = self._pcm.frames(int(BACKLOG * 1e9)) * self._pcm.frame
        if len(self._waiting) > most:
            del self._waiting[:-most]
            _report.warning("a sound card and its guest are apart: sound is lost")

    def _alive(self) -> None:
        if self._broken is not None:
            raise OSError(self._broken)


class CardSink(_Card, Sink):
    """A card that plays: the usual one, or that of a number or a part of its name (``sounddevice``).

    Raises MissingLibraryError without sounddevice or PortAudio.
    """

    kind = "output"
    lead = LEAD

    def write(self, data: bytes) -> None:
        """The card takes it when it needs it."""
        self._alive()
        with self._lock:
            self._waiting += data
            self._bound()

    def _exchange(self, data: memoryview, frames: int) -> None:
        found = self._waiting[: len(data)]
        del self._waiting[: len(found)]
        data[:] = (bytes(found) + self._pcm.silence(frames))[: len(data)].ljust(len(data), b"\0")


class CardSource(_Card, Source):
    """A card that records; see :class:`CardSink`."""

    kind = "input"

    def read(self, size: int) -> bytes:
        """What the card has heard."""
        self._alive()
        with self._lock:
            found = bytes(self._waiting[:size])
            del self._waiting[: len(found)]
            return found

    def _exchange(self, data: memoryview, frames: int) -> None:
        del frames
        self._waiting += data
        self._bound()
