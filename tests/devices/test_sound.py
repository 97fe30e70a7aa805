"""What the sound device says of itself, and the requests, parameters and buffers that it refuses."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.sound import FRAME, PARAMETERS, PERIOD, SOUND, Card, done, pieces
from vhost_user.devices import Jack, PcmFormat, Playback, Recording, Sink, Sound, Source, Tone
from vhost_user.devices.sound_format import LAYOUTS
from vhost_user.frontend import DeviceError, SoundDriver
from vhost_user.spec.sound import (
    FRAME_RATES,
    TRANSMIT_QUEUE,
    ChannelPosition,
    Direction,
    JackFeature,
    PcmFeature,
    PcmInfo,
    PcmSetParams,
    PcmStatus,
    PcmTransfer,
    SampleFormat,
    SoundHeader,
    SoundQuery,
    SoundRequest,
    SoundStatus,
)
from vhost_user.testing.virtio import Virtio

# What there is


def test_what_the_driver_learns(card: Callable[..., Card]) -> None:
    jacks = [Jack("headphone", connected=False), Jack("mic", remap=True)]
    it = card(Recording(), Tone(440), Playback(SOUND), jacks=jacks)
    output, tone, playback = it.driver.streams
    assert [stream.direction for stream in it.driver.streams] == [0, 1, 1]
    assert [stream.hda_fn_nid for stream in it.driver.streams] == [0, 0, 1]
    assert output.features == PcmFeature.EVT_XRUNS | PcmFeature.EVT_SHMEM_PERIODS
    assert output.formats == sum(1 << sample for sample in LAYOUTS)
    assert output.rates == (1 << len(FRAME_RATES)) - 1
    assert (output.channels_min, output.channels_max) == (tone.channels_min, tone.channels_max) == (1, 8)
    assert (playback.formats, playback.rates) == (1 << SampleFormat.S16, 1 << FRAME_RATES.index(48000))
    assert (playback.channels_min, playback.channels_max) == (2, 2)
    headphone, mic = it.driver.jacks
    assert (headphone.hda_reg_defconf >> 20 & 0xF, headphone.connected, headphone.features) == (2, 0, 0)
    assert (mic.hda_reg_defconf >> 20 & 0xF, mic.connected, mic.features) == (10, 1, JackFeature.REMAP)
    assert headphone.hda_reg_caps & 1 << 4
    assert mic.hda_reg_caps & 1 << 5
    maps = {
        (entry.hda_fn_nid, entry.direction, entry.channels): entry.positions
        for entry in it.driver.channel_maps
    }
    assert maps[0, Direction.OUTPUT, 2][:2] == bytes([ChannelPosition.FL, ChannelPosition.FR])
    assert maps[1, Direction.INPUT, 2] == maps[0, Direction.OUTPUT, 2]
    assert (1, Direction.INPUT, 1) not in maps
    assert len(maps[0, Direction.INPUT, 6].rstrip(b"\0")) == 6


def test_an_end_says_where_its_channels_are(card: Callable[..., Card]) -> None:
    class Cinema(Sink):
        channels = (3, 3)
        channel_maps = ((ChannelPosition.FL, ChannelPosition.FC, ChannelPosition.FR),)

    (entry,) = card(Cinema()).driver.channel_maps
    assert (entry.channels, entry.positions[:4]) == (3, bytes([3, 7, 4, 0]))


def test_informations_of_another_size_are_cut_or_filled(card: Callable[..., Card]) -> None:
    driver = card().driver
    whole = driver.ask(SoundQuery(SoundRequest.PCM_INFO, 0, 2, PcmInfo.SIZE), 2 * PcmInfo.SIZE)
    more = driver.ask(SoundQuery(SoundRequest.PCM_INFO, 1, 1, 40), 40)
    assert more == whole[PcmInfo.SIZE :] + bytes(8)
    assert driver.ask(SoundQuery(SoundRequest.PCM_INFO, 0, 1, 8), 8) == whole[:8]
    assert driver.ask(SoundQuery(SoundRequest.PCM_INFO, 2, 0, 32), 0) == b""


def ask(code: int, *numbers: int) -> bytes:
    return b"".join(number.to_bytes(4, "little") for number in (code, *numbers))


@pytest.mark.parametrize(
    ("request_", "room", "status"),
    [
        (ask(SoundRequest.PCM_INFO, 0, 3, 32), 100, SoundStatus.BAD_MSG),
        (ask(SoundRequest.PCM_INFO, 3, 0, 32), 100, SoundStatus.BAD_MSG),
        (ask(SoundRequest.PCM_INFO, 0xFFFF_FFFF, 1, 32), 100, SoundStatus.BAD_MSG),
        (ask(SoundRequest.PCM_INFO, 0, 2, 32), 67, SoundStatus.BAD_MSG),
        (ask(SoundRequest.PCM_INFO, 0, 1, 3), 100, SoundStatus.BAD_MSG),
        (ask(SoundRequest.PCM_INFO, 0, 1, 4096), 5000, SoundStatus.BAD_MSG),
        (ask(SoundRequest.PCM_INFO, 0, 1), 100, SoundStatus.BAD_MSG),
        (ask(SoundRequest.JACK_INFO, 0, 1, 24), 100, SoundStatus.BAD_MSG),
        (ask(SoundRequest.JACK_REMAP, 0, 1, 1), 4, SoundStatus.BAD_MSG),
        (ask(SoundRequest.PCM_PREPARE, 2), 4, SoundStatus.BAD_MSG),
        (ask(SoundRequest.PCM_PREPARE), 4, SoundStatus.BAD_MSG),
        (ask(SoundRequest.PCM_SET_PARAMS, 0, 1920), 4, SoundStatus.BAD_MSG),
        (b"\1\0\0", 4, SoundStatus.BAD_MSG),
        (b"", 4, SoundStatus.BAD_MSG),
        (ask(0), 4, SoundStatus.NOT_SUPP),
        (ask(0x106, 0), 4, SoundStatus.NOT_SUPP),
        (ask(0x300, 0, 1, 64), 68, SoundStatus.NOT_SUPP),
    ],
)
def test_requests_that_cannot_be_are_refused(
    card: Callable[..., Card], request_: bytes, room: int, status: SoundStatus
) -> None:
    assert card().driver.queue(0).request(request_, room) == SoundHeader(status).pack()


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"channels": 0}, SoundStatus.NOT_SUPP),
        ({"channels": 9}, SoundStatus.NOT_SUPP),
        ({"format": SampleFormat.IMA_ADPCM}, SoundStatus.NOT_SUPP),
        ({"format": 255}, SoundStatus.NOT_SUPP),
        ({"rate": 16}, SoundStatus.NOT_SUPP),
        ({"features": PcmFeature.SHMEM_GUEST}, SoundStatus.NOT_SUPP),
        ({"features": PcmFeature.MSG_POLLING}, SoundStatus.NOT_SUPP),
        ({"features": 1 << 31}, SoundStatus.NOT_SUPP),
        ({"period_bytes": 0}, SoundStatus.BAD_MSG),
        ({"buffer_bytes": 0}, SoundStatus.BAD_MSG),
        ({"buffer_bytes": 7679}, SoundStatus.BAD_MSG),
        ({"period_bytes": 1918, "buffer_bytes": 3836}, SoundStatus.BAD_MSG),
        ({}, SoundStatus.OK),
    ],
)
def test_parameters_that_are_not_offered_are_refused(
    card: Callable[..., Card], change: dict[str, int], status: SoundStatus
) -> None:
    request = PcmSetParams(SoundRequest.PCM_SET_PARAMS, 0, **{**PARAMETERS, **change})
    assert card().driver.queue(0).request(request.pack(), 4) == SoundHeader(status).pack()


ORDERS = {
    # What was said, and what may be said next (5.14.6.6.1).
    (): {"set"},
    ("set",): {"set", "prepare"},
    ("set", "prepare"): {"set", "prepare", "start", "release"},
    ("set", "prepare", "start"): {"stop"},
    ("set", "prepare", "start", "stop"): {"start", "release"},
    ("set", "prepare", "release"): {"set", "prepare"},
    ("set", "prepare", "start", "stop", "release"): {"set", "prepare"},
}


WORDS = ("set", "prepare", "start", "stop", "release")


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("said", ORDERS, ids=lambda said: "-".join(said) or "nothing")
def test_commands_in_an_order_that_there_is_not_are_refused(
    virtio: Virtio, said: tuple[str, ...], word: str
) -> None:
    driver = virtio.attach(Sound()).drive(SoundDriver)
    calls = (driver.set_params, driver.prepare, driver.start, driver.stop, driver.release)
    says: dict[str, Callable[..., None]] = dict(zip(WORDS, calls, strict=True))
    for each in said:
        says[each](0)
    if word in ORDERS[said]:
        says[word](0)
        return
    with pytest.raises(DeviceError) as error:
        says[word](0)
    assert error.value.status == SoundStatus.BAD_MSG


# Buffers that make no sense


@pytest.mark.parametrize(
    ("queue", "readable", "writable"),
    [
        (2, PcmTransfer(7).pack() + bytes(FRAME), 8),
        (2, PcmTransfer(1).pack() + bytes(FRAME), 8),
        (2, b"\0\0", 8),
        (2, b"", 8),
        (2, PcmTransfer(0).pack() + bytes(3), 8),
        (2, PcmTransfer(0).pack() + bytes(FRAME), 9),
        (3, PcmTransfer(0).pack(), FRAME + 8),
        (3, PcmTransfer(9).pack(), FRAME + 8),
        (3, PcmTransfer(1).pack() + b"x", FRAME + 8),
        (3, PcmTransfer(1).pack(), 3 + 8),
        (3, b"", 8),
    ],
)
def test_a_buffer_that_makes_no_sense_comes_back_at_once(
    card: Callable[..., Card], queue: int, readable: bytes, writable: int
) -> None:
    it = card()
    it.ready(0)
    it.ready(1)
    pending = it.driver.queue(queue).submit(readable, writable)
    assert len(pending.wait(10)) == 8
    status = pending.data[:8] if queue == TRANSMIT_QUEUE else pending.data[-8:]
    assert PcmStatus.unpack(status) == PcmStatus(SoundStatus.IO_ERR)


def test_a_stream_that_is_not_prepared_takes_no_buffers(card: Callable[..., Card]) -> None:
    it = card()
    for said in (False, True):
        if said:
            it.driver.set_params(0)
        assert it.driver.played(it.driver.play(0, SOUND[:PERIOD])).status == SoundStatus.IO_ERR
    it.driver.prepare(0)
    it.driver.release(0)
    assert it.driver.played(it.driver.play(0, SOUND[:PERIOD])).status == SoundStatus.IO_ERR


def test_an_end_that_fails_fails_the_buffers_at_their_time(card: Callable[..., Card], virtio: Virtio) -> None:
    class Broken(Sink):
        def write(self, data: bytes) -> None:
            raise OSError(f"no room for {len(data)} bytes")

    class Shut(Source):
        def open(self, pcm: PcmFormat) -> None:
            raise OSError(f"no {pcm}")

    it = card(Broken(), Shut())
    it.ready(0)
    buffers = it.play(*pieces(SOUND[: 2 * PERIOD]))
    it.driver.start(0)
    it.after(frames=479)
    assert done(*buffers) == [False, False]
    it.after(frames=481)
    assert [it.driver.played(buffer).status for buffer in buffers] == [SoundStatus.IO_ERR] * 2
    with pytest.raises(DeviceError) as error:
        it.ready(1)
    assert error.value.status == SoundStatus.IO_ERR
    assert virtio.errors
    virtio.errors.clear()
