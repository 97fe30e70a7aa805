"""``PcmFormat``: what the samples of a stream are, also as numbers from -1 to 1; where channels are."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vhost_user.devices.library import library
from vhost_user.spec.sound import FRAME_RATES, MAX_CHANNELS, ChannelPosition, SampleFormat

SECOND = 1_000_000_000

_FL, _FR, _RL, _RR, _FC, _LFE, _SL, _SR = (
    ChannelPosition[name] for name in ("FL", "FR", "RL", "RR", "FC", "LFE", "SL", "SR")
)
USUAL_MAPS: tuple[tuple[ChannelPosition, ...], ...] = (
    (ChannelPosition.MONO,),
    (_FL, _FR),
    (_FL, _FR, _LFE),
    (_FL, _FR, _RL, _RR),
    (_FL, _FR, _RL, _RR, _FC),
    (_FL, _FR, _RL, _RR, _FC, _LFE),
    (_FL, _FR, _RL, _RR, _FC, _LFE, _SL, _SR),
)
"""Where the channels of a stream are, for each number of them."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """``size`` bytes, ``bits`` of them counted; a float has none."""

    size: int
    code: str
    bits: int = 0
    signed: bool = True


LAYOUTS: dict[SampleFormat, _Layout] = {
    SampleFormat.S8: _Layout(1, "b", 8),
    SampleFormat.U8: _Layout(1, "B", 8, signed=False),
    SampleFormat.S16: _Layout(2, "h", 16),
    SampleFormat.U16: _Layout(2, "H", 16, signed=False),
    SampleFormat.S24_3: _Layout(3, "", 24),
    SampleFormat.U24_3: _Layout(3, "", 24, signed=False),
    SampleFormat.S24: _Layout(4, "i", 24),
    SampleFormat.U24: _Layout(4, "I", 24, signed=False),
    SampleFormat.S32: _Layout(4, "i", 32),
    SampleFormat.U32: _Layout(4, "I", 32, signed=False),
    SampleFormat.FLOAT: _Layout(4, "f"),
    SampleFormat.FLOAT64: _Layout(8, "d"),
}
"""The formats that are served: all linear ones of whole bytes."""


@dataclass(frozen=True, slots=True)
class PcmFormat:
    """Frames per second, channels, and the format of a sample; all interleaved and little-endian.

    Raises ValueError for what the specification or this device does not have.
    """

    rate: int = 48000
    channels: int = 2
    sample: SampleFormat = SampleFormat.S16

    def __post_init__(self) -> None:
        if self.rate not in FRAME_RATES:
            raise ValueError(
                f"{self.rate} frames per second: there are {', '.join(map(str, sorted(FRAME_RATES)))}"
            )
        if not 1 <= self.channels <= MAX_CHANNELS:
            raise ValueError(f"{self.channels} channels: there must be 1 to {MAX_CHANNELS}")
        if self.sample not in LAYOUTS:
            raise ValueError(f"samples of format {self.sample!r} are not served")

    @property
    def frame(self) -> int:
        """Bytes of a frame: one sample of each channel."""
        return LAYOUTS[self.sample].size * self.channels

    def frames(self, nanoseconds: int) -> int:
        """Whole frames in so much time."""
        return nanoseconds * self.rate // SECOND

    def nanoseconds(self, frames: int) -> int:
        """How long so many frames take; the last one is over by then."""
        return -(-frames * SECOND // self.rate)

    def silence(self, frames: int) -> bytes:
        """So many frames of nothing."""
        layout = LAYOUTS[self.sample]
        if layout.signed:
            return bytes(frames * self.frame)
        middle: int = 1 << (layout.bits - 1)
        return middle.to_bytes(layout.size, "little") * (self.channels * frames)

    def encode(self, values: Iterable[float]) -> bytes:
        """Samples out of numbers from -1 to 1; what is beyond is clipped."""
        layout = LAYOUTS[self.sample]
        clipped = [min(1.0, max(-1.0, value)) for value in values]
        if not layout.bits:
            return struct.pack(f"<{len(clipped)}{layout.code}", *clipped)
        top = (1 << (layout.bits - 1)) - 1
        middle = 0 if layout.signed else top + 1
        numbers = [round(value * top) + middle for value in clipped]
        if layout.code:
            return struct.pack(f"<{len(numbers)}{layout.code}", *numbers)
        return b"".join(number.to_bytes(layout.size, "little", signed=layout.signed) for number in numbers)

    def decode(self, data: bytes | bytearray | memoryview) -> Any:
        """An array of numpy (extra ``sound``): a row for each frame, a column for each channel, -1 to 1.

        Raises MissingLibraryError without numpy, ValueError for bytes that are not whole frames.
        """
        numpy = library("numpy", extra="sound")
        layout = LAYOUTS[self.sample]
        if layout.code:
            numbers = numpy.frombuffer(data, dtype=f"<{layout.code}").astype(numpy.float64)
        else:
            parts = numpy.frombuffer(data, dtype=numpy.uint8).reshape(-1, layout.size).astype(numpy.int64)
            numbers = parts[:, 0] | parts[:, 1] << 8 | parts[:, 2] << 16
            if layout.signed:
                numbers = (numbers ^ 1 << 23) - (1 << 23)
            numbers = numbers.astype(numpy.float64)
        if layout.bits:
            middle = 1 << (layout.bits - 1)
            numbers = (numbers if layout.signed else numbers - middle) / middle
        return numbers.reshape(-1, self.channels)

    def interleaved(self, mono: bytes) -> bytes:
        """The samples of one channel in all of them."""
        if self.channels == 1:
            return mono
        size = LAYOUTS[self.sample].size
        return b"".join(mono[at : at + size] * self.channels for at in range(0, len(mono), size))
