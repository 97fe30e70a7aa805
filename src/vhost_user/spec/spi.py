"""SPI controller, virtio id 45 (virtio 1.4 section 5.21): one queue, no feature bits."""

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import ClassVar

from vhost_user.spec.record import Record


class SpiMode(IntFlag):
    """``mode`` of a transfer."""

    CPHA = 1 << 0
    CPOL = 1 << 1
    CS_HIGH = 1 << 2
    LSB_FIRST = 1 << 3
    LOOP = 1 << 4


class SpiModeFunction(IntFlag):
    """``mode_func_supported``; of CPHA and of CPOL at least one setting is there."""

    CPHA_0 = 1 << 0
    CPHA_1 = 1 << 1
    CPOL_0 = 1 << 2
    CPOL_1 = 1 << 3
    CS_HIGH = 1 << 4
    LSB_FIRST = 1 << 5
    LOOP = 1 << 6


class SpiLanes(IntFlag):
    """``tx_nbits_supported`` and ``rx_nbits_supported``; single is always there."""

    DUAL = 1 << 0
    QUAD = 1 << 1
    OCTAL = 1 << 2


NBITS: dict[int, SpiLanes] = {
    0: SpiLanes(0),
    1: SpiLanes(0),
    2: SpiLanes.DUAL,
    4: SpiLanes.QUAD,
    8: SpiLanes.OCTAL,
}
"""What ``tx_nbits`` and ``rx_nbits`` of a transfer may be, and what each needs."""


class SpiResult(IntEnum):
    """The last byte of every request."""

    TRANS_OK = 0
    PARAM_ERR = 1
    TRANS_ERR = 2


@dataclass(frozen=True, slots=True)
class SpiConfig(Record):
    """The configuration space. No limit is 0 for ``bits_per_word_mask`` and ``max_freq_hz``.

    Bit n of ``bits_per_word_mask`` stands for words of n + 1 bits. A delay that cannot be had is 0.
    """

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<4B7I")
    cs_max_number: int = 0
    cs_change_supported: int = 0
    tx_nbits_supported: int = 0
    rx_nbits_supported: int = 0
    bits_per_word_mask: int = 0
    mode_func_supported: int = 0
    max_freq_hz: int = 0
    max_word_delay_ns: int = 0
    max_cs_setup_ns: int = 0
    max_cs_hold_ns: int = 0
    max_cs_inactive_ns: int = 0


@dataclass(frozen=True, slots=True)
class SpiHeader(Record):
    """The first 32 bytes of a request.

    ``cs_change`` 1 deselects the chip after the transfer, 0 leaves it selected for the next one. Delays are
    in nanoseconds, ``freq`` in Hz.
    """

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<5B3x6I")
    chip_select_id: int = 0
    bits_per_word: int = 8
    cs_change: int = 0
    tx_nbits: int = 1
    rx_nbits: int = 1
    mode: int = 0
    freq: int = 0
    word_delay_ns: int = 0
    cs_setup_ns: int = 0
    cs_delay_hold_ns: int = 0
    cs_change_delay_inactive_ns: int = 0
