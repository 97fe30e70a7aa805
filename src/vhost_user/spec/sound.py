"""Sound device, virtio id 25 (virtio 1.4 section 5.14)."""

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import ClassVar

from vhost_user.spec.record import Record

CONTROL_QUEUE = 0
EVENT_QUEUE = 1
TRANSMIT_QUEUE = 2
RECEIVE_QUEUE = 3

MAX_CHANNELS = 18
"""Positions that a channel map has room for."""


class SoundFeature(IntFlag):
    """Feature bits of the sound device."""

    CTLS = 1 << 0


class SoundRequest(IntEnum):
    """``code`` of a request in the control queue."""

    JACK_INFO = 0x0001
    JACK_REMAP = 0x0002
    PCM_INFO = 0x0100
    PCM_SET_PARAMS = 0x0101
    PCM_PREPARE = 0x0102
    PCM_RELEASE = 0x0103
    PCM_START = 0x0104
    PCM_STOP = 0x0105
    CHMAP_INFO = 0x0200


class SoundEventType(IntEnum):
    """``code`` of what comes in the event queue."""

    JACK_CONNECTED = 0x1000
    JACK_DISCONNECTED = 0x1001
    PCM_PERIOD_ELAPSED = 0x1100
    PCM_XRUN = 0x1101


class SoundStatus(IntEnum):
    """``code`` of an answer, and the status of a buffer."""

    OK = 0x8000
    BAD_MSG = 0x8001
    NOT_SUPP = 0x8002
    IO_ERR = 0x8003


class Direction(IntEnum):
    """Which way a stream goes, as the guest sees it."""

    OUTPUT = 0
    INPUT = 1


class JackFeature(IntFlag):
    """``features`` of a jack."""

    REMAP = 1 << 0


class PcmFeature(IntFlag):
    """``features`` of a stream."""

    SHMEM_HOST = 1 << 0
    SHMEM_GUEST = 1 << 1
    MSG_POLLING = 1 << 2
    EVT_SHMEM_PERIODS = 1 << 3
    EVT_XRUNS = 1 << 4


class SampleFormat(IntEnum):
    """``format`` of a stream, and the number of its bit in ``formats``."""

    IMA_ADPCM = 0
    MU_LAW = 1
    A_LAW = 2
    S8 = 3
    U8 = 4
    S16 = 5
    U16 = 6
    S18_3 = 7
    U18_3 = 8
    S20_3 = 9
    U20_3 = 10
    S24_3 = 11
    U24_3 = 12
    S20 = 13
    U20 = 14
    S24 = 15
    U24 = 16
    S32 = 17
    U32 = 18
    FLOAT = 19
    FLOAT64 = 20
    DSD_U8 = 21
    DSD_U16 = 22
    DSD_U32 = 23
    IEC958_SUBFRAME = 24


FRAME_RATES = (
    5512, 8000, 11025, 16000, 22050, 32000, 44100, 48000, 64000, 88200, 96000, 176400, 192000, 384000, 12000,
    24000,
)  # fmt: skip
"""Frames per second; the place of one is its ``rate``, and the number of its bit in ``rates``."""


class ChannelPosition(IntEnum):
    """Where the loudspeaker or microphone of a channel stands."""

    NONE = 0
    NA = 1
    MONO = 2
    FL = 3
    FR = 4
    RL = 5
    RR = 6
    FC = 7
    LFE = 8
    SL = 9
    SR = 10
    RC = 11
    FLC = 12
    FRC = 13
    RLC = 14
    RRC = 15
    FLW = 16
    FRW = 17
    FLH = 18
    FCH = 19
    FRH = 20
    TC = 21
    TFL = 22
    TFR = 23
    TFC = 24
    TRL = 25
    TRR = 26
    TRC = 27
    TFLC = 28
    TFRC = 29
    TSL = 30
    TSR = 31
    LLFE = 32
    RLFE = 33
    BC = 34
    BLC = 35
    BRC = 36


@dataclass(frozen=True, slots=True)
class SoundConfig(Record):
    """Configuration space."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<IIII")
    jacks: int = 0
    streams: int = 0
    chmaps: int = 0
    controls: int = 0


@dataclass(frozen=True, slots=True)
class SoundHeader(Record):
    """What requests and answers of the control queue begin with."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<I")
    code: int


@dataclass(frozen=True, slots=True)
class SoundEvent(Record):
    """What comes in the event queue; ``data`` is the number of a jack or a stream."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<II")
    code: int
    data: int


@dataclass(frozen=True, slots=True)
class SoundQuery(Record):
    """JACK_INFO, PCM_INFO, CHMAP_INFO; ``size`` is that of one information, in bytes."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<IIII")
    code: int
    start_id: int
    count: int
    size: int


@dataclass(frozen=True, slots=True)
class JackInfo(Record):
    """Answer to JACK_INFO, for one jack."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<IIIIB7x")
    hda_fn_nid: int
    features: int
    hda_reg_defconf: int
    hda_reg_caps: int
    connected: int


@dataclass(frozen=True, slots=True)
class JackRemap(Record):
    """JACK_REMAP."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<IIII")
    code: int
    jack_id: int
    association: int
    sequence: int


@dataclass(frozen=True, slots=True)
class PcmHeader(Record):
    """PREPARE, RELEASE, START and STOP; SET_PARAMS begins with it."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<II")
    code: int
    stream_id: int


@dataclass(frozen=True, slots=True)
class PcmInfo(Record):
    """Answer to PCM_INFO, for one stream."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<IIQQBBB5x")
    hda_fn_nid: int
    features: int
    formats: int
    rates: int
    direction: int
    channels_min: int
    channels_max: int


@dataclass(frozen=True, slots=True)
class PcmSetParams(Record):
    """SET_PARAMS."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<IIIIIBBBx")
    code: int
    stream_id: int
    buffer_bytes: int
    period_bytes: int
    features: int
    channels: int
    format: int
    rate: int


@dataclass(frozen=True, slots=True)
class PcmTransfer(Record):
    """What a buffer of either stream queue begins with."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<I")
    stream_id: int


@dataclass(frozen=True, slots=True)
class PcmStatus(Record):
    """What a buffer ends with when it comes back."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<II")
    status: int
    latency_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ChannelMapInfo(Record):
    """Answer to CHMAP_INFO, for one map."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct(f"<IBB{MAX_CHANNELS}s")
    hda_fn_nid: int
    direction: int
    channels: int
    positions: bytes
