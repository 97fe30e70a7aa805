"""Sound files, and sound cards: no machine here has one, so a stand-in for sounddevice takes its place.

Once it is the real one, with a file in place of the card.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import soundfile

from tests.support.front_end import until
from tests.support.killed_programs import served
from tests.support.sound import FRAME, OK, PERIOD, SOUND, Card, done, pieces
from vhost_user.device_types import find
from vhost_user.devices import Clock, PcmFormat, Sound, sound_card
from vhost_user.devices.library import MissingLibraryError
from vhost_user.devices.sound_card import CardSink, CardSource
from vhost_user.devices.sound_files import FileSink, FileSource
from vhost_user.frontend import SoundDriver
from vhost_user.spec.rtc import ClockType
from vhost_user.spec.sound import SampleFormat, SoundStatus
from vhost_user.testing.virtio import Virtio

# Files


@pytest.fixture
def card(virtio: Virtio) -> Callable[..., Card]:
    def made(*ends: Any) -> Card:
        clock = Clock(ClockType.MONOTONIC)
        clock.freeze()
        device = Sound(*ends, clock=clock)
        return Card(device, virtio.attach(device).drive(SoundDriver))

    return made


def close(virtio: Virtio) -> None:
    """The device is served no more."""
    for attached in virtio.devices:
        attached.disconnect()
        assert attached.daemon is not None
        attached.daemon.close()


DTYPES = {SampleFormat.S16: "int16", SampleFormat.S32: "int32", SampleFormat.FLOAT: "float32"}


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
@pytest.mark.parametrize("sample", DTYPES)
def test_what_is_played_is_in_the_file(
    card: Callable[..., Card], virtio: Virtio, tmp_path: Path, suffix: str, sample: SampleFormat
) -> None:
    path = tmp_path / f"played{suffix}"
    pcm = PcmFormat(44100, 2, sample)
    if (suffix, sample) == (".flac", SampleFormat.FLOAT):
        with pytest.raises(ValueError, match="no file of this kind has samples of FLOAT"):
            FileSink(path, pcm)
        return
    numbers = random.Random(5)
    sound = pcm.encode(numbers.uniform(-1, 1) for _ in range(2000))
    if (suffix, sample) == (".flac", SampleFormat.S32):  # it has 24 bits
        sound = b"".join(b"\0" + sound[at + 1 : at + 4] for at in range(0, len(sound), 4))
    it = card(FileSink(path, pcm))
    assert it.driver.streams[0].formats == 1 << sample
    size = len(sound) // 4
    for _ in range(2):  # one after the other
        it.ready(0, rate=44100, sample=sample, period_bytes=size, buffer_bytes=2 * size)
        buffers = it.play(*pieces(sound, size))
        it.driver.start(0)
        it.after(frames=48000)
        assert [it.driver.played(buffer) for buffer in buffers] == [OK] * 4
        it.driver.stop(0)
        it.driver.release(0)
    close(virtio)
    with soundfile.SoundFile(path) as file:
        assert (file.samplerate, file.channels) == (44100, 2)
        assert bytes(file.buffer_read(dtype=DTYPES[sample])) == 2 * sound


@pytest.mark.parametrize(("suffix", "loop"), [(".wav", False), (".flac", True)])
def test_the_guest_hears_a_file(card: Callable[..., Card], tmp_path: Path, suffix: str, loop: bool) -> None:
    path = tmp_path / f"speech{suffix}"
    sound = SOUND[: 700 * FRAME]
    with soundfile.SoundFile(path, "w", 48000, 2, "PCM_16") as file:
        file.buffer_write(sound, "int16")
    it = card(FileSource(path, loop=loop))
    for _ in range(2):
        it.ready()
        buffers = it.record(PERIOD, PERIOD, PERIOD, PERIOD, stream=0)
        it.driver.start(0)
        it.after(frames=4 * 480)
        heard = b"".join(it.driver.recorded(buffer)[0] for buffer in buffers)
        assert heard == ((3 * sound)[: 4 * PERIOD] if loop else sound.ljust(4 * PERIOD, b"\0"))
        it.driver.stop(0)
        it.driver.release(0)


def test_the_program_takes_files(tmp_path: Path) -> None:
    with soundfile.SoundFile(tmp_path / "in.wav", "w", 8000, 1, "PCM_24") as file:
        file.buffer_write(bytes(400), "int32")
    device = find("sound").make(
        output=f"{tmp_path}/out.wav", input=f"{tmp_path}/in.wav", rate=96000, channels=6
    )
    sink, source = (stream.end for stream in device.streams)
    assert isinstance(sink, FileSink)
    assert isinstance(source, FileSource)
    assert sink.pcm == PcmFormat(96000, 6)
    assert source.pcm == PcmFormat(8000, 1, SampleFormat.S32)
    for end in (sink, source):
        end.shutdown()
    assert soundfile.info(tmp_path / "out.wav").channels == 6


def test_a_file_that_is_there_is_kept(tmp_path: Path) -> None:
    for name in ("a.wav", "a-2.wav", "a-3.wav"):
        sink = FileSink(tmp_path / "a.wav")
        assert sink.path == tmp_path / name
        sink.write(name.encode()[:4] * 100)
        sink.shutdown()
    with soundfile.SoundFile(tmp_path / "a.wav") as file:
        assert bytes(file.buffer_read(dtype="int16")) == b"a.wa" * 100


def test_files_that_are_none_are_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("This is not sound.")
    with soundfile.SoundFile(tmp_path / "odd.wav", "w", 48001, 1) as file:
        file.buffer_write(bytes(4), "int16")
    for make, kind, message in (
        (lambda: FileSink(tmp_path / "no" / "where.wav"), OSError, "where.wav cannot be written"),
        (lambda: FileSink(tmp_path / "tone.mid"), ValueError, "tone.mid: no file of this kind"),
        (lambda: FileSource(tmp_path / "nothing.wav"), FileNotFoundError, "nothing.wav"),
        (lambda: FileSource(tmp_path), ValueError, "is not a file"),
        (lambda: FileSource(tmp_path / "text.wav"), ValueError, "text.wav is not a sound file"),
        (lambda: FileSource(tmp_path / "odd.wav"), ValueError, "odd.wav: 48001 frames per second"),
    ):
        with pytest.raises(kind, match=message):
            make()


def test_a_file_that_is_full_keeps_what_it_has(
    card: Callable[..., Card], virtio: Virtio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vhost_user.devices.sound_files.LIMIT", 3 * PERIOD)
    it = card(FileSink(tmp_path / "a.wav"))
    it.ready()
    buffers = it.play(*pieces(SOUND[: 5 * PERIOD]))
    it.driver.start(0)
    for _ in buffers:
        it.after(frames=480)
    assert [it.driver.played(buffer) for buffer in buffers] == [OK] * 5
    close(virtio)
    with soundfile.SoundFile(tmp_path / "a.wav") as file:
        assert bytes(file.buffer_read(dtype="int16")) == SOUND[: 3 * PERIOD]


# Cards


class PortAudio:
    """sounddevice as this project uses it, with a card whose time goes when a test says so."""

    class PortAudioError(Exception):
        pass

    class Stream:
        latency = 0.005

        def __init__(self, **options: Any) -> None:
            if options["device"] == "flaky" and options["samplerate"] == 44100:
                raise PortAudio.PortAudioError("Invalid sample rate")
            self.options = options
            self.running = False
            self.frame = options["channels"] * {"int16": 2, "float32": 4}[options["dtype"]]
            PortAudio.streams.append(self)

        def start(self) -> None:
            self.running = True

        def stop(self) -> None:
            self.running = False

        def close(self) -> None:
            PortAudio.streams.remove(self)

        def turn(self, frames: int, data: bytes = b"") -> bytes:
            """The card calls back, as PortAudio's thread does."""
            assert self.running
            buffer = bytearray(data or frames * self.frame)
            self.options["callback"](memoryview(buffer), frames, None, None)
            return bytes(buffer)

    streams: ClassVar[list[Stream]] = []
    RawOutputStream = RawInputStream = Stream

    @staticmethod
    def query_devices(device: str | None, kind: str) -> dict[str, Any]:
        if device == "nothing":
            raise ValueError(f"No {kind} device matching 'nothing'")
        return {f"max_{kind}_channels": 2}


@pytest.fixture
def port_audio(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[PortAudio]]:
    monkeypatch.setattr(sound_card, "library", lambda _module, extra: PortAudio if extra == "sound" else None)
    PortAudio.streams.clear()
    yield PortAudio
    assert not PortAudio.streams


def running(port_audio: type[PortAudio]) -> PortAudio.Stream:
    until(lambda: port_audio.streams and port_audio.streams[-1].running, "the card runs")
    return port_audio.streams[-1]


def test_the_time_of_a_card_is_that_of_its_callbacks(port_audio: type[PortAudio], virtio: Virtio) -> None:
    device = Sound(CardSink())
    it = Card(device, virtio.attach(device).drive(SoundDriver))
    assert it.driver.streams[0].channels_max == 2
    it.ready()
    buffers = it.play(*pieces(SOUND[: 12 * PERIOD]))
    assert not any(stream.running for stream in port_audio.streams)
    it.driver.start(0)
    stream = running(port_audio)
    assert {key: stream.options[key] for key in ("samplerate", "channels", "dtype", "device")} == {
        "samplerate": 48000, "channels": 2, "dtype": "int16", "device": None
    }  # fmt: skip
    heard = stream.turn(479)
    assert done(*buffers) == [False] * 12
    heard += stream.turn(1)
    status = it.driver.played(buffers[0])
    assert status.status == SoundStatus.OK
    assert status.latency_bytes >= 240 * FRAME  # that of the card at least
    for number in range(1, 12):
        heard += stream.turn(480)
        it.driver.played(buffers[number])
    assert heard == SOUND[: 12 * PERIOD]
    assert stream.turn(10) == bytes(10 * FRAME)  # nothing is left
    it.driver.stop(0)
    until(lambda: not stream.running, "the card stands")
    it.driver.release(0)
    until(lambda: not port_audio.streams, "it is closed")


def test_a_card_is_heard(port_audio: type[PortAudio], virtio: Virtio) -> None:
    device = Sound(CardSource("mic"))
    it = Card(device, virtio.attach(device).drive(SoundDriver))
    it.ready()
    buffers = it.record(PERIOD, PERIOD, stream=0)
    it.driver.start(0)
    stream = running(port_audio)
    stream.turn(480, SOUND[:PERIOD])
    assert it.driver.recorded(buffers[0])[0] == SOUND[:PERIOD]
    stream.turn(300, SOUND[PERIOD : PERIOD + 300 * FRAME])
    it.driver.stop(0)
    it.driver.release(0)
    sound, status = it.driver.recorded(buffers[1])
    assert sound == SOUND[PERIOD : PERIOD + 300 * FRAME]
    assert status.status == SoundStatus.OK


def test_a_card_that_fails_fails_the_buffers_and_the_next_stream_may_work(
    port_audio: type[PortAudio], virtio: Virtio
) -> None:
    device = Sound(CardSink("flaky"))
    it = Card(device, virtio.attach(device).drive(SoundDriver))
    it.ready(rate=44100)
    buffers = [it.driver.play(0, SOUND[:PERIOD]) for _ in range(3)]
    it.driver.start(0)
    assert {it.driver.played(buffer).status for buffer in buffers} == {SoundStatus.IO_ERR}
    it.driver.stop(0)
    it.driver.release(0)
    assert any("Invalid sample rate" in str(error) for error in virtio.errors)
    virtio.errors.clear()
    it.ready()
    buffers = it.play(SOUND[:PERIOD])
    it.driver.start(0)
    assert running(port_audio).turn(480) == SOUND[:PERIOD]
    assert it.driver.played(buffers[0]).status == SoundStatus.OK


@pytest.mark.usefixtures("port_audio")
def test_a_card_that_is_not_there_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="there is no sound card 'nothing' for output: No output device"):
        CardSink("nothing").setup()
    device = find("sound").make(backend="sounddevice", device="3")
    assert [stream.end._device for stream in device.streams] == [3, 3]
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(MissingLibraryError, match=r"pip install 'vhost-user\[sound\]'"):
        CardSink()


def test_the_library_itself_is_asked_for_the_card() -> None:
    """What of it can be tried on a machine without one."""
    sink = CardSink("no such card at all")
    with pytest.raises(OSError, match="there is no sound card 'no such card at all' for output"):
        sink.setup()


# Reads what the card plays no faster than a card would.
EARS = """
import sys, time
with open(sys.argv[1], "wb", buffering=0) as tape:
    while data := sys.stdin.buffer.read(1920):
        tape.write(data)
        time.sleep(0.01)
"""
ALSA = Path("/usr/share/alsa/alsa.conf")


def test_portaudio_itself_plays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ALSA has a card that is a file: sounddevice and PortAudio are the real ones."""
    ears, tape = tmp_path / "ears.py", tmp_path / "tape"
    ears.write_text(EARS)
    configuration = tmp_path / "asound.conf"
    card = f'type file; slave.pcm {{ type null }}; format raw; file "|exec {sys.executable} {ears} {tape}"'
    hint = 'hint { show on; description "a file" }'
    configuration.write_text(f"{ALSA.read_text()}\npcm.tape {{ {card}; {hint} }}\n")
    monkeypatch.setenv("ALSA_CONFIG_PATH", str(configuration))
    sound = bytes(random.Random(9).choices(range(1, 256), k=20 * PERIOD))

    def heard() -> bytes:
        return b"".join(frame for frame in pieces(tape.read_bytes(), FRAME) if any(frame))

    program = served(tmp_path, "sound", "--backend=sounddevice", "--device=tape", "--streams=out")
    with program, SoundDriver(str(tmp_path / "s")) as driver:
        driver.set_params(0)
        driver.prepare(0)
        buffers = [driver.play(0, part) for part in pieces(sound)]
        driver.start(0)
        assert {driver.played(buffer).status for buffer in buffers} == {SoundStatus.OK}

        def silence_and_all_is_heard() -> bool:  # ALSA has buffers of its own, which silence empties
            driver.played(driver.play(0, bytes(PERIOD)))
            return heard() == sound

        until(silence_and_all_is_heard, "all of it is heard")
        driver.stop(0)
        driver.release(0)
    assert "ERROR" not in program.log
