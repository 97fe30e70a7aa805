"""The ``virtio_guest`` fixture: boots a guest with the devices under test."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from vhost_user.backend import Device, VhostUserBackend
from vhost_user.device_types.qemu import GENERIC, NoQemuDeviceError, described_driver
from vhost_user.device_types.qemu import qemu_device as arguments_of
from vhost_user.device_types.registry import described
from vhost_user.testing.guest import Guest, VhostUserDevice
from vhost_user.testing.guest_devices import Property
from vhost_user.testing.guest_qemu import GENERIC_SINCE, locate_qemu
from vhost_user.testing.virtio import Virtio, VirtioDevice


class BootGuest:
    """Boots guests for one test; each ends with it, newest first."""

    def __init__(self, virtio: Virtio, folder: Path) -> None:
        self._virtio = virtio
        self._folder = folder
        self._guests = ExitStack()
        self._count = 0
        self._newer = False

    def __call__(self, *devices: VhostUserBackend | VirtioDevice | VhostUserDevice, **options: Any) -> Guest:
        """Boot a guest with these devices and return it when it takes commands.

        A device of this process is served from threads here; ``options`` are those of
        :class:`vhost_user.testing.guest.Guest`. Where the installed QEMU has no device for a type, or one
        that wants KVM, the one that ``vhost_user.testing.guest_qemu`` has fetched is run. Raises
        GuestUnavailableError naming what is not installed, GuestError with the end of the console when it
        does not boot.
        """
        attached = [self._attached(device) for device in devices]
        if self._newer:
            options.setdefault("qemu", locate_qemu())
        folder = self._folder / f"guest-{self._count}"
        folder.mkdir()
        self._count += 1
        return self._guests.enter_context(Guest(devices=attached, folder=folder, **options))

    def close(self) -> None:
        """End every guest."""
        self._guests.close()

    def _attached(self, device: VhostUserBackend | VirtioDevice | VhostUserDevice) -> VhostUserDevice:
        if isinstance(device, VhostUserDevice):
            return device
        if isinstance(device, VhostUserBackend):
            device = self._virtio.attach(device)
        device.disconnect()  # a back-end serves one front-end at a time, and that is QEMU now
        if not isinstance(device.backend, Device):
            raise TypeError(
                f"{device.name}: what kind of device it is cannot be seen from here; give "
                f"VhostUserDevice('vhost-user-…-pci', {device.socket!r}) of vhost_user.testing.guest instead"
            )
        try:
            arguments = device.backend.qemu_device()
        except NoQemuDeviceError:
            arguments = []
        if not arguments or "-accel" in arguments:  # that of older ones wants KVM, and guests here do without
            self._newer = True
            arguments = arguments_of(device.backend, device.backend.device_type, version=GENERIC_SINCE)
        return qemu_device(device.backend, device.socket, arguments)


def qemu_device(device: Device, socket: str, arguments: list[str] | None = None) -> VhostUserDevice:
    """The QEMU device for a device of ours that listens at ``socket``; by default the installed QEMU's.

    Raises ValueError for one that QEMU attaches in another way than by one vhost-user device.
    """
    if arguments is None:
        arguments = device.qemu_device()
    if len(arguments) != 2 or arguments[0] != "-device":
        raise ValueError(
            f"{type(device).__name__} is not attached by one -device argument: give a VhostUserDevice of "
            "vhost_user.testing.guest with what QEMU needs"
        )
    driver, *pairs = arguments[1].split(",")
    properties: dict[str, Property] = dict(
        pair.partition("=")[::2] for pair in pairs if not pair.startswith("chardev=")
    )
    description = described(device.device_type)
    if driver != GENERIC.driver:  # the author may have chosen that of another type
        description = described_driver(driver, description)
        own = None if description is None else description.qemu
        if own is not None and own.packed and device.packed:
            properties.setdefault("packed", True)
    modules = () if description is None else tuple(description.guest_modules)
    return VhostUserDevice(driver, socket, properties=properties, modules=modules)
