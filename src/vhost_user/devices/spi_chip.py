"""What hangs on an SPI controller: the base of models, and what all chips have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vhost_user.spec.spi import NBITS, SpiConfig, SpiHeader, SpiMode, SpiModeFunction

ANY_WORD = -1
"""As ``bits_per_word_mask``: all bits are set."""
ANY_DELAY = 0xFFFF_FFFF
"""Nanoseconds: the longest that a request can ask for."""
EVERYTHING = SpiConfig(
    cs_change_supported=1,
    tx_nbits_supported=0b111,
    rx_nbits_supported=0b111,
    bits_per_word_mask=1 << 7 | 1 << 15 | 1 << 31,
    mode_func_supported=0x7F,
    max_word_delay_ns=ANY_DELAY,
    max_cs_setup_ns=ANY_DELAY,
    max_cs_hold_ns=ANY_DELAY,
    max_cs_inactive_ns=ANY_DELAY,
)
"""What a model can do: all modes and lanes, words of 8, 16 and 32 bits, delays, which take it no time."""
_FLOATING = 0xFF
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True, slots=True)
class Transfer:
    """One transfer. ``last`` says that the chip is deselected afterwards."""

    header: SpiHeader
    """As the driver wrote it, and checked."""
    data: bytes
    """What is sent to the chip; zeroes for half duplex reading."""
    last: bool = True


class SpiModel:
    """A chip: bytes go in and out at the same time. This one is nobody, and all bytes are 0xFF.

    Override ``exchange``, and ``select`` and ``deselect`` to know where a frame begins and ends. OSError out
    of them is TRANS_ERR for the transfer. They are called in the worker.
    """

    limits: SpiConfig = EVERYTHING
    """What the chip can do; a transfer that asks for more is PARAM_ERR. ``cs_max_number`` does not count."""

    def select(self) -> None:
        """A frame begins."""

    def exchange(self, byte: int) -> int:
        """The chip hears a byte, and gives the one that it sends meanwhile."""
        del byte
        return _FLOATING

    def deselect(self) -> None:
        """The frame ends."""

    def transfer(self, transfer: Transfer) -> bytes:
        """A part of a frame, or all of it; gives as many bytes as ``data`` has."""
        if transfer.header.mode & SpiMode.LOOP:
            return transfer.data
        heard = on_the_wire(transfer.data, transfer.header)
        return on_the_wire(self.answer(heard, transfer.header), transfer.header)

    def answer(self, data: bytes, header: SpiHeader) -> bytes:
        """The chip's answer to ``data``, both as it hears and says them: most significant bits first."""
        del header
        exchange = self.exchange
        return bytes([exchange(byte) for byte in data])

    def save_state(self) -> Any:
        """What an upgrade or a migration takes along, as plain data; None: nothing."""
        return None

    def load_state(self, state: Any) -> None:
        """Go on with that. Raises ValueError for what is no such state."""
        if state is not None:
            raise ValueError(f"a {type(self).__name__} has no state")

    def close(self) -> None:
        """The program ends."""


def word_size(header: SpiHeader) -> int:
    """Bytes that one word takes in memory: 1, 2 or 4."""
    return 1 if header.bits_per_word <= 8 else 2 if header.bits_per_word <= 16 else 4


def on_the_wire(data: bytes, header: SpiHeader) -> bytes:
    """From words in memory, which are little-endian, to the order of the wire, and back.

    A chip that sends the most significant bit first, on a controller that takes it for the least significant
    one, is heard with its bits reversed.
    """
    if header.mode & SpiMode.LSB_FIRST:
        return data.translate(_REVERSED)
    size = word_size(header)
    if size == 1:
        return data
    words = bytearray(data)
    for place in range(size):
        words[place::size] = data[size - 1 - place :: size]
    return bytes(words)


def union(limits: list[SpiConfig]) -> SpiConfig:
    """What at least one of the chips can do: the controller shows that."""
    masks = [each.bits_per_word_mask for each in limits]
    speeds = [each.max_freq_hz for each in limits]

    def either(name: str) -> int:
        together = 0
        for each in limits:
            together |= getattr(each, name)
        return together

    def longest(name: str) -> int:
        delays: list[int] = [getattr(each, name) for each in limits]
        return max(delays)

    return SpiConfig(
        cs_change_supported=either("cs_change_supported"),
        tx_nbits_supported=either("tx_nbits_supported"),
        rx_nbits_supported=either("rx_nbits_supported"),
        bits_per_word_mask=either("bits_per_word_mask") if all(masks) else 0,
        mode_func_supported=either("mode_func_supported"),
        max_freq_hz=max(speeds) if all(speeds) else 0,
        max_word_delay_ns=longest("max_word_delay_ns"),
        max_cs_setup_ns=longest("max_cs_setup_ns"),
        max_cs_hold_ns=longest("max_cs_hold_ns"),
        max_cs_inactive_ns=longest("max_cs_inactive_ns"),
    )


def complaint(header: SpiHeader, limits: SpiConfig) -> str | None:
    """What of a header the chip cannot do, or nobody, in words (virtio 1.4, 5.21.6.1)."""
    bits = header.bits_per_word
    if not bits or not (limits.bits_per_word_mask or ANY_WORD) >> bits - 1 & 1:
        return f"words of {bits} bits"
    if header.cs_change > limits.cs_change_supported:
        return f"cs_change {header.cs_change}"
    for name in ("tx_nbits", "rx_nbits"):
        lanes = NBITS.get(getattr(header, name))
        if lanes is None or lanes & ~getattr(limits, f"{name}_supported"):
            return f"{name} {getattr(header, name)}"
    if needed_functions(header.mode) & ~limits.mode_func_supported:
        return f"mode {header.mode:#x}"
    if limits.max_freq_hz and header.freq > limits.max_freq_hz:
        return f"{header.freq} Hz"
    for name, most in (
        ("word_delay_ns", limits.max_word_delay_ns),
        ("cs_setup_ns", limits.max_cs_setup_ns),
        ("cs_delay_hold_ns", limits.max_cs_hold_ns),
        ("cs_change_delay_inactive_ns", limits.max_cs_inactive_ns),
    ):
        if getattr(header, name) > most:
            return f"{name} {getattr(header, name)}"
    return None


_NEEDED = {
    SpiMode.CS_HIGH: SpiModeFunction.CS_HIGH,
    SpiMode.LSB_FIRST: SpiModeFunction.LSB_FIRST,
    SpiMode.LOOP: SpiModeFunction.LOOP,
}


def needed_functions(mode: int) -> int:
    """The bits of ``mode_func_supported`` that a mode needs; one that no controller has for unknown bits."""
    needed = SpiModeFunction.CPHA_1 if mode & SpiMode.CPHA else SpiModeFunction.CPHA_0
    needed |= SpiModeFunction.CPOL_1 if mode & SpiMode.CPOL else SpiModeFunction.CPOL_0
    for bit, function in _NEEDED.items():
        if mode & bit:
            needed |= function
    return int(needed) if mode <= 0x1F else 1 << 32
