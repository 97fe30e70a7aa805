"""The arguments of QEMU that plug a device in, for the version of QEMU that is asked for."""

from __future__ import annotations

from vhost_user.device_types.description import DeviceType, HasQueues, QemuDevice, Version
from vhost_user.device_types.identity import device_id
from vhost_user.device_types.qemu_limits import queue_size
from vhost_user.device_types.qemu_version import default_version, version_text
from vhost_user.device_types.registry import described, described_by_us
from vhost_user.spec.features import ProtocolFeature

GENERIC_CONFIG_SIZE = 256
_MILLISECONDS_SINCE: Version = (9, 2)
"""``reconnect-ms`` came with it; ``reconnect`` was gone some releases later."""
GENERIC = QemuDevice("vhost-user-test-device-pci", since=(10, 2))
"""For every type without one. Up to 10.1 it was vhost-user-device-pci, which no command line could add."""


class NoQemuDeviceError(ValueError):
    """No command line of this QEMU plugs the device in; the text says what is missing."""


def reconnect_option(seconds: int, version: Version) -> str:
    """The option of a socket chardev that makes QEMU connect again, for this version of QEMU."""
    return f"reconnect-ms={1000 * seconds}" if version >= _MILLISECONDS_SINCE else f"reconnect={seconds}"


def qemu_device(
    device: HasQueues,
    device_type: str,
    chardev: str = "vhost0",
    *,
    version: Version | None = None,
    description: DeviceType | None = None,
) -> list[str]:
    """The arguments for the device itself.

    Types without a device of their own in QEMU get the generic one. ``version`` is QEMU's: ``(7, 2)``;
    None stands for the one that is installed, else a current one. ``description`` is that of the device, by
    default that of its type. Raises NoQemuDeviceError where that version has no device for the type.
    """
    version = default_version() if version is None else version
    description = description or described(device_type)
    own = None if description is None else description.qemu
    if own is not None and own.arguments is not None and version >= own.since:
        return own.arguments(device, chardev)
    if own is not None and version >= own.since:
        accelerator = ["-accel", "kvm"] if version < own.kvm_before else []
        properties = [f"chardev={chardev}", *own.properties(device)]
        return [*accelerator, "-device", ",".join([own.driver, *properties])]
    if version < GENERIC.since:
        newer = "" if own is None else f"its device {own.driver} came with {version_text(own.since)}, "
        raise NoQemuDeviceError(
            f"QEMU {version_text(version)} has no device for type {device_type!r}: {newer}the generic device "
            f"{GENERIC.driver} came with {version_text(GENERIC.since)}"
        )
    number = _number(device_type, description)
    # With a size it ends with an error when the back-end offers no configuration space.
    has_config = device.protocol_features() & ProtocolFeature.CONFIG
    words = (
        f"{GENERIC.driver},chardev={chardev},virtio-id={number or 'VIRTIO_ID'},"
        f"num_vqs={device.num_queues()},vq_size={queue_size(device)},config_size="
        f"{GENERIC_CONFIG_SIZE if has_config else 0}"
    )
    if number is None:
        kind = f"type {device_type!r}" if device_type else "this device"
        raise NoQemuDeviceError(
            f"the virtio number of {kind} is not known here; put it (virtio 1.4, section 5) for VIRTIO_ID in "
            f"-device {words}"
        )
    return ["-device", words]


def _number(device_type: str, description: DeviceType | None) -> int | None:
    if description is not None and description.number is not None:
        return int(description.number)
    if device_type.isdecimal():
        return int(device_type)
    identifier = device_id(device_type)
    return None if identifier is None else int(identifier)


def described_driver(driver: str, description: DeviceType | None = None) -> DeviceType | None:
    """The description whose device of QEMU is ``driver``: ``description`` itself, or another of ours.

    The author of a device may have chosen another device of QEMU than its description does.
    """
    for each in (description, *described_by_us()):
        if each is not None and each.qemu is not None and each.qemu.driver == driver:
            return each
    return None


def connects_later(arguments: list[str], version: Version, description: DeviceType | None = None) -> bool:
    """Whether QEMU starts with these arguments while their chardev has no connection yet."""
    for argument in arguments:
        found = described_driver(argument.partition(",")[0], description)
        if found is not None and found.qemu is not None:
            return found.qemu.connects_later(version)
    return False
