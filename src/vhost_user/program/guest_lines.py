"""What to paste after ``qemu-system-x86_64``."""

from __future__ import annotations

import shlex

from vhost_user.backend.backend import VhostUserBackend
from vhost_user.backend.device import Device
from vhost_user.device_types.description import DeviceType, Version
from vhost_user.device_types.qemu import connects_later, qemu_device, reconnect_option
from vhost_user.device_types.qemu_version import default_version
from vhost_user.device_types.registry import described

MEMORY = "-machine q35,memory-backend=mem -m 512M -object memory-backend-memfd,id=mem,size=512M,share=on"
"""The guest's memory must be shared, or the back-end has nothing to map."""
CHARDEV = "vhost0"
"""The name of a device's socket in QEMU, unless there are several."""


def qemu_lines(
    backend: VhostUserBackend,
    socket_path: str,
    *,
    client: bool = False,
    version: Version | None = None,
    description: DeviceType | None = None,
    chardev: str = CHARDEV,
) -> list[str]:
    """Lines to paste after ``qemu-system-x86_64``, one group of arguments each, quoted for a shell.

    ``client`` says that the back-end connects to QEMU, so that QEMU has to listen. ``chardev`` is the name of
    the socket in QEMU, different for each device of a guest. ``version``, ``description`` and what is raised
    are those of :func:`vhost_user.device_types.qemu.qemu_device`.
    """
    version = default_version() if version is None else version
    device_type = backend.device_type if isinstance(backend, Device) else ""
    description = description or described(device_type)
    if isinstance(backend, Device) and type(backend).qemu_device is not Device.qemu_device:
        # The author's own words, in which the chardev has its usual name.
        words = backend.qemu_device()
        device = [word.replace(f"chardev={CHARDEV}", f"chardev={chardev}") for word in words]
    else:
        device = qemu_device(backend, device_type, chardev, version=version, description=description)
    # Commas end a value in QEMU's option syntax; two of them stand for one.
    connection = f"socket,id={chardev},path={socket_path.replace(',', ',,')}"
    may_wait = connects_later(device, version, description)
    if client:
        connection += ",server=on,wait=off" if may_wait else ",server=on"
    elif may_wait:
        connection += "," + reconnect_option(1, version)
    return [MEMORY, shlex.join(["-chardev", connection]), shlex.join(device)]
