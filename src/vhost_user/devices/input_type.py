"""The input device, described."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vhost_user.device_types import DeviceType, HarmlessRequest, OptionError, QemuDevice, option
from vhost_user.spec.input import STATUS_QUEUE, InputEvent
from vhost_user.spec.input_codes import EventType, Synchronization

if TYPE_CHECKING:
    from vhost_user.devices.input import Input
    from vhost_user.devices.input_model import InputModel
    from vhost_user.devices.input_source import InputSource

_DEVICE_BITS = (1 << 24) - 1


@dataclass(frozen=True)
class InputOptions:
    """The options of ``vhost-user serve input``."""

    evdev_path: str | None = option(
        None,
        help="a device of this machine, such as /dev/input/event3 (needs evdev, extra: input)",
        metavar="PATH",
        exclusive="source",
    )
    evdev: str | None = option(None, help="the same", metavar="PATH", exclusive="source")
    grab: bool = option(True, help="leave its events to others on this machine as well")
    replay: str | None = option(
        None,
        help="what was recorded, for each guest that boots, from the beginning",
        metavar="FILE",
        exclusive="source",
    )
    skip_time: bool = option(False, help="replay without waiting between events")
    keyboard: bool = option(False, help="a keyboard that nobody types on; the default", exclusive="source")
    mouse: bool = option(False, help="a mouse that nobody moves", exclusive="source")
    tablet: bool = option(False, help="a tablet that nobody points with", exclusive="source")
    touch: bool = option(False, help="a touch screen that nobody touches", exclusive="source")
    name: str | None = option(None, help="the name that the guest sees", shown_default="that of the device")
    serial: str | None = option(None, help="its serial number", shown_default="that of the device")
    record: str | None = option(None, help="write all events into this file", metavar="FILE")
    uinput: bool = option(False, help="do the same on a new input device of this machine")


def _build(options: InputOptions) -> Input:
    # A description is read without the device.
    from vhost_user.devices.input import Input  # noqa: PLC0415
    from vhost_user.devices.input_recording import Recorder  # noqa: PLC0415

    if not options.grab and options.evdev_path is None and options.evdev is None:
        raise OptionError("--no-grab needs --evdev-path")
    if options.skip_time and options.replay is None:
        raise OptionError("--skip-time needs --replay")
    source = _source(options)
    device = Input(source)
    if options.record is not None:
        device.mirror(Recorder(source, options.record))
    if options.uinput:
        from vhost_user.devices.input_evdev import UinputCopy  # noqa: PLC0415  # it needs a library

        device.mirror(UinputCopy(source))
    return device


def _source(options: InputOptions) -> InputSource:
    from vhost_user.devices.input_model import Keyboard, Pointer, Tablet  # noqa: PLC0415  # as above
    from vhost_user.devices.input_touch import Touch  # noqa: PLC0415

    path = options.evdev_path or options.evdev
    if path is not None:
        from vhost_user.devices.input_evdev import EvdevSource  # noqa: PLC0415  # it needs a library

        return EvdevSource(path, grab=options.grab, name=options.name, serial=options.serial)
    if options.replay is not None:
        from vhost_user.devices.input_recording import Replay  # noqa: PLC0415

        return Replay(options.replay, name=options.name, serial=options.serial, skip_time=options.skip_time)
    models: list[tuple[bool, Callable[..., InputModel]]] = [
        (options.mouse, Pointer),
        (options.tablet, Tablet),
        (options.touch, Touch),
        (True, Keyboard),
    ]
    model = next(model for chosen, model in models if chosen)
    words = {"name": options.name, "serial": options.serial}
    return model(**{key: word for key, word in words.items() if word is not None})


def _nothing() -> bytes:
    """An event without a meaning for anybody: the end of a report that has no events."""
    return InputEvent(EventType.EV_SYN, Synchronization.SYN_REPORT, 0).pack()


def _wrong(_data: bytes, length: int) -> str | None:
    return f"a status event is answered by {length} bytes, and has no room for any" if length else None


def _resembles(features: int, queues: int) -> bool:
    return not features & _DEVICE_BITS and queues == 2


DEVICE_TYPE = DeviceType(
    name="input",
    title="a keyboard, a mouse, a tablet, a touch screen, or one of this machine",
    device="vhost_user.devices.input:Input",
    options=InputOptions,
    build=_build,
    features=("evdev-path", "no-grab"),
    examples=(
        "--socket-path=/tmp/input.sock --evdev-path=/dev/input/event3",
        "--socket-path=/tmp/input.sock --evdev=/dev/input/event3 --no-grab --record=session.evemu",
        "--socket-path=/tmp/input.sock --replay=session.evemu",
    ),
    qemu=QemuDevice("vhost-user-input-pci", kvm_before=(9, 0)),
    other_vmms={
        "Cloud Hypervisor 52": "--memory size=1G,shared=on "
        "--generic-vhost-user socket={socket},device_type=18,queue_sizes=[64,64]",
        "User Mode Linux": "virtio_uml.device={socket}:18",
    },
    guest_modules=("virtio_input", "evdev"),
    queues=2,
    config_space=True,
    harmless=HarmlessRequest(queue=STATUS_QUEUE, readable=_nothing, wrong=_wrong),
    resembles=_resembles,
)
