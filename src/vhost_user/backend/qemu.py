"""The QEMU command line that plugs a back-end into a guest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user.spec.features import DeviceId

if TYPE_CHECKING:
    from vhost_user.backend.backend import VhostUserBackend

MEMORY = "-machine q35,memory-backend=mem -m 512M -object memory-backend-memfd,id=mem,size=512M,share=on"
"""The guest's memory must be shared, or the back-end has nothing to map."""

GENERIC_CONFIG_SIZE = 256

_OWN_DEVICES = {
    DeviceId.BLK: "vhost-user-blk-pci,chardev={chardev},num-queues={queues}",
    DeviceId.RNG: "vhost-user-rng-pci,chardev={chardev}",
    DeviceId.SCSI: "vhost-user-scsi-pci,chardev={chardev},num_queues={queues}",
    DeviceId.FS: "vhost-user-fs-pci,chardev={chardev},tag=myfs",
    DeviceId.GPIO: "vhost-user-gpio-pci,chardev={chardev}",
    DeviceId.I2C: "vhost-user-i2c-pci,chardev={chardev}",
    DeviceId.INPUT: "vhost-user-input-pci,chardev={chardev}",
    DeviceId.GPU: "vhost-user-gpu-pci,chardev={chardev}",
    DeviceId.VSOCK: "vhost-user-vsock-pci,chardev={chardev}",
    DeviceId.SOUND: "vhost-user-snd-pci,chardev={chardev}",
    DeviceId.SCMI: "vhost-user-scmi-pci,chardev={chardev}",
}
_ALIASES = {"block": DeviceId.BLK, "9p": DeviceId.NINE_P, "snd": DeviceId.SOUND}


def device_id(device_type: str) -> DeviceId | None:
    """The virtio id of a device type by name (``"rng"``, ``"blk"`` or ``"block"`` …), or None."""
    name = device_type.lower()
    return _ALIASES.get(name) or DeviceId.__members__.get(name.upper().replace("-", "_"))


def capability_type(device_type: str) -> str:
    """The type's name in the back-end program conventions (C141)."""
    return "block" if device_id(device_type) is DeviceId.BLK else device_type


def qemu_device(backend: VhostUserBackend, device_type: str, chardev: str = "vhost0") -> list[str]:
    """The arguments for the device itself.

    Types without a device of their own in QEMU get the generic one.
    """
    identifier = device_id(device_type)
    queues = backend.num_queues()
    if identifier is DeviceId.NET:
        pairs = max(1, queues // 2)
        return [
            "-netdev", f"vhost-user,id=net0,chardev={chardev},queues={pairs}",
            "-device", f"virtio-net-pci,netdev=net0,mq={'on' if pairs > 1 else 'off'},vectors=0",
        ]  # fmt: skip
    template = None if identifier is None else _OWN_DEVICES.get(identifier)
    if template is not None:
        return ["-device", template.format(chardev=chardev, queues=queues)]
    number = "VIRTIO_ID" if identifier is None else int(identifier)
    size = min(backend.max_queue_size(), 1024)
    return [
        "-device",
        (
            f"vhost-user-test-device-pci,chardev={chardev},virtio-id={number},num_vqs={queues},vq_size={size},"
            f"config_size={GENERIC_CONFIG_SIZE}"
        ),
    ]


def qemu_lines(backend: VhostUserBackend, socket_path: str, *, client: bool = False) -> list[str]:
    """Lines to paste after ``qemu-system-x86_64``, one group of arguments each.

    ``client`` says that the back-end connects to QEMU, so that QEMU has to listen.
    """
    from vhost_user.backend.device import Device  # noqa: PLC0415  # device.py stands on this module

    device = backend.qemu_device() if isinstance(backend, Device) else qemu_device(backend, "")
    # Commas end a value in QEMU's option syntax; two of them stand for one.
    chardev = f"-chardev socket,id=vhost0,path={socket_path.replace(',', ',,')}" + (
        ",server=on,wait=off" if client else ",reconnect=1"
    )
    return [MEMORY, chardev, " ".join(device)]
