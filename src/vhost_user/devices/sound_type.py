"""The sound device, described."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from vhost_user.device_types import DeviceType, HarmlessRequest, OptionError, QemuDevice, option
from vhost_user.spec.sound import PcmInfo, SoundFeature, SoundHeader, SoundQuery, SoundRequest, SoundStatus

if TYPE_CHECKING:
    from vhost_user.devices.sound import Sound
    from vhost_user.devices.sound_ends import SoundEnd

_DEVICE_BITS = (1 << 24) - 1
_QUEUES = 4
_ROOM = SoundHeader.SIZE + PcmInfo.SIZE


@dataclass(frozen=True)
class SoundOptions:
    """The options of ``vhost-user serve sound``."""

    backend: Literal["null", "file", "sounddevice"] | None = option(
        None,
        help="what the guest is connected to: nothing, files, or sound cards of this machine "
        "(by sounddevice: PortAudio)",
        shown_default="file if there are files, else null",
    )
    streams: str = option("out,in", help="which streams there are", metavar="{out|in},…")
    output: str | None = option(
        None, help="record what the guest plays into this file (.wav, .flac)", metavar="FILE"
    )
    input: str | None = option(None, help="let the guest hear this file", metavar="FILE")
    loop: bool = option(False, help="the guest hears it again and again")
    rate: int = option(48000, help="frames per second of --output")
    channels: int = option(2, help="channels of --output", minimum=1, maximum=18)
    device: str | None = option(
        None,
        help="the sound card, by its number or a part of its name",
        metavar="NAME",
        shown_default="the usual one",
    )
    jacks: str | None = option(None, help="jacks of the guest, such as headphone,mic", metavar="KIND,…")


def _build(options: SoundOptions) -> Sound:
    # A description is read without the device.
    from vhost_user.devices.sound import Sound  # noqa: PLC0415
    from vhost_user.devices.sound_jack import KINDS, Jack  # noqa: PLC0415

    words = options.streams.split(",")
    wrong = next((word for word in words if word not in {"out", "in"}), None)
    if wrong is not None:
        raise OptionError(f"--streams: {wrong!r} is not a stream: write out or in, such as out,in")
    kinds = options.jacks.split(",") if options.jacks else []
    unknown = next((kind for kind in kinds if kind not in KINDS), None)
    if unknown is not None:
        raise OptionError(f"--jacks: {unknown!r} is not a jack: there are {', '.join(KINDS)}")
    makers = _makers(options, words)
    return Sound(*(makers[word]() for word in words), jacks=[Jack(kind) for kind in KINDS if kind in kinds])


def _makers(options: SoundOptions, words: list[str]) -> dict[str, Callable[[], SoundEnd]]:
    from vhost_user.devices.sound_ends import Sink, Source  # noqa: PLC0415
    from vhost_user.devices.sound_format import PcmFormat  # noqa: PLC0415

    files = {"out": options.output, "in": options.input}
    backend = options.backend or ("file" if any(files.values()) else "null")
    if backend != "file" and any(files.values()):
        raise OptionError(f"--output and --input exclude --backend={backend}")
    if backend == "file" and not any(files.values()):
        raise OptionError("--backend=file needs --output or --input")
    if options.device is not None and backend != "sounddevice":
        raise OptionError("--device is a sound card: it needs --backend=sounddevice")
    makers: dict[str, Callable[[], SoundEnd]] = {"out": Sink, "in": Source}
    if backend == "sounddevice":
        from vhost_user.devices.sound_card import CardSink, CardSource  # noqa: PLC0415

        name = options.device
        device = int(name) if name is not None and name.isdecimal() else name
        return {"out": partial(CardSink, device), "in": partial(CardSource, device)}
    for word, name in files.items():
        if name is None:
            continue
        if words.count(word) != 1:
            raise OptionError(
                f"--{word}put is one file, and --streams says {words.count(word)} times {word!r}"
            )
        from vhost_user.devices.sound_files import FileSink, FileSource  # noqa: PLC0415

        if word == "out":
            makers[word] = partial(FileSink, name, PcmFormat(options.rate, options.channels))
        else:
            makers[word] = partial(FileSource, name, loop=options.loop)
    return makers


def _wrong(data: bytes, length: int) -> str | None:
    if length != _ROOM or SoundHeader.unpack(data[: SoundHeader.SIZE]).code != SoundStatus.OK:
        return f"PCM_INFO of stream 0 is answered by {length} bytes, {data[: SoundHeader.SIZE].hex()}"
    return None


def _resembles(features: int, queues: int) -> bool:
    return queues == _QUEUES and not features & _DEVICE_BITS & ~int(SoundFeature.CTLS)


DEVICE_TYPE = DeviceType(
    name="sound",
    title="a sound card: files, sound cards of this machine, or nothing",
    device="vhost_user.devices.sound:Sound",
    options=SoundOptions,
    build=_build,
    examples=(
        "--socket-path=/tmp/sound.sock --backend=null",
        "--socket-path=/tmp/sound.sock --output=played.flac --input=speech.wav",
        "--socket-path=/tmp/sound.sock --backend=sounddevice --jacks=headphone,mic",
    ),
    qemu=QemuDevice("vhost-user-snd-pci", since=(9, 0)),
    other_vmms={
        "Cloud Hypervisor 52": "--memory size=1G,shared=on "
        "--generic-vhost-user socket={socket},device_type=25,queue_sizes=[64,64,64,64]",
        "crosvm": "--vhost-user type=sound,socket={socket}",
        "User Mode Linux": "virtio_uml.device={socket}:25",
    },
    guest_modules=("virtio_snd",),
    queues=_QUEUES,
    harmless=HarmlessRequest(
        readable=SoundQuery(SoundRequest.PCM_INFO, 0, 1, PcmInfo.SIZE).pack,
        writable=lambda: _ROOM,
        wrong=_wrong,
        larger=lambda least: max(least, _ROOM),
    ),
    resembles=_resembles,
)
