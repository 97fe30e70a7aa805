"""Sound files as ends of a sound device: WAV, FLAC and what else soundfile knows (extra ``sound``).

Sound(FileSink("played.flac"), FileSource("speech.wav"))
"""

from __future__ import annotations

import itertools
import logging
import os
import stat
from pathlib import Path
from typing import Any

from vhost_user.devices.library import library
from vhost_user.devices.sound_ends import Sink, SoundEnd, Source
from vhost_user.devices.sound_format import PcmFormat
from vhost_user.protocol.limited_log import LimitedLog
from vhost_user.spec.sound import SampleFormat

_report = LimitedLog(logging.getLogger(__name__))

LIMIT = (1 << 32) - (1 << 20)
"""Bytes of sound that a file gets: a WAV file has no room for more."""

_TYPES: dict[SampleFormat, str] = {
    SampleFormat.S16: "int16",
    SampleFormat.S32: "int32",
    SampleFormat.FLOAT: "float32",
    SampleFormat.FLOAT64: "float64",
}
"""What soundfile moves without a change."""
_WRITTEN_AS: dict[SampleFormat, tuple[str, ...]] = {
    SampleFormat.S16: ("PCM_16",),
    SampleFormat.S32: ("PCM_32", "PCM_24"),
    SampleFormat.FLOAT: ("FLOAT",),
    SampleFormat.FLOAT64: ("DOUBLE",),
}
_READ_AS = {
    "PCM_24": SampleFormat.S32,
    "PCM_32": SampleFormat.S32,
    "FLOAT": SampleFormat.FLOAT,
    "DOUBLE": SampleFormat.FLOAT64,
    "VORBIS": SampleFormat.FLOAT,
    "OPUS": SampleFormat.FLOAT,
    "MPEG_LAYER_III": SampleFormat.FLOAT,
}


class _FileEnd(SoundEnd):
    def _fixed(self, pcm: PcmFormat) -> None:
        """The guest takes the format of the file, or converts."""
        self.pcm = pcm
        self.formats, self.rates = (pcm.sample,), (pcm.rate,)
        self.channels = (pcm.channels, pcm.channels)


class FileSink(_FileEnd, Sink):
    """All that the guest plays, one after the other, in a new file; its name says the kind.

    A file that is there is kept, as is that of the program before this one: the next is ``played-2.wav``,
    and ``path`` has its name. Raises MissingLibraryError without soundfile, ValueError for a format that the
    kind of file has not, OSError when the file cannot be made. Whoever ends without closing the device leaves
    a file that does not say how long it is.
    """

    def __init__(self, path: str | os.PathLike[str], pcm: PcmFormat | None = None) -> None:
        self._fixed(pcm or PcmFormat())
        self.path = Path(os.fspath(path))
        self._library = library("soundfile", extra="sound")
        self._left = LIMIT
        self._file: Any = self._opened()

    def _opened(self) -> Any:
        kind = self.path.suffix.lstrip(".").upper()
        subtypes = self._library.available_subtypes(kind) if kind in self._library.available_formats() else {}
        subtype = next((each for each in _WRITTEN_AS.get(self.pcm.sample, ()) if each in subtypes), None)
        if subtype is None:
            raise ValueError(
                f"{self.path}: no file of this kind has samples of {self.pcm.sample.name}; "
                "a .wav has S16, S32, FLOAT and FLOAT64, a .flac S16 and S32"
            )
        try:
            self.path = _made(self.path)
            return self._library.SoundFile(
                os.fspath(self.path), "w", self.pcm.rate, self.pcm.channels, subtype=subtype, format=kind
            )
        except (self._library.SoundFileError, OSError) as error:
            raise OSError(f"{self.path} cannot be written: {error}") from error

    def write(self, data: bytes) -> None:
        """To the file."""
        if len(data) > self._left:
            _report.warning("%s is full: it has %d bytes of sound", self.path, LIMIT - self._left)
            return
        self._left -= len(data)
        try:
            self._file.buffer_write(data, dtype=_TYPES[self.pcm.sample])
        except self._library.SoundFileError as error:
            raise OSError(f"{self.path} cannot be written: {error}") from error

    def shutdown(self) -> None:
        """The file is complete."""
        self._file.close()


def _made(wanted: Path) -> Path:
    """Make an empty file of this name, or of the first with a number that is not there yet."""
    path = wanted
    for number in itertools.count(2):
        try:
            path.touch(exist_ok=False)
            break
        except FileExistsError:
            path = wanted.with_stem(f"{wanted.stem}-{number}")
    return path


class FileSource(_FileEnd, Source):
    """The guest hears the file, from its beginning when it prepares its stream; then silence, or ``loop``.

    Raises MissingLibraryError without soundfile, ValueError for what is not a sound file, or has a rate or
    channels that virtio does not know, OSError when it cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str], *, loop: bool = False) -> None:
        self._path = os.fspath(path)
        self._library = library("soundfile", extra="sound")
        self._loop = loop
        if not stat.S_ISREG(Path(self._path).stat().st_mode):
            raise ValueError(f"{self._path} is not a file")
        try:
            self._file: Any = self._library.SoundFile(self._path)
        except self._library.SoundFileError as error:
            raise ValueError(f"{self._path} is not a sound file: {error}") from error
        sample = _READ_AS.get(self._file.subtype, SampleFormat.S16)
        try:
            self._fixed(PcmFormat(self._file.samplerate, self._file.channels, sample))
        except ValueError as error:
            self._file.close()
            raise ValueError(f"{self._path}: {error}") from error

    def open(self, pcm: PcmFormat) -> None:
        """From its beginning."""
        del pcm
        self._file.seek(0)

    def read(self, size: int) -> bytes:
        """The next frames of the file."""
        found = self._frames(size)
        while self._loop and len(found) < size and self._file.frames:
            self._file.seek(0)
            more = self._frames(size - len(found))
            if not more:
                break
            found += more
        return found

    def _frames(self, size: int) -> bytes:
        try:
            return bytes(self._file.buffer_read(size // self.pcm.frame, dtype=_TYPES[self.pcm.sample]))
        except self._library.SoundFileError as error:
            raise OSError(f"{self._path} cannot be read: {error}") from error

    def shutdown(self) -> None:
        """It is closed."""
        self._file.close()
