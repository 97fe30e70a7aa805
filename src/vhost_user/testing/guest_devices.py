"""The QEMU side of a vhost-user device: which arguments attach a back-end's socket to a guest."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from vhost_user.device_types.qemu import reconnect_option
from vhost_user.device_types.qemu_version import default_version
from vhost_user.device_types.registry import described

Property = str | int | bool


def guest_modules(device_type: str) -> tuple[str, ...]:
    """The modules of the guest's kernel for a device type, as its description names them."""
    description = described(device_type)
    return () if description is None else tuple(description.guest_modules)


def option(text: str | os.PathLike[str]) -> str:
    """Return text as a value in a QEMU option list, where a comma is written twice."""
    return os.fspath(text).replace(",", ",,")


class VhostUserDevice:
    """Any `vhost-user-*-pci` device of QEMU, attached to the back-end that listens on a socket.

    Args:
        driver: QEMU's name of the device, such as `vhost-user-blk-pci`.
        socket: path of the back-end's socket.
        properties: properties of the QEMU device; True and False become `on` and `off`.
        modules: kernel modules that the guest's driver needs (their dependencies are found).
    """

    def __init__(
        self,
        driver: str,
        socket: str | os.PathLike[str],
        *,
        properties: Mapping[str, Property] | None = None,
        modules: Sequence[str] = (),
    ) -> None:
        self.driver = driver
        self.socket = os.fspath(socket)
        self.properties: dict[str, Property] = dict(properties or {})
        self.modules = tuple(modules)

    @property
    def queues(self) -> int:
        """The number of request queues, as far as the number of virtual CPUs should follow it."""
        return int(self.properties.get("num-queues", 1))

    def arguments(self, name: str, reconnect: int | None) -> list[str]:
        """Return QEMU's arguments for this device.

        Args:
            name: identifier of the character device, unique in the guest.
            reconnect: seconds after which QEMU connects again when the back-end went away; None: never.
        """
        chardev = f"socket,id={name},path={option(self.socket)}"
        if reconnect is not None:
            chardev += "," + reconnect_option(reconnect, default_version())
        device = f"{self.driver},id=device-{name},chardev={name}"
        for key, value in self.properties.items():
            shown = ("off", "on")[value] if isinstance(value, bool) else option(str(value))
            device += f",{key}={shown}"
        return ["-chardev", chardev, "-device", device]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.driver!r}, {self.socket!r}, {self.properties!r})"


class VhostUserBlk(VhostUserDevice):
    """A block device: `/dev/vda` in the guest, then `/dev/vdb`, in the order in which they are given.

    Args:
        socket: path of the back-end's socket.
        num_queues: number of request queues (virtio 5.2.2). Linux uses no more than it has CPUs.
        queue_size: entries of each queue's ring.
        packed: whether QEMU offers the packed ring (virtio 2.8) to the guest if the back-end has it.
        properties: further properties of `vhost-user-blk-pci`.
    """

    def __init__(
        self,
        socket: str | os.PathLike[str],
        *,
        num_queues: int = 1,
        queue_size: int = 128,
        packed: bool = False,
        properties: Mapping[str, Property] | None = None,
    ) -> None:
        own: dict[str, Property] = {"num-queues": num_queues, "queue-size": queue_size}
        if packed:
            own["packed"] = True
        super().__init__(
            "vhost-user-blk-pci",
            socket,
            properties={**own, **(properties or {})},
            modules=guest_modules("blk"),
        )


class VhostUserNet(VhostUserDevice):
    """A network card: `eth0` in the guest, without an address.

    Args:
        socket: path of the back-end's socket.
        packed: whether QEMU offers the packed ring (virtio 2.8) to the guest if the back-end has it.
        properties: further properties of `virtio-net-pci`.
    """

    def __init__(
        self,
        socket: str | os.PathLike[str],
        *,
        packed: bool = False,
        properties: Mapping[str, Property] | None = None,
    ) -> None:
        # QEMU 7.2 crashes without KVM when the guest loads virtio_net and the card has MSI-X.
        own: dict[str, Property] = {"vectors": 0, **({"packed": True} if packed else {})}
        super().__init__(
            "virtio-net-pci", socket, properties={**own, **(properties or {})}, modules=guest_modules("net")
        )

    def arguments(self, name: str, reconnect: int | None) -> list[str]:
        """See VhostUserDevice; the socket belongs to the card's peer here."""
        chardev, device = super().arguments(name, reconnect)[1::2]
        return [
            "-chardev",
            chardev,
            "-netdev",
            f"vhost-user,id=net-{name},chardev={name}",
            "-device",
            device.replace(f"chardev={name}", f"netdev=net-{name}", 1),
        ]


class VhostUserRng(VhostUserDevice):
    """An entropy device: `/dev/hwrng` in the guest.

    Args:
        socket: path of the back-end's socket.
        packed: whether QEMU offers the packed ring (virtio 2.8) to the guest if the back-end has it.
        properties: further properties of `vhost-user-rng-pci`.
    """

    def __init__(
        self,
        socket: str | os.PathLike[str],
        *,
        packed: bool = False,
        properties: Mapping[str, Property] | None = None,
    ) -> None:
        own: dict[str, Property] = {"packed": True} if packed else {}
        super().__init__(
            "vhost-user-rng-pci",
            socket,
            properties={**own, **(properties or {})},
            modules=guest_modules("rng"),
        )
