"""What a sound device is connected to: sinks, which the guest plays to, and sources, which it hears.

Sound(Recording(), Tone(440))          # an output and an input
Sound(Sink(), Source())                # nobody listens, nobody speaks: the same as Sound()

Files are in ``vhost_user.devices.sound_files``, sound cards of this machine in
``vhost_user.devices.sound_card``.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from vhost_user.devices.sound_format import LAYOUTS, PcmFormat
from vhost_user.protocol.limited_log import LimitedLog
from vhost_user.spec.sound import FRAME_RATES, ChannelPosition, SampleFormat

if TYPE_CHECKING:
    from vhost_user.devices.rtc_clock import Clock

_report = LimitedLog(logging.getLogger(__name__))

MOST_CHANNELS = 8
"""Channels that an end takes which does not care."""
RECORDING_LIMIT = 256 << 20
"""Bytes that a ``Recording`` keeps; what comes later is lost."""
_TAKE = 512
"""Bytes that a take counts besides its sound."""


class SoundEnd:
    """What sinks and sources have in common. Methods are called in the worker, and must not block.

    ``formats``, ``rates`` (frames per second) and ``channels`` (fewest and most) are what the guest may
    choose from.
    """

    formats: Collection[SampleFormat] = tuple(LAYOUTS)
    rates: Collection[int] = FRAME_RATES
    channels: tuple[int, int] = (1, MOST_CHANNELS)
    clock: Clock | None = None
    """By whose time it plays; None: the clock of the device."""
    lead: float = 0.0
    """Seconds of sound that a sink wants to have before their time. Without, it gets what is over."""
    channel_maps: Collection[Sequence[ChannelPosition]] | None = None
    """Where the channels are; None: as usual for each number of them."""

    def setup(self) -> None:
        """The device is going to be served. Raises OSError or ValueError when that makes no sense."""

    def open(self, pcm: PcmFormat) -> None:
        """The guest prepares the stream. Called again when it does so again. Raises OSError."""

    def start(self) -> None:
        """The stream runs. Raises OSError."""

    def stop(self) -> None:
        """It is stopped, and may go on."""

    def close(self) -> None:
        """The stream is released, or its guest is gone."""

    def shutdown(self) -> None:
        """The device is not served any more."""

    def latency(self) -> float:
        """Seconds from here to the ear, or from the mouth to here."""
        return 0.0


class Sink(SoundEnd):
    """An output of the guest. This one forgets what it gets."""

    def write(self, data: bytes) -> None:
        """Whole frames in the format of ``open``. Raises OSError."""


class Source(SoundEnd):
    """An input of the guest. This one is silent."""

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes, whole frames; what is missing is filled with silence. Raises OSError."""
        del size
        return b""


class Take:
    """What a guest played from one preparation of its stream to the next."""

    def __init__(self, pcm: PcmFormat) -> None:
        self.pcm = pcm
        self.data = bytearray()

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.data) / self.pcm.frame / self.pcm.rate

    @property
    def samples(self) -> Any:
        """An array of numpy: a row for each frame, a column for each channel, numbers from -1 to 1."""
        return self.pcm.decode(bytes(self.data))

    def __repr__(self) -> str:
        return f"<Take of {self.seconds:.3f} s, {self.pcm}>"


class Recording(Sink):
    """Keeps what the guest plays, for a test to look at.

    ``limit`` is how many bytes it keeps at most. From any thread: ``wait``, ``takes``, and what the last
    take has.
    """

    def __init__(self, *, limit: int = RECORDING_LIMIT) -> None:
        self.takes: list[Take] = []
        """All that is not empty, the oldest first."""
        self._limit = limit
        self._size = 0
        self._pcm = PcmFormat()
        self._fresh = True
        self._heard = threading.Condition()

    def open(self, pcm: PcmFormat) -> None:
        """The next take begins."""
        with self._heard:
            self._pcm, self._fresh = pcm, True

    def write(self, data: bytes) -> None:
        """Keep it."""
        with self._heard:
            size = len(data) + (_TAKE if self._fresh else 0)
            if self._size + size > self._limit:
                _report.warning("a recording is full: it keeps %d bytes", self._limit)
                return
            if self._fresh:
                self.takes.append(Take(self._pcm))
                self._fresh = False
            self.takes[-1].data += data
            self._size += size
            self._heard.notify_all()

    def wait(self, seconds: float, *, timeout: float = 30.0) -> Take:
        """Wait until the last take has so many seconds of sound. Raises TimeoutError."""

        def enough() -> bool:
            return bool(self.takes) and self.takes[-1].seconds >= seconds

        with self._heard:
            if not self._heard.wait_for(enough, timeout):
                raise TimeoutError(f"{self!r}: {seconds} s of sound did not come")
            return self.takes[-1]

    def clear(self) -> None:
        """Forget all takes."""
        with self._heard:
            self.takes.clear()
            self._size, self._fresh = 0, True

    @property
    def last(self) -> Take:
        """The last take. Raises IndexError when nothing was played."""
        with self._heard:
            return self.takes[-1]

    @property
    def samples(self) -> Any:
        """Those of the last take."""
        return self.last.samples

    def __repr__(self) -> str:
        return f"<Recording: {self.takes!r}>"


class Tone(Source):
    """A sine of so many hertz, in all channels; ``volume`` is 0 to 1. Begins anew when the guest prepares."""

    def __init__(self, hertz: float, *, volume: float = 0.5) -> None:
        if not (hertz > 0 and 0 <= volume <= 1):
            raise ValueError(f"a tone of {hertz} Hz at volume {volume}: above 0 Hz, volume 0 to 1")
        self.hertz = hertz
        self.volume = volume
        self._pcm = PcmFormat()
        self._frame = 0

    def open(self, pcm: PcmFormat) -> None:
        """From its beginning."""
        self._pcm, self._frame = pcm, 0

    def read(self, size: int) -> bytes:
        """The next frames."""
        first, pcm = self._frame, self._pcm
        self._frame += size // pcm.frame
        step = 2 * math.pi * self.hertz / pcm.rate
        mono = pcm.encode(self.volume * math.sin(step * number) for number in range(first, self._frame))
        return pcm.interleaved(mono)


class Playback(Source):
    """Lets the guest hear ``data``, which is in the format ``pcm``: the guest has to take that one.

    Begins anew when the guest prepares; with ``loop`` it goes on from its beginning when it is over.
    """

    def __init__(self, data: bytes, pcm: PcmFormat | None = None, *, loop: bool = False) -> None:
        pcm = pcm or PcmFormat()
        if len(data) % pcm.frame:
            raise ValueError(f"{len(data)} bytes are not whole frames of {pcm.frame}")
        self.data = data
        self.formats, self.rates = (pcm.sample,), (pcm.rate,)
        self.channels = (pcm.channels, pcm.channels)
        self._loop = loop
        self._at = 0

    def open(self, pcm: PcmFormat) -> None:
        """From its beginning."""
        del pcm
        self._at = 0

    def read(self, size: int) -> bytes:
        """The next frames."""
        found = self.data[self._at : self._at + size]
        self._at += len(found)
        while self._loop and self.data and len(found) < size:
            self._at = min(size - len(found), len(self.data))
            found += self.data[: self._at]
        return found
