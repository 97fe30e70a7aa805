"""The QEMU command line that plugs a back-end into a guest, for the version of QEMU that is asked for."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from vhost_user.backend.qemu_version import Version, default_version, version_text
from vhost_user.spec.features import DeviceId

if TYPE_CHECKING:
    from vhost_user.backend.backend import VhostUserBackend

MEMORY = "-machine q35,memory-backend=mem -m 512M -object memory-backend-memfd,id=mem,size=512M,share=on"
"""The guest's memory must be shared, or the back-end has nothing to map."""

GENERIC_CONFIG_SIZE = 256
LARGEST_QUEUE = 1024
"""Descriptors: the largest ring of any device in QEMU."""
USUAL_QUEUE = 128
"""Descriptors: the ring of blk and scsi where the command line says nothing."""

_MILLISECONDS_SINCE: Version = (9, 2)
"""``reconnect-ms`` came with it; ``reconnect`` was gone some releases later."""
_EVER: Version = (0, 0)
_NEVER: Version = (1 << 16, 0)


_BY_TYPE = "_says_what_the_type_does"


class NoQemuDeviceError(ValueError):
    """No command line of this QEMU plugs the device in; the text says what is missing."""


@dataclass(frozen=True)
class QemuDevice:
    """A device of QEMU, and what is to be known about it from version to version."""

    driver: str
    since: Version = _EVER
    """The first version that has it, as far as it is newer than what anybody still runs."""
    reconnect_since: Version = _NEVER
    """The first version whose device starts on a chardev that may still be connecting.

    A chardev with ``reconnect``, and one that listens with ``wait=off``, connects after QEMU has started.
    Such a device waits for that by itself. All others talk to the back-end while QEMU builds them, on a
    chardev that has no connection yet, and end QEMU: "Failed to set msg fds".
    """
    reconnect_before: Version = _NEVER
    """The first version whose device does so no more."""
    kvm_before: Version = _EVER
    """Up to this version the device refuses to start without KVM ("requires kvm")."""


_DEVICES = {
    # net: a network card may always be without its peer.
    DeviceId.NET: QemuDevice("virtio-net-pci", reconnect_since=_EVER),
    # blk waits for its connection, and begins again when that breaks.
    DeviceId.BLK: QemuDevice("vhost-user-blk-pci", reconnect_since=_EVER),
    # scsi has learnt it from blk; 7.2 fails, 10.0 starts.
    DeviceId.SCSI: QemuDevice("vhost-user-scsi-pci", reconnect_since=(9, 0)),
    # gpio had code of its own that did, until it came to share that of rng, i2c and snd, which does not.
    DeviceId.GPIO: QemuDevice("vhost-user-gpio-pci", reconnect_since=_EVER, reconnect_before=(9, 0)),
    DeviceId.RNG: QemuDevice("vhost-user-rng-pci"),
    DeviceId.I2C: QemuDevice("vhost-user-i2c-pci"),
    DeviceId.FS: QemuDevice("vhost-user-fs-pci"),
    DeviceId.VSOCK: QemuDevice("vhost-user-vsock-pci"),
    DeviceId.INPUT: QemuDevice("vhost-user-input-pci", kvm_before=(9, 0)),
    DeviceId.GPU: QemuDevice("vhost-user-gpu-pci", kvm_before=(9, 0)),
    DeviceId.SOUND: QemuDevice("vhost-user-snd-pci", since=(9, 0)),
    DeviceId.SPI: QemuDevice("vhost-user-spi-pci", since=(11, 1)),
    DeviceId.RTC: QemuDevice("vhost-user-rtc-pci", since=(11, 1)),
}
"""Which device serves a type, from which version on, and with which can the chardev reconnect.

Seen on QEMU 7.2, 10.0 and 11.1. Where a change came in between, the bound is where the line surely starts.
"""
_GENERIC = QemuDevice("vhost-user-test-device-pci", since=(10, 2))
"""For every other type. Up to 10.1 it was vhost-user-device-pci, which no command line could add."""
_ALIASES = {"block": DeviceId.BLK, "9p": DeviceId.NINE_P, "snd": DeviceId.SOUND}


def device_id(device_type: str) -> DeviceId | None:
    """The virtio id of a device type by name (``"rng"``, ``"blk"`` or ``"block"`` …), or None."""
    name = device_type.lower()
    return _ALIASES.get(name) or DeviceId.__members__.get(name.upper().replace("-", "_"))


def capability_type(device_type: str) -> str:
    """The type's name in the back-end program conventions (C141)."""
    return "block" if device_id(device_type) is DeviceId.BLK else device_type


def reconnect_option(seconds: int, version: Version) -> str:
    """The option of a socket chardev that makes QEMU connect again, for this version of QEMU."""
    return f"reconnect-ms={1000 * seconds}" if version >= _MILLISECONDS_SINCE else f"reconnect={seconds}"


def qemu_device(
    backend: VhostUserBackend, device_type: str, chardev: str = "vhost0", *, version: Version | None = None
) -> list[str]:
    """The arguments for the device itself.

    Types without a device of their own in QEMU get the generic one. ``version`` is QEMU's: ``(7, 2)``;
    None stands for the one that is installed, else a current one. Raises NoQemuDeviceError where that version
    has no device for the type.
    """
    version = default_version() if version is None else version
    identifier = device_id(device_type)
    queues = backend.num_queues()
    if identifier is DeviceId.NET:
        pairs = max(1, queues // 2)
        return [
            "-netdev", f"vhost-user,id=net0,chardev={chardev},queues={pairs}",
            "-device", f"virtio-net-pci,netdev=net0,mq={'on' if pairs > 1 else 'off'},vectors=0",
        ]  # fmt: skip
    device = None if identifier is None else _DEVICES.get(identifier)
    if device is not None and version >= device.since:
        accelerator = ["-accel", "kvm"] if version < device.kvm_before else []
        properties = [f"chardev={chardev}", *_properties(backend, identifier)]
        return [*accelerator, "-device", ",".join([device.driver, *properties])]
    if version < _GENERIC.since:
        own = "" if device is None else f"its device {device.driver} came with {version_text(device.since)}, "
        raise NoQemuDeviceError(
            f"QEMU {version_text(version)} has no device for type {device_type!r}: {own}the generic device "
            f"{_GENERIC.driver} came with {version_text(_GENERIC.since)}"
        )
    own_number = device_type if device_type.isdecimal() else "VIRTIO_ID"
    number = own_number if identifier is None else int(identifier)
    words = (
        f"{_GENERIC.driver},chardev={chardev},virtio-id={number},num_vqs={queues},"
        f"vq_size={_queue_size(backend)},config_size={GENERIC_CONFIG_SIZE}"
    )
    if number == "VIRTIO_ID":
        kind = f"type {device_type!r}" if device_type else "this device"
        raise NoQemuDeviceError(
            f"the virtio number of {kind} is not known here; put it (virtio 1.4, section 5) for VIRTIO_ID in "
            f"-device {words}"
        )
    return ["-device", words]


Method = TypeVar("Method", bound=Callable[..., list[str]])


def by_type(method: Method) -> Method:
    """Mark a ``qemu_device`` that only says what the device's type does.

    Whoever knows the version of QEMU may ask :func:`qemu_device` instead. A method that replaces it is not
    marked: it is the author's own.
    """
    setattr(method, _BY_TYPE, True)
    return method


def qemu_lines(
    backend: VhostUserBackend,
    socket_path: str,
    *,
    client: bool = False,
    version: Version | None = None,
) -> list[str]:
    """Lines to paste after ``qemu-system-x86_64``, one group of arguments each, quoted for a shell.

    ``client`` says that the back-end connects to QEMU, so that QEMU has to listen. ``version`` and what is
    raised are those of :func:`qemu_device`.
    """
    version = default_version() if version is None else version
    own = getattr(backend, "qemu_device", None)  # a plain back-end has none
    if own is None or hasattr(own, _BY_TYPE):
        device = qemu_device(backend, getattr(backend, "device_type", ""), version=version)
    else:
        device = own()  # the author's own words
    # Commas end a value in QEMU's option syntax; two of them stand for one.
    chardev = f"socket,id=vhost0,path={socket_path.replace(',', ',,')}"
    may_wait = _connects_later(device, version)
    if client:
        chardev += ",server=on,wait=off" if may_wait else ",server=on"
    elif may_wait:
        chardev += "," + reconnect_option(1, version)
    return [MEMORY, shlex.join(["-chardev", chardev]), shlex.join(device)]


def _connects_later(arguments: list[str], version: Version) -> bool:
    """Whether QEMU starts with these arguments while their chardev has no connection yet."""
    drivers = {argument.partition(",")[0] for argument in arguments}
    return any(
        device.driver in drivers and device.reconnect_since <= version < device.reconnect_before
        for device in _DEVICES.values()
    )


def _queue_size(backend: VhostUserBackend) -> int:
    return min(backend.max_queue_size(), LARGEST_QUEUE)


def _properties(backend: VhostUserBackend, identifier: DeviceId | None) -> list[str]:
    queues = backend.num_queues()
    small = backend.max_queue_size() < USUAL_QUEUE
    if identifier is DeviceId.BLK:
        return [f"num-queues={queues}"] + [f"queue-size={_queue_size(backend)}"] * small
    if identifier is DeviceId.SCSI:  # it adds a control and an event queue
        return [f"num_queues={max(1, queues - 2)}"] + [f"virtqueue_size={_queue_size(backend)}"] * small
    if (
        identifier is DeviceId.FS
    ):  # it adds a high priority queue; 128 descriptors would be much too few for it
        requests = [f"num-request-queues={queues - 1}"] if queues > 2 else []
        return ["tag=myfs", f"queue-size={_queue_size(backend)}", *requests]
    return []
