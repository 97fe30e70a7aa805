"""A chip of this machine, ``/dev/spidev0.0``, by the library spidev (extra: spi)."""

from __future__ import annotations

import errno
import re
from contextlib import suppress
from typing import Any

from vhost_user.devices.library import library
from vhost_user.devices.spi_chip import SpiModel, Transfer
from vhost_user.spec.spi import SpiConfig, SpiMode, SpiModeFunction

LONGEST = 1.0
"""Seconds that a transfer may take: the guest chooses its speed, and the controller does nothing else."""
_MOST_HOLD = 0xFFFF
"""Microseconds: what Linux takes."""
_SETTINGS = {
    SpiMode.CS_HIGH: ("cshigh", SpiModeFunction.CS_HIGH),
    SpiMode.LSB_FIRST: ("lsbfirst", SpiModeFunction.LSB_FIRST),
    SpiMode.LOOP: ("loop", SpiModeFunction.LOOP),
}
_CLOCK = SpiMode.CPHA | SpiMode.CPOL


class HostChip(SpiModel):
    """The chip at ``path``, ``/dev/spidev0.0`` or ``0.0``. What it can do is tried when it is opened.

    The library deselects a chip after each transfer: a frame is one transfer, and one that is to leave the
    chip selected is refused. Raises OSError when it cannot be opened, MissingLibraryError without spidev.
    """

    def __init__(self, path: str) -> None:
        loaded: Any = library("spidev", extra="spi")
        self.path = f"/dev/spidev{path}" if re.fullmatch(r"[0-9]+\.[0-9]+", path) else path
        self._device: Any = loaded.SpiDev()
        self._device.open_path(self.path)
        self.limits = self._tried()

    def close(self) -> None:
        """It is closed."""
        self._device.close()

    def transfer(self, transfer: Transfer) -> bytes:
        """See ``SpiModel``."""
        header = transfer.header
        if not transfer.last:
            raise OSError(errno.EOPNOTSUPP, f"{self.path} cannot be left selected after a transfer")
        speed = header.freq or self._device.max_speed_hz
        if 8 * len(transfer.data) > speed * LONGEST:
            raise OSError(
                errno.ETIMEDOUT, f"{len(transfer.data)} bytes at {speed} Hz take over {LONGEST:g} s"
            )
        self._set("mode", header.mode & _CLOCK)
        for bit, (name, _) in _SETTINGS.items():
            self._set(name, bool(header.mode & bit))
        microseconds = -(-header.cs_delay_hold_ns // 1000)
        return bytes(self._device.xfer2(list(transfer.data), header.freq, microseconds, header.bits_per_word))

    def _set(self, name: str, value: int) -> None:
        if getattr(self._device, name) != value:
            setattr(self._device, name, value)

    def _accepts(self, name: str, value: int) -> bool:
        before = getattr(self._device, name)
        try:
            setattr(self._device, name, value)
        except OSError:
            return False
        with suppress(OSError):
            setattr(self._device, name, before)
        return True

    def _tried(self) -> SpiConfig:
        functions = 0
        for mode in range(4):
            if self._accepts("mode", mode):
                functions |= SpiModeFunction.CPHA_1 if mode & SpiMode.CPHA else SpiModeFunction.CPHA_0
                functions |= SpiModeFunction.CPOL_1 if mode & SpiMode.CPOL else SpiModeFunction.CPOL_0
        for name, function in _SETTINGS.values():
            if self._accepts(name, not getattr(self._device, name)):
                functions |= function
        words = sum(1 << bits - 1 for bits in range(1, 33) if self._accepts("bits_per_word", bits))
        return SpiConfig(
            cs_change_supported=1,
            bits_per_word_mask=words,
            mode_func_supported=int(functions),
            max_freq_hz=self._device.max_speed_hz,
            max_cs_hold_ns=_MOST_HOLD * 1000,
        )
