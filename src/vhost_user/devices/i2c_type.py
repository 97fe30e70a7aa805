"""The I2C bus, described."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vhost_user.device_types import DeviceType, HarmlessRequest, OptionError, QemuDevice, option
from vhost_user.spec.i2c import I2cFeature, I2cFlag, I2cHeader, I2cStatus

if TYPE_CHECKING:
    from vhost_user.devices.i2c import I2c
    from vhost_user.devices.i2c_model import Target

_DEVICE_BITS = (1 << 24) - 1


@dataclass(frozen=True)
class I2cOptions:
    """The options of ``vhost-user serve i2c``."""

    device_list: str | None = option(
        None,
        help="devices of this machine: the number of each bus and addresses on it (needs smbus2, extra: i2c)",
        metavar="BUS:ADDRESS[:ADDRESS…],…",
    )
    eeprom: str | None = option(
        None, help="addresses at which there are memories of 256 bytes", metavar="ADDRESS[,ADDRESS…]"
    )


def _address(option_name: str, text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise OptionError(f"{option_name}: {text!r} is not an address, such as 0x48 or 72") from None


def _build(options: I2cOptions) -> I2c:
    # A description is read without the device.
    from vhost_user.devices.i2c import I2c  # noqa: PLC0415
    from vhost_user.devices.i2c_model import Adapter, Eeprom  # noqa: PLC0415

    targets: dict[int, Target] = {}
    for word in options.eeprom.split(",") if options.eeprom else []:
        targets[_address("--eeprom", word)] = Eeprom()
    for word in options.device_list.split(",") if options.device_list else []:
        bus, *addresses = word.split(":")
        numbers = [_address("--device-list", address) for address in addresses]
        if not bus or not numbers:
            raise OptionError(f"--device-list: {word!r} is not BUS:ADDRESS, such as 1:0x48")
        targets.update(dict.fromkeys(numbers, Adapter(bus)))
    return I2c(targets)


def _wrong(data: bytes, length: int) -> str | None:
    if length not in {0, len(data)} or data[-1] not in set(I2cStatus):
        return f"the status of a read is {data[-1:].hex()}, used.len {length} of {len(data)}"
    return None


DEVICE_TYPE = DeviceType(
    name="i2c",
    title="an I2C bus: models, memories, devices of this machine",
    device="vhost_user.devices.i2c:I2c",
    options=I2cOptions,
    build=_build,
    examples=(
        "--socket-path=/tmp/i2c.sock --eeprom=0x50",
        "--socket-path=/tmp/i2c.sock --device-list=1:0x48:0x49,3:0x20",
    ),
    qemu=QemuDevice("vhost-user-i2c-pci"),
    other_vmms={
        "Cloud Hypervisor 52": "--memory size=1G,shared=on "
        "--generic-vhost-user socket={socket},device_type=i2c,queue_sizes=[1024]",
        "crosvm": "--vhost-user type=i2c,socket={socket}",
        "User Mode Linux": "virtio_uml.device={socket}:34",
    },
    guest_modules=("i2c_virtio",),
    harmless=HarmlessRequest(
        readable=lambda: I2cHeader(0x50 << 1, I2cFlag.READ).pack(), writable=lambda: 17, wrong=_wrong
    ),
    resembles=lambda features, queues: (
        features & _DEVICE_BITS == I2cFeature.ZERO_LENGTH_REQUEST and queues == 1
    ),
)
