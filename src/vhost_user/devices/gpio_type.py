"""GPIO lines, described."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vhost_user.device_types import DeviceType, HarmlessRequest, OptionError, QemuDevice, option
from vhost_user.device_types.description import EVER
from vhost_user.spec.gpio import GpioFeature, GpioRequest, GpioRequestType, GpioResponse, GpioStatus

if TYPE_CHECKING:
    from vhost_user.devices.gpio import Gpio
    from vhost_user.devices.gpio_line import Line

_DEVICE_BITS = (1 << 24) - 1


@dataclass(frozen=True)
class GpioOptions:
    """The options of ``vhost-user serve gpio``."""

    lines: str | None = option(
        None,
        help="the lines by name, each a wire that nobody holds, or one of a chip of this machine",
        metavar="NAME[=CHIP:LINE],…",
        exclusive="lines",
    )
    chip: str | None = option(
        None,
        help="all lines of a chip of this machine, such as gpiochip0 (needs gpiod, extra: gpio)",
        metavar="CHIP",
        exclusive="lines",
    )
    count: int | None = option(
        None,
        help="so many lines without names",
        minimum=1,
        maximum=0xFFFF,
        exclusive="lines",
        shown_default="8, unless other lines are given",
    )


def _build(options: GpioOptions) -> Gpio:
    # A description is read without the device.
    from vhost_user.devices.gpio import Gpio  # noqa: PLC0415

    if options.lines is not None:
        return Gpio(*_lines(options.lines))
    if options.chip is not None:
        from vhost_user.devices.gpio_chip import chip_lines  # noqa: PLC0415

        return Gpio(*chip_lines(options.chip))
    return Gpio(*[""] * (options.count or 8))


def _lines(words: str) -> Iterator[Line | str]:
    for word in words.split(","):
        name, equals, place = word.partition("=")
        chip, colon, offset = place.rpartition(":")
        if not equals:
            yield name
        elif not (colon and chip and offset):
            raise OptionError(f"--lines: {word!r} is not NAME=CHIP:LINE, such as led=gpiochip0:17")
        else:
            from vhost_user.devices.gpio_chip import ChipLine  # noqa: PLC0415  # it needs a library

            yield ChipLine(chip, int(offset) if offset.isdecimal() else offset, name=name)


def _wrong(data: bytes, length: int) -> str | None:
    if length != GpioResponse.SIZE or data[0] != GpioStatus.OK or data[1] > 2:
        return f"the answer to GET_DIRECTION of line 0 is {data[:2].hex()}, used.len {length}"
    return None


DEVICE_TYPE = DeviceType(
    name="gpio",
    title="GPIO lines: buttons, LEDs, lines of this machine",
    device="vhost_user.devices.gpio:Gpio",
    options=GpioOptions,
    build=_build,
    examples=(
        "--socket-path=/tmp/gpio.sock --lines=button,led",
        "--socket-path=/tmp/gpio.sock --lines=led=gpiochip0:17,button=gpiochip0:27",
        "--socket-path=/tmp/gpio.sock --chip=gpiochip0",
    ),
    # gpio had code of its own that waited, until it came to share that of rng, i2c and snd, which does not.
    qemu=QemuDevice("vhost-user-gpio-pci", reconnect_since=EVER, reconnect_before=(9, 0)),
    other_vmms={
        "Cloud Hypervisor 52": "--memory size=1G,shared=on "
        "--generic-vhost-user socket={socket},device_type=gpio,queue_sizes=[256,256]",
        "crosvm": "--vhost-user type=gpio,socket={socket}",
        "User Mode Linux": "virtio_uml.device={socket}:41",
    },
    guest_modules=("gpio_virtio",),
    queues=2,
    config_space=True,
    harmless=HarmlessRequest(
        readable=lambda: GpioRequest(GpioRequestType.GET_DIRECTION, 0).pack(),
        writable=lambda: GpioResponse.SIZE,
        wrong=_wrong,
    ),
    resembles=lambda features, queues: features & _DEVICE_BITS == GpioFeature.IRQ and queues == 2,
)
