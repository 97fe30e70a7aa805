"""A sound card in a real guest: Linux's own driver (virtio_snd), aplay, arecord and amixer."""

from __future__ import annotations

import hashlib
import io
import random
import time
import wave
from pathlib import Path

import numpy as np
import pytest

from tests.support.front_end import until
from vhost_user.devices import Jack, PcmFormat, Playback, Recording, Sound
from vhost_user.devices.sound_format import LAYOUTS
from vhost_user.devices.sound_stream import StreamState
from vhost_user.testing.booting import BootGuest
from vhost_user.testing.guest import Guest
from vhost_user.testing.guest_drivers import locate_driver_kernel
from vhost_user.testing.guest_qemu import locate_qemu

pytestmark = pytest.mark.guest

PCM = PcmFormat()
PLAY = "aplay -q -D hw:0,0"
AT_EASE = "--buffer-size=96000 --period-size=6000"
"""Two seconds: a guest on a busy machine keeps up, and Linux does not give up waiting."""
ALSA = Path("/usr/share/alsa")


@pytest.fixture(params=[False, True], ids=["split", "packed"])
def packed(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def tone(hertz: float, seconds: float) -> bytes:
    """Both channels of it."""
    frames = np.arange(round(seconds * PCM.rate))
    samples = np.round(20000 * np.sin(2 * np.pi * hertz * frames / PCM.rate)).astype("<i2")
    return np.repeat(samples, PCM.channels).tobytes()


def wav(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(PCM.channels)
        file.setsampwidth(2)
        file.setframerate(PCM.rate)
        file.writeframes(data)
    return buffer.getvalue()


def boot(virtio_guest: BootGuest, device: Sound, **files: bytes) -> Guest:
    configuration = {str(path): path.read_bytes() for path in ALSA.rglob("*.conf")}
    guest = virtio_guest(
        device,
        kernel=locate_driver_kernel(),
        qemu=locate_qemu(),
        programs=("aplay", "arecord", "amixer"),
        files={**configuration, **{f"/{name}": content for name, content in files.items()}},
    )
    appears(guest)
    return guest


def appears(guest: Guest) -> None:
    """The guest learns of its card by and by."""
    until(lambda: guest.run("ls /dev/snd 2>/dev/null || true").count("pcmC0D0p"), "the card appears")


def peak(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples))
    return float(spectrum.argmax() * PCM.rate / len(samples))


def test_the_guest_plays_440_hertz_and_hears_a_file_bit_by_bit(virtio_guest: BootGuest, packed: bool) -> None:
    recording = Recording()
    heard = random.Random(440).randbytes(PCM.frame * 12000)
    words = Playback(heard)
    words.formats, words.channels = tuple(LAYOUTS), (1, 8)  # Linux makes its buffers for the largest frames
    device = Sound(recording, words)
    device.packed = packed
    sound = tone(440, 0.5)
    guest = boot(virtio_guest, device, **{"tone.wav": wav(sound)})
    assert "playback 1 : capture 1" in guest.run("cat /proc/asound/pcm")
    guest.run(f"{PLAY} {AT_EASE} /tone.wav")
    take = recording.last
    assert take.pcm == PCM
    assert bytes(take.data[: len(sound)]) == sound
    for channel in take.samples[: PCM.rate // 2].T:
        assert peak(channel) == 440
    capture = f"arecord -q -D hw:0,0 {AT_EASE} -t raw -f S16_LE -r 48000 -c 2 --samples=12000"
    wanted = hashlib.md5(heard).hexdigest()
    for _ in range(2):
        assert guest.run(f"{capture} /heard && head -c {len(heard)} /heard | md5sum").split()[0] == wanted


def test_formats_and_rates_are_what_the_guest_chooses(virtio_guest: BootGuest) -> None:
    recording = Recording()
    guest = boot(virtio_guest, Sound(recording))
    for option, rate, channels in (("S32_LE", 96000, 1), ("FLOAT_LE", 8000, 4), ("U8", 44100, 2)):
        guest.run(
            f"head -c 40000 /dev/urandom >/noise; {PLAY} -t raw -f {option} -r {rate} -c {channels} /noise"
        )
        pcm = recording.last.pcm
        assert (pcm.rate, pcm.channels, f"{pcm.sample.name}") == (rate, channels, option.removesuffix("_LE"))


def test_jacks_are_seen_by_the_guest(virtio_guest: BootGuest) -> None:
    headphone, mic = Jack("headphone"), Jack("mic", connected=False)
    guest = boot(virtio_guest, Sound(jacks=[headphone, mic]))

    def plugged(name: str) -> bool:
        said = guest.run(f"amixer -c 0 cget iface=CARD,name='{name} Jack'")
        assert ("values=on" in said) != ("values=off" in said)
        return "values=on" in said

    assert plugged("Headphone")
    assert not plugged("Mic")
    headphone.unplug()
    mic.plug()
    until(lambda: plugged("Mic") and not plugged("Headphone"), "the guest is told")


def test_C054_a_pause_loses_no_sound(virtio_guest: BootGuest, packed: bool) -> None:
    recording = Recording()
    device = Sound(recording)
    device.packed = packed
    sound = tone(440, 1.0)
    guest = boot(virtio_guest, device, **{"tone.wav": wav(sound)})
    playing = guest.start(f"{PLAY} {AT_EASE} /tone.wav")
    for number in (1, 2, 3):
        recording.wait(0.2 * number)
        guest.qmp("stop")
        until(lambda: not device.streams[0].buffers, "the buffers went back")
        before = len(recording.last.data)
        time.sleep(0.1)
        assert len(recording.last.data) == before
        guest.qmp("cont")
    assert playing.wait().status == 0
    assert bytes(recording.last.data[: len(sound)]) == sound


def test_C134_a_guest_that_boots_again_while_it_plays_begins_anew(virtio_guest: BootGuest) -> None:
    recording = Recording()
    device = Sound(recording)
    guest = boot(virtio_guest, device, **{"tone.wav": wav(tone(440, 2.5))})
    guest.run(f"{PLAY} {AT_EASE} /tone.wav </dev/null >/dev/null 2>&1 &")
    recording.wait(0.1)
    guest.reboot()
    assert device.streams[0].state is StreamState.IDLE
    recording.clear()
    appears(guest)
    guest.run(f"{PLAY} {AT_EASE} /tone.wav")  # more than the buffer of two seconds: it is filled again
    assert peak(recording.samples[: 5 * PCM.rate // 2, 0]) == 440
