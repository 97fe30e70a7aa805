"""What plays and records inside this process: samples of every format, tones, recordings; and the options."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import numpy as np
import pytest

from tests.support.sound import Card
from vhost_user.device_types import OptionError, find
from vhost_user.devices import Jack, PcmFormat, Playback, Recording, Sink, Sound, Source, Tone
from vhost_user.devices.sound_format import LAYOUTS
from vhost_user.devices.sound_stream import FEATURES
from vhost_user.spec.sound import PcmFeature, SampleFormat


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
