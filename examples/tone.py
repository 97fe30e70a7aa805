"""A guest plays concert pitch, and hears what the host says. A test: run it with pytest."""

import math
import struct

import numpy as np

from vhost_user.devices import Playback, Recording, Sound
from vhost_user.frontend import SoundDriver
from vhost_user.testing.virtio import Virtio

RATE = 48000
PERIOD = 480 * 4  # bytes: 10 ms, two channels of 16 bits


def concert_pitch(seconds: float) -> bytes:
    """What is tested here: 440 Hz, in both channels."""
    waves = (math.sin(2 * math.pi * 440 * frame / RATE) for frame in range(int(seconds * RATE)))
    return b"".join(struct.pack("<hh", *[round(20000 * wave)] * 2) for wave in waves)


def test_the_guest_is_in_tune(virtio: Virtio) -> None:
    recording, words = Recording(), Playback(b"hear " * PERIOD)
    sound = virtio.attach(Sound(recording, words)).drive(SoundDriver)  # a real guest would do just as well
    for stream in (0, 1):
        sound.set_params(stream, rate=RATE)
        sound.prepare(stream)
    tone = concert_pitch(0.2)
    periods = [sound.play(0, tone[at : at + PERIOD]) for at in range(0, len(tone), PERIOD)]
    heard = sound.record(1, PERIOD)
    for stream in (0, 1):
        sound.start(stream)

    sound.played(periods[-1])
    left = recording.samples[:, 0]
    spectrum = np.abs(np.fft.rfft(left))
    assert spectrum.argmax() * RATE / len(left) == 440
    assert sound.recorded(heard)[0] == b"hear " * (PERIOD // 5)
