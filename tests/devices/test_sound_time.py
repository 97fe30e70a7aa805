"""What streams do as time goes by, and what is told of it, by a clock that stands until a test moves it."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.support.sound import FRAME, OK, PERIOD, SOUND, Card, done, pieces
from vhost_user.devices import Jack, PcmFormat, Playback, Recording, Sink, Sound, Source
from vhost_user.frontend import DeviceError, PeerTimeout, SoundDriver
from vhost_user.spec.sound import PcmFeature, PcmStatus, SampleFormat, SoundEvent, SoundEventType, SoundStatus
from vhost_user.testing.virtio import Virtio


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
