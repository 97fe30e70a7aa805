"""``Flash``: a serial NOR memory, such as a W25Q, as a model on an SPI controller."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from vhost_user.devices.spi_chip import EVERYTHING, SpiModel
from vhost_user.spec.spi import SpiConfig, SpiHeader, SpiLanes, SpiModeFunction

PAGE = 256
SMALLEST, LARGEST = 4 << 10, 16 << 20
"""Bytes: addresses have three."""
WRITE_IN_PROGRESS, WRITE_ENABLED = 0x01, 0x02
PROTECTED = 0x1C
"""BP0 to BP2 of the status."""
_SETTABLE = 0xFC
_ERASED = 0xFF
_FUNCTIONS = SpiModeFunction(0x7F) & ~(SpiModeFunction.CS_HIGH | SpiModeFunction.LSB_FIRST)
_LANES = SpiLanes.DUAL | SpiLanes.QUAD


@dataclass(frozen=True)
class _Command:
    before: int
    """Bytes before its data: itself, an address, dummies."""
    name: str = ""
    lanes: int = 1
    """On which its data comes."""
    erases: int = 0
    """Bytes; it takes no data."""


_COMMANDS = {
    0x01: _Command(1, "write status"),
    0x02: _Command(4, "program"),
    0x03: _Command(4, "read"),
    0x04: _Command(1, "disable"),
    0x05: _Command(1, "status"),
    0x06: _Command(1, "enable"),
    0x0B: _Command(5, "read"),
    0x20: _Command(4, "erase", erases=4 << 10),
    0x3B: _Command(5, "read", lanes=2),
    0x52: _Command(4, "erase", erases=32 << 10),
    0x5A: _Command(5, "parameters"),
    0x60: _Command(1, "erase", erases=LARGEST),
    0x6B: _Command(5, "read", lanes=4),
    0x9F: _Command(1, "identify"),
    0xC7: _Command(1, "erase", erases=LARGEST),
    0xD8: _Command(4, "erase", erases=64 << 10),
}
_UNKNOWN = _Command(1)


class Flash(SpiModel):
    """A memory of ``size`` bytes, 4 KiB to 16 MiB, a power of two; ``content`` is what is in it at first.

    With ``file`` it is in that file, whose size is its own, and stays there. ``jedec`` are manufacturer and
    type, before the capacity. After each change it is busy for so many readings of the status as ``busy``
    says, and does nothing else meanwhile: a driver that does not wait is found out. A change takes effect
    when the chip is deselected, as in a real one; programming makes ones to zeroes, erasing zeroes to ones.
    Any of the bits BP0 to BP2 protects everything.

    Raises ValueError for a size that there is not, OSError for a file that cannot be used.
    """

    limits: SpiConfig = replace(
        EVERYTHING,
        bits_per_word_mask=1 << 7,
        mode_func_supported=int(_FUNCTIONS),
        tx_nbits_supported=int(_LANES),
        rx_nbits_supported=int(_LANES),
    )

    def __init__(
        self,
        size: int = 1 << 20,
        *,
        content: bytes = b"",
        file: str | Path | None = None,
        jedec: bytes = b"\xef\x40",
        busy: int = 1,
    ) -> None:
        self._fd = -1 if file is None else os.open(file, os.O_RDWR | os.O_CLOEXEC)
        self.size = size if file is None else os.fstat(self._fd).st_size
        if not SMALLEST <= self.size <= LARGEST or self.size & (self.size - 1) or len(content) > self.size:
            self.close()
            raise ValueError(
                f"a flash memory of {self.size} bytes with {len(content)} in it: it has {SMALLEST} to "
                f"{LARGEST} bytes, a power of two"
            )
        self._memory = bytearray()
        if file is None:
            self._memory += content.ljust(self.size, bytes((_ERASED,)))
        elif content:
            self._store(0, content)
        self.jedec = jedec + bytes((self.size.bit_length() - 1,))
        """What it answers to 0x9F."""
        self.busy = busy
        self.status = 0
        """The first status register, but for WRITE_IN_PROGRESS."""
        self._readings_left = 0
        self.select()

    def close(self) -> None:
        """The file is closed."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def read(self, offset: int, length: int) -> bytes:
        """What is in the memory; for tests."""
        if self._fd < 0:
            return bytes(self._memory[offset : offset + length])
        data = os.pread(self._fd, min(length, self.size - offset), offset)
        return data.ljust(min(length, self.size - offset), bytes((_ERASED,)))

    def _store(self, offset: int, data: bytes) -> None:
        if self._fd < 0:
            self._memory[offset : offset + len(data)] = data
            return
        while data:
            written = os.pwrite(self._fd, data, offset)
            data, offset = data[written:], offset + written

    # A frame

    def select(self) -> None:
        """A command begins."""
        self._command = _UNKNOWN
        self._head = b""
        self._count = 0
        self._page = bytearray((_ERASED,)) * PAGE  # ones change nothing

    def answer(self, data: bytes, header: SpiHeader) -> bytes:
        """A part of the frame."""
        if not self._count and data:
            self._command = _COMMANDS.get(data[0], _UNKNOWN)
            if self._readings_left and self._command.name != "status":
                self._command = _UNKNOWN
        command = self._command
        before = min(len(data), max(0, command.before - self._count))
        self._head += data[:before]
        place = max(0, self._count - command.before)
        self._count += len(data)
        rest = data[before:]
        if not rest:
            return bytes((_ERASED,)) * before
        return bytes((_ERASED,)) * before + self._data(command, place, rest, header)

    def _data(self, command: _Command, place: int, data: bytes, header: SpiHeader) -> bytes:
        """Bytes behind the head; ``place`` is how many there were before."""
        length = len(data)
        found = b""
        match command.name:
            case "read" if max(header.rx_nbits, 1) == command.lanes:
                found = self._cyclic(self._address + place, length)
            case "status":
                found = bytes(self._status() for _ in range(length))
            case "identify":
                found = self.jedec[place : place + length]
            case "parameters":
                found = parameters(self.size)[self._address + place :][:length]
            case "program":
                for at, byte in enumerate(data[-PAGE:], self._address + place + max(0, length - PAGE)):
                    self._page[at % PAGE] = byte
            case "write status" if not place:
                self._page[0] = data[0]
        return found.ljust(length, bytes((_ERASED,)))

    @property
    def _address(self) -> int:
        return int.from_bytes(self._head[1:4], "big")

    def _cyclic(self, offset: int, length: int) -> bytes:
        parts = []
        while length:
            offset %= self.size
            part = self.read(offset, length)
            parts.append(part)
            offset, length = offset + len(part), length - len(part)
        return b"".join(parts)

    def _status(self) -> int:
        if not self._readings_left:
            return self.status
        self._readings_left -= 1
        return self.status | WRITE_IN_PROGRESS

    def deselect(self) -> None:
        """The command takes effect. Raises OSError when the file cannot be written."""
        command, count = self._command, self._count
        complete = count == command.before
        match command.name:
            case "enable" if complete:
                self.status |= WRITE_ENABLED
            case "disable" if complete:
                self.status &= ~WRITE_ENABLED
            case "write status" if count in {2, 3} and self._may_change():
                self.status = self._page[0] & _SETTABLE
            case "program" if count > command.before and self._may_change(PROTECTED):
                page = self._address % self.size & -PAGE
                before = self.read(page, PAGE)
                self._store(page, bytes(old & new for old, new in zip(before, self._page, strict=True)))
            case "erase" if complete and self._may_change(PROTECTED):
                size = min(command.erases, self.size)
                self._store(self._address % self.size & -size, bytes((_ERASED,)) * size)
        self.select()

    def _may_change(self, protected: int = 0) -> bool:
        if not self.status & WRITE_ENABLED:
            return False
        self.status &= ~WRITE_ENABLED
        if self.status & protected:
            return False
        self._readings_left = self.busy
        return True

    # An upgrade, a migration

    def save_state(self) -> Any:
        """All of it; what is in a file stays there."""
        return {
            "content": bytes(self._memory),
            "status": self.status,
            "busy": self._readings_left,
            "head": b"" if self._command is _UNKNOWN else self._head,
            "count": self._count,
            "page": bytes(self._page),
        }

    _KINDS: ClassVar[dict[str, type]] = {
        "content": bytes, "status": int, "busy": int, "head": bytes, "count": int, "page": bytes,
    }  # fmt: skip

    def load_state(self, state: Any) -> None:
        """Go on with that. Raises ValueError for what is no state of a memory of this size."""
        if not isinstance(state, dict) or any(
            type(state.get(name)) is not kind for name, kind in self._KINDS.items()
        ):
            raise ValueError(f"{state!r:.60} is not the state of a flash memory")
        head, content = state["head"], state["content"]
        if (
            len(content) != len(self._memory)
            or len(state["page"]) != PAGE
            or not 0 <= state["status"] <= 0xFF
            or min(state["busy"], state["count"]) < 0
            or len(head) > min(5, state["count"])
        ):
            raise ValueError(
                f"the state is not that of a flash memory of {len(self._memory)} bytes, or makes no sense"
            )
        self._memory[:] = content
        self.status, self._readings_left = state["status"], state["busy"]
        self._head, self._count, self._page = head, state["count"], bytearray(state["page"])
        self._command = _COMMANDS.get(head[0], _UNKNOWN) if head else _UNKNOWN


def parameters(size: int) -> bytes:
    """The serial flash discoverable parameters (JESD216): one table, the basic one of nine words."""
    table = struct.pack(
        "<9I",
        0xFFC1_20E5,  # erases 4 KiB by 0x20; addresses of three bytes; 1-1-2, 1-1-4
        8 * size - 1,
        0x6B08_0000,  # 1-1-4: 0x6B, eight dummy clocks
        0x0000_3B08,  # 1-1-2: 0x3B, eight dummy clocks
        0xFFFF_FFEE,
        0x0000_FFFF,
        0x0000_FFFF,
        0x520F_200C,  # 4 KiB by 0x20, 32 KiB by 0x52
        0x0000_D810,  # 64 KiB by 0xD8
    )
    pointer = 0x10
    header = b"SFDP" + bytes((0, 1, 0, 0xFF))  # revision 1.0, one table
    return header + bytes((0, 0, 1, len(table) // 4)) + pointer.to_bytes(3, "little") + b"\xff" + table
