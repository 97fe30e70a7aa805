"""The sound device, driven in this process, by a clock that stands until a test moves it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.front_end import FrontEnd, until
from tests.support.sound import FRAME, OK, PERIOD, SOUND, Card, done, pieces
from vhost_user.device_types import OptionError, find
from vhost_user.devices import Clock, Jack, PcmFormat, Playback, Recording, Sink, Sound, Source, Tone
from vhost_user.devices.sound_format import LAYOUTS
from vhost_user.devices.sound_stream import FEATURES, StreamState
from vhost_user.frontend import DeviceError, PeerTimeout, SoundDriver
from vhost_user.protocol.listener import connect
from vhost_user.spec.features import ProtocolFeature
from vhost_user.spec.rtc import ClockType
from vhost_user.spec.sound import (
    FRAME_RATES,
    RECEIVE_QUEUE,
    TRANSMIT_QUEUE,
    ChannelPosition,
    Direction,
    JackFeature,
    PcmFeature,
    PcmHeader,
    PcmInfo,
    PcmSetParams,
    PcmStatus,
    PcmTransfer,
    SampleFormat,
    SoundEvent,
    SoundEventType,
    SoundHeader,
    SoundQuery,
    SoundRequest,
    SoundStatus,
)
from vhost_user.testing.guest_backend import BackendProcess
from vhost_user.testing.virtio import Virtio

COMMAND = Path(sys.executable).parent / "vhost-user"


@pytest.fixture(params=[False, True], ids=["split", "packed"])
def packed(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def clock() -> Clock:
    standing = Clock(ClockType.MONOTONIC)
    standing.freeze()
    return standing


@pytest.fixture
def card(virtio: Virtio, packed: bool, clock: Clock) -> Callable[..., Card]:
    def made(*ends: Any, **options: Any) -> Card:
        device = Sound(*ends, clock=clock, **options)
        return Card(device, virtio.attach(device, packed=packed).drive(SoundDriver))

    return made


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


PARAMETERS = {
    "buffer_bytes": 7680,
    "period_bytes": 1920,
    "features": 0,
    "channels": 2,
    "format": 5,
    "rate": 7,
}


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


# Time


def test_a_buffer_is_over_when_it_has_been_played_and_not_before(card: Callable[..., Card]) -> None:
    recording = Recording()
    it = card(recording)
    it.ready()
    buffers = it.play(*pieces(SOUND[: 4 * PERIOD]))
    it.after(frames=48000)
    assert done(*buffers) == [False] * 4  # it has not been started
    it.driver.start(0)
    it.after(frames=479)
    assert done(*buffers) == [False] * 4
    assert recording.last.data == SOUND[: 479 * FRAME]
    it.after(frames=1)
    assert it.driver.played(buffers[0]) == OK
    assert done(*buffers[1:]) == [False] * 3
    it.after(frames=480 + 240)
    assert done(*buffers[1:]) == [True, False, False]
    it.after(frames=48000)  # much later: all are over
    assert [it.driver.played(buffer) for buffer in buffers[1:]] == [OK] * 3
    late = it.play(*pieces(SOUND[4 * PERIOD : 6 * PERIOD]))  # time stood while there was nothing to play
    it.after(frames=479)
    assert done(*late) == [False, False]
    it.after(frames=481)
    assert [it.driver.played(buffer) for buffer in late] == [OK] * 2
    assert recording.last.data == SOUND[: 6 * PERIOD]


@pytest.mark.parametrize(
    ("rate", "channels", "sample"),
    [(44100, 1, SampleFormat.U8), (11025, 3, SampleFormat.S24_3), (192000, 8, SampleFormat.FLOAT64)],
)
def test_frames_of_every_kind_take_their_time(
    card: Callable[..., Card], rate: int, channels: int, sample: SampleFormat
) -> None:
    recording = Recording()
    it = card(recording)
    pcm = PcmFormat(rate, channels, sample)
    size = 100 * pcm.frame
    it.ready(rate=rate, channels=channels, sample=sample, period_bytes=size, buffer_bytes=2 * size)
    buffers = it.play(bytes(size), bytes(size))
    it.driver.start(0)
    started = it.device.clock.now()
    for number, buffer in enumerate(buffers, 1):
        exactly = -(-number * 100 * 1_000_000_000 // rate)
        it.device.clock.travel(started + exactly - 1)
        assert done(buffer) == [False]
        it.device.clock.travel(started + exactly)
        assert it.driver.played(buffer) == OK
    assert recording.last.pcm == pcm


def test_a_clock_that_runs_is_followed_by_timers(virtio: Virtio) -> None:
    recording = Recording()
    driver = virtio.attach(Sound(recording, Playback(SOUND))).drive(SoundDriver)
    for stream in (0, 1):
        driver.set_params(stream)
        driver.prepare(stream)
    played = [driver.play(0, part) for part in pieces(SOUND[: 5 * PERIOD])]
    recorded = [driver.record(1, PERIOD) for _ in range(5)]
    before = time.monotonic()
    driver.start(0)
    driver.start(1)
    for number, (first, second) in enumerate(zip(played, recorded, strict=True), 1):
        assert driver.played(first) == OK
        assert driver.recorded(second) == (SOUND[(number - 1) * PERIOD : number * PERIOD], OK)
        assert time.monotonic() - before >= number * 0.01
    assert recording.wait(0.05).data == SOUND[: 5 * PERIOD]


def test_an_input_fills_buffers_as_time_goes_by(card: Callable[..., Card]) -> None:
    it = card(Sink(), Playback(SOUND))
    it.ready(1)
    buffers = it.record(PERIOD, PERIOD, 100 * FRAME)
    it.driver.start(1)
    it.after(frames=479)
    assert done(*buffers) == [False] * 3
    it.after(frames=1 + 480 + 100)
    sound = [it.driver.recorded(buffer) for buffer in buffers]
    assert b"".join(part for part, _ in sound) == SOUND[: 2 * PERIOD + 100 * FRAME]
    assert {status for _, status in sound} == {OK}


def test_what_a_source_does_not_have_is_silence(card: Callable[..., Card]) -> None:
    samples = PcmFormat(48000, 1, SampleFormat.U8)
    it = card(Playback(b"\x10\x20\x30", samples), Playback(SOUND[:8], loop=True), Source())
    for stream, (pcm, heard) in enumerate(
        [(samples, b"\x10\x20\x30\x80\x80"), (PcmFormat(), (SOUND[:8] * 3)[:20]), (PcmFormat(), bytes(20))]
    ):
        parameters = {"channels": pcm.channels, "sample": pcm.sample}
        for _ in range(2):  # it begins anew each time
            it.ready(stream, period_bytes=5 * pcm.frame, buffer_bytes=10 * pcm.frame, **parameters)
            (buffer,) = it.record(5 * pcm.frame, stream=stream)
            it.driver.start(stream)
            it.after(frames=5)
            assert it.driver.recorded(buffer) == (heard, OK)
            it.driver.stop(stream)
            it.driver.release(stream)


def test_stop_keeps_the_buffers_and_release_gives_them_back_first(card: Callable[..., Card]) -> None:
    recording = Recording()
    it = card(recording, Playback(SOUND))
    for stream in (0, 1):
        it.ready(stream)
    played, recorded = it.play(*pieces(SOUND[: 3 * PERIOD])), it.record(PERIOD, PERIOD, PERIOD)
    for stream in (0, 1):
        it.driver.start(stream)
    it.after(frames=480 + 100)
    for stream in (0, 1):
        it.driver.stop(stream)
    it.after(frames=48000)
    assert done(*played, *recorded) == [True, False, False] * 2
    for stream in (0, 1):
        it.driver.start(stream)
    it.after(frames=379)
    assert done(*played, *recorded) == [True, False, False] * 2
    it.after(frames=1 + 20)
    assert done(*played, *recorded) == [True, True, False] * 2
    for stream in (0, 1):
        it.driver.stop(stream)
        it.driver.release(stream)  # whose answer comes after the buffers
    assert done(*played, *recorded) == [True] * 6
    assert recording.last.data == SOUND[: 2 * PERIOD + 20 * FRAME]
    assert [it.driver.played(buffer) for buffer in played] == [OK] * 3
    sound = b"".join(it.driver.recorded(buffer)[0] for buffer in recorded)
    assert sound == SOUND[: 2 * PERIOD + 20 * FRAME]


def test_release_finds_buffers_that_are_still_in_the_ring(card: Callable[..., Card]) -> None:
    it = card()
    it.ready()
    for _ in range(50):
        buffers = [it.driver.play(0, SOUND[:PERIOD]) for _ in range(20)]
        it.driver.release(0)
        assert done(*buffers) == [True] * 20
        for buffer in buffers:
            buffer.release()
        it.driver.prepare(0)


def test_latency_is_what_an_end_has_before_its_time(card: Callable[..., Card]) -> None:
    class Slow(Recording):
        lead = 0.015

        def latency(self) -> float:
            return 0.001

    slow = Slow()
    it = card(slow)
    it.ready()
    buffers = it.play(*pieces(SOUND[: 4 * PERIOD]))
    it.driver.start(0)
    assert slow.last.data == SOUND[: 720 * FRAME]
    it.after(frames=480)
    assert slow.last.data == SOUND[: 1200 * FRAME]
    assert it.driver.played(buffers[0]) == PcmStatus(SoundStatus.OK, (720 + 48) * FRAME)
    it.after(frames=3 * 480)
    assert it.driver.played(buffers[3]) == PcmStatus(SoundStatus.OK, 48 * FRAME)
    assert slow.last.data == SOUND[: 4 * PERIOD]


# Events


def test_an_xrun_is_told_once_when_no_buffer_has_come_for_a_period(card: Callable[..., Card]) -> None:
    it = card()
    it.ready(features=PcmFeature.EVT_XRUNS)
    it.driver.start(0)
    it.after(frames=48000)
    for _ in range(2):
        (buffer,) = it.play(SOUND[:PERIOD])
        it.after(frames=480)
        it.driver.played(buffer)
        it.after(frames=479)
        with pytest.raises(PeerTimeout):
            it.driver.wait_event(timeout=0.02)
        it.after(frames=1)
        assert it.driver.wait_event() == SoundEvent(SoundEventType.PCM_XRUN, 0)
        it.after(frames=48000)
        with pytest.raises(PeerTimeout):
            it.driver.wait_event(timeout=0.02)
    (buffer,) = it.play(SOUND[:PERIOD])
    it.after(frames=480 + 200)
    it.driver.stop(0)
    it.after(frames=48000)
    with pytest.raises(PeerTimeout):
        it.driver.wait_event(timeout=0.02)


def test_an_xrun_is_not_told_to_a_driver_that_did_not_ask(card: Callable[..., Card]) -> None:
    it = card()
    it.ready()
    it.driver.start(0)
    it.play(SOUND[:PERIOD])
    it.after(frames=480)
    it.after(frames=48000)
    with pytest.raises(PeerTimeout):
        it.driver.wait_event(timeout=0.02)


def test_periods_are_told_to_a_driver_that_asked(card: Callable[..., Card]) -> None:
    it = card()
    it.ready(features=PcmFeature.EVT_SHMEM_PERIODS)
    it.play(SOUND[: 10 * PERIOD])
    it.driver.start(0)
    for _ in range(5):
        it.after(frames=479)
        with pytest.raises(PeerTimeout):
            it.driver.wait_event(timeout=0.02)
        it.after(frames=1)
        assert it.driver.wait_event() == SoundEvent(SoundEventType.PCM_PERIOD_ELAPSED, 0)


def test_jacks_are_plugged_and_unplugged(card: Callable[..., Card]) -> None:
    headphone, mic = Jack("headphone"), Jack("mic", connected=False)
    it = card(jacks=[headphone, mic])
    mic.plug()
    assert it.driver.wait_event() == SoundEvent(SoundEventType.JACK_CONNECTED, 1)
    headphone.unplug()
    headphone.unplug()
    assert it.driver.wait_event() == SoundEvent(SoundEventType.JACK_DISCONNECTED, 0)
    with pytest.raises(PeerTimeout):
        it.driver.wait_event(timeout=0.02)
    assert not headphone.connected


def test_jacks_are_mapped_where_that_is_possible(card: Callable[..., Card]) -> None:
    fixed, free = Jack("line-out"), Jack("speaker", remap=True)
    driver = card(jacks=[fixed, free]).driver
    driver.remap_jack(1, 3, 7)
    assert (free.association, free.sequence) == (3, 7)
    assert free.info().hda_reg_defconf & 0xFF == 0x37
    for jack, association, status in ((0, 1, SoundStatus.NOT_SUPP), (1, 16, SoundStatus.BAD_MSG)):
        with pytest.raises(DeviceError) as error:
            driver.remap_jack(jack, association, 0)
        assert error.value.status == status
    assert (free.association, free.sequence) == (3, 7)


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


# Stops, resets, other programs


def test_C054_a_stop_of_the_queues_is_answered_at_once_and_sound_goes_on_where_it_was(
    card: Callable[..., Card],
) -> None:
    recording = Recording()
    it = card(recording, Playback(SOUND))
    for stream in (0, 1):
        it.ready(stream)
    played, recorded = it.play(*pieces(SOUND[: 6 * PERIOD])), it.record(*[PERIOD] * 6)
    for stream in (0, 1):
        it.driver.start(stream)
    frames = 0
    for step in (100, 500, 80, 480, 700):
        it.after(frames=step)
        frames += step
        for queue in (TRANSMIT_QUEUE, RECEIVE_QUEUE):
            it.driver.stop_queue(queue)
        it.after(frames=48000)  # nothing is heard while the machine stands
        for queue in (TRANSMIT_QUEUE, RECEIVE_QUEUE):
            it.driver.start_queue(queue)
            it.driver.frontend.set_vring_enable(queue, True)
        for stream in (0, 1):
            it.has(6 - frames // 480, stream)
        assert done(*played) == done(*recorded) == [number < frames // 480 for number in range(6)]
        assert recording.last.data == SOUND[: frames * FRAME]
    it.after(frames=6 * 480 - frames - 1)
    assert done(*played) == done(*recorded) == [True] * 5 + [False]
    it.after(frames=1)
    assert [it.driver.played(buffer) for buffer in played] == [OK] * 6
    assert b"".join(it.driver.recorded(buffer)[0] for buffer in recorded) == SOUND[: 6 * PERIOD]
    assert len(recording.takes) == 1
    assert recording.last.data == SOUND[: 6 * PERIOD]


def test_C054_a_buffer_that_another_stream_overtook_is_not_lost(card: Callable[..., Card]) -> None:
    """A ring cannot keep what is older than something that was used: it is played early."""
    slow, quick = Recording(), Recording()
    it = card(slow, quick)
    for stream in (0, 1):
        it.ready(stream)
    slowly = it.play(SOUND[: 5 * PERIOD])
    quickly = it.play(*pieces(SOUND[: 2 * PERIOD]), stream=1)
    slowly += it.play(SOUND[5 * PERIOD : 6 * PERIOD])
    for stream in (0, 1):
        it.driver.start(stream)
    it.after(frames=500)
    assert done(*slowly, *quickly) == [False, False, True, False]
    it.driver.stop_queue(TRANSMIT_QUEUE)
    assert done(*slowly, *quickly) == [True, False, True, False]
    assert it.driver.played(slowly[0]) == OK
    assert slow.last.data == SOUND[: 5 * PERIOD]
    it.driver.start_queue(TRANSMIT_QUEUE)
    it.driver.frontend.set_vring_enable(TRANSMIT_QUEUE, True)
    it.has(1, 0)
    it.has(1, 1)
    it.after(frames=480)
    assert it.driver.played(slowly[1]) == OK
    assert it.driver.played(quickly[1]) == OK
    assert slow.last.data == SOUND[: 6 * PERIOD]
    assert quick.last.data == SOUND[: 2 * PERIOD]


def test_C075_C134_streams_end_with_their_driver(virtio: Virtio, packed: bool, clock: Clock) -> None:
    recording = Recording()
    device = Sound(recording, Tone(1000), clock=clock)
    attached = virtio.attach(device, packed=packed)
    for reset in (True, False, True):
        it = Card(device, attached.drive(SoundDriver))
        assert {stream.state for stream in device.streams} == {StreamState.IDLE}
        it.ready()
        it.play(*pieces(SOUND[: 3 * PERIOD]))
        it.driver.start(0)
        it.after(frames=500)
        if reset:
            it.driver.frontend.reset_device(need_reply=True)
            assert device.streams[0].state is StreamState.IDLE
        attached.disconnect()
        until(lambda: device.streams[0].state is StreamState.IDLE, "the session ended")
        it.after(frames=48000)
        assert recording.last.data == SOUND[: 500 * FRAME]
    assert len(recording.takes) == 3


def test_C124_a_stream_goes_along_in_the_middle_of_a_buffer(virtio: Virtio, packed: bool) -> None:
    clocks = [Clock(ClockType.MONOTONIC) for _ in range(2)]
    for each in clocks:
        each.freeze()
    recordings = [Recording(), Recording()]
    source, target = (
        virtio.attach(Sound(recording, jacks=[Jack("mic", remap=True)], clock=clock), packed=packed)
        for recording, clock in zip(recordings, clocks, strict=True)
    )
    it = Card(source.backend, source.drive(SoundDriver))  # type: ignore[arg-type]
    it.driver.remap_jack(0, 4, 2)
    it.ready()
    it.play(SOUND[:PERIOD], SOUND[PERIOD : 2 * PERIOD])
    it.driver.start(0)
    it.after(frames=480 + 100)
    for queue in range(4):
        it.driver.stop_queue(queue)
    target.load_state(source.save_state())
    moved = Card(target.backend, target.drive(SoundDriver))  # type: ignore[arg-type]
    assert moved.device.jacks[0].association == 4
    (buffer,) = moved.play(SOUND[PERIOD : 2 * PERIOD])
    moved.after(frames=379)
    assert done(buffer) == [False]
    moved.after(frames=1)
    assert moved.driver.played(buffer) == OK
    assert recordings[0].last.data + recordings[1].last.data == SOUND[: 2 * PERIOD]
    moved.driver.stop(0)
    moved.driver.release(0)


GOOD = [3, 1, 48000, 2, 5, 7680, 1920, 0, 400, 400]


@pytest.mark.parametrize(
    "state",
    [
        None,
        [],
        {"streams": [], "jacks": []},
        {"streams": [GOOD], "jacks": [[1, 2]]},
        {"streams": [GOOD[:9]], "jacks": []},
        {"streams": [[True, *GOOD[1:]]], "jacks": []},
        {"streams": [[9, *GOOD[1:]]], "jacks": []},
        {"streams": [[*GOOD[:2], 48001, *GOOD[3:]]], "jacks": []},
        {"streams": [[*GOOD[:3], 99, *GOOD[4:]]], "jacks": []},
        {"streams": [[*GOOD[:4], 0, *GOOD[5:]]], "jacks": []},
        {"streams": [[*GOOD[:4], 77, *GOOD[5:]]], "jacks": []},
        {"streams": [[*GOOD[:6], 1919, *GOOD[7:]]], "jacks": []},
        {"streams": [[*GOOD[:8], 1 << 40, 400]], "jacks": []},
        {"streams": [[*GOOD[:8], 400, -4]], "jacks": []},
        {"streams": [[*GOOD[:8], 401, 400]], "jacks": []},
    ],
)
def test_C125_a_state_that_is_none_is_refused(state: object) -> None:
    device = Sound(Recording())
    with pytest.raises(ValueError):
        device.load_state(state, 1)
    device.load_state({"streams": [GOOD], "jacks": []}, 1)


def test_C134_a_program_that_was_killed_gives_the_buffers_back_until_the_stream_begins_anew(
    tmp_path: Path,
) -> None:
    path = tmp_path / "s"
    words = ["serve", "sound", f"--socket-path={path}", "--backend=null"]
    program = BackendProcess([COMMAND, *words], path, tmp_path / "log", announcement="listening")
    front: FrontEnd | None = None
    buffer = PcmTransfer(0).pack() + bytes(PERIOD)

    def say(code: SoundRequest) -> int:
        assert front is not None
        return SoundHeader.unpack(front.request(0, PcmHeader(code, 0).pack(), 4)).code

    def begin() -> None:
        assert front is not None
        parameters = PcmSetParams(SoundRequest.PCM_SET_PARAMS, 0, **PARAMETERS)
        assert front.request(0, parameters.pack(), 4) == SoundHeader(SoundStatus.OK).pack()
        for code in (SoundRequest.PCM_PREPARE, SoundRequest.PCM_START):
            assert say(code) == SoundStatus.OK

    try:
        for life in range(3):
            program.start()
            before, front = front, FrontEnd(connect(path, timeout=10))
            if before is not None:
                front.memory.close()
                front.memory, front.rings = before.memory, before.rings
            front.negotiate()
            front.share_memory()
            for queue in range(4):
                front.start_ring(queue, base=front.rings[queue].used_index if life else 0)
            if life:
                # At their pace, so that the guest is not kept busy; and nothing is begun in the middle.
                began = time.monotonic()
                for _ in range(3):
                    status = PcmStatus.unpack(front.request(2, buffer, 8))
                    assert status.status == SoundStatus.IO_ERR
                assert time.monotonic() - began >= 0.03
                assert say(SoundRequest.PCM_START) == SoundStatus.IO_ERR
                assert say(SoundRequest.PCM_STOP) == SoundStatus.OK
                front.post(2, buffer, 8)
                assert say(SoundRequest.PCM_RELEASE) == SoundStatus.OK
                assert front.collect(2)[1] == 8
                assert say(SoundRequest.PCM_PREPARE) == SoundStatus.IO_ERR
            begin()
            assert PcmStatus.unpack(front.request(2, buffer, 8)).status == SoundStatus.OK
            program.kill()
            front.connection.close()
    finally:
        program.kill()
        if front is not None:
            front.close()


def test_C131_a_guest_that_boots_again_without_a_reset_finds_streams_as_new(
    virtio: Virtio, clock: Clock
) -> None:
    """As under QEMU 7.2: the rings stop, and begin anew."""
    device = Sound(clock=clock)
    attached = virtio.attach(device)
    attached.disconnect()
    front = FrontEnd(connect(attached.socket, timeout=10))
    try:
        front.negotiate(protocol_features=ProtocolFeature.CONFIG | ProtocolFeature.REPLY_ACK)
        front.share_memory()
        for _ in range(3):
            for queue in range(4):
                front.rings.pop(queue, None)
                front.start_ring(queue)
            parameters = PcmSetParams(SoundRequest.PCM_SET_PARAMS, 0, **PARAMETERS)
            assert front.request(0, parameters.pack(), 4) == SoundHeader(SoundStatus.OK).pack()
            for code in (SoundRequest.PCM_PREPARE, SoundRequest.PCM_START):
                assert front.request(0, PcmHeader(code, 0).pack(), 4) == SoundHeader(SoundStatus.OK).pack()
            front.post(2, PcmTransfer(0).pack() + bytes(PERIOD), 8)
            until(lambda: len(device.streams[0].buffers) == 1, "the buffer is there")
            for queue in range(4):
                front.stop_ring(queue)
    finally:
        front.close()


# Models, formats


@pytest.mark.parametrize("sample", LAYOUTS)
def test_samples_of_every_format_are_numbers(sample: SampleFormat) -> None:
    pcm = PcmFormat(48000, 2, sample)
    values = [0.0, 1.0, -1.0, 0.5, -0.25, 0.125]
    data = pcm.encode([*values, 7.0, -7.0])
    assert len(data) == 4 * pcm.frame
    decoded = pcm.decode(data)
    assert decoded.shape == (4, 2)
    assert np.abs(decoded.ravel() - [*values, 1.0, -1.0]).max() <= 1 / 64
    assert not pcm.decode(pcm.silence(3)).any()
    assert len(pcm.silence(3)) == 3 * pcm.frame


@pytest.mark.parametrize("sample", LAYOUTS)
def test_a_tone_is_a_tone_in_every_format(card: Callable[..., Card], sample: SampleFormat) -> None:
    it = card(Tone(1000.0, volume=0.8))
    pcm = PcmFormat(8000, 2, sample)
    size = 400 * pcm.frame
    it.ready(0, rate=8000, sample=sample, period_bytes=size, buffer_bytes=2 * size)
    buffers = it.record(size, size, stream=0)
    it.driver.start(0)
    it.device.clock.travel(timedelta(milliseconds=100))
    samples = pcm.decode(b"".join(it.driver.recorded(buffer)[0] for buffer in buffers))
    for channel in samples.T:
        spectrum = np.abs(np.fft.rfft(channel))
        assert spectrum.argmax() * 8000 / len(channel) == 1000
        assert 0.78 <= channel.max() <= 0.82


def test_a_recording_has_takes_and_a_limit() -> None:
    recording = Recording(limit=3000)
    pcm = PcmFormat(8000, 1, SampleFormat.S8)
    for take in range(3):
        recording.open(pcm)
        recording.open(pcm)
        recording.write(bytes([take]) * 400)
        recording.write(bytes([take]) * 400)
    assert [len(take.data) for take in recording.takes] == [800, 800]
    assert recording.last.seconds == 0.1
    with pytest.raises(TimeoutError):
        recording.wait(1.0, timeout=0)
    recording.clear()
    recording.write(b"\7" * 8)
    assert recording.samples.shape == (8, 1)


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: Sound(object()), TypeError, "is not a sink or a source"),  # type: ignore[arg-type]
        (lambda: [Sound(jacks=[jack]) for jack in [Jack()] * 2], ValueError, "belongs to a device already"),
        (lambda: Jack("usb"), ValueError, "'usb' is not a jack"),  # type: ignore[arg-type]
        (lambda: PcmFormat(48001), ValueError, "48001 frames per second"),
        (lambda: PcmFormat(channels=19), ValueError, "there must be 1 to 18"),
        (lambda: PcmFormat(sample=SampleFormat.DSD_U8), ValueError, "are not served"),
        (lambda: Tone(0), ValueError, "a tone of 0 Hz"),
        (lambda: Playback(b"123"), ValueError, "are not whole frames of 4"),
        (lambda: find("sound").make(streams="out,up"), OptionError, "'up' is not a stream"),
        (lambda: find("sound").make(jacks="mic,usb"), OptionError, "'usb' is not a jack"),
        (lambda: find("sound").make(backend="file"), OptionError, "needs --output or --input"),
        (lambda: find("sound").make(backend="null", output="x.wav"), OptionError, "exclude --backend=null"),
        (lambda: find("sound").make(device="USB"), OptionError, "it needs --backend=sounddevice"),
        (
            lambda: find("sound").make(streams="out,out", output="/tmp/x.wav"),
            OptionError,
            "--streams says 2 times 'out'",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(
    make: Callable[[], object], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        make()


def test_the_options_say_what_there_is() -> None:
    device = find("sound").make(streams="out,out,in", jacks="mic,headphone")
    assert [stream.direction for stream in device.streams] == [0, 0, 1]
    assert [jack.kind for jack in device.jacks] == ["headphone", "mic"]
    assert {type(stream.end) for stream in device.streams} == {Sink, Source}
    assert FEATURES & ~int(PcmFeature.EVT_XRUNS | PcmFeature.EVT_SHMEM_PERIODS) == 0
