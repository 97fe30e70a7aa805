"""The socket device, described."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vhost_user.device_types import DeviceType, HarmlessRequest, OptionError, QemuDevice, option
from vhost_user.spec.vsock import HOST_CID, VsockFeature, VsockHeader, VsockOperation, VsockType

if TYPE_CHECKING:
    from vhost_user.devices.vsock import Vsock

_DEVICE_BITS = (1 << 24) - 1
_NOBODY = 0xFFFF_FFF0


@dataclass(frozen=True)
class VsockOptions:
    """The options of ``vhost-user serve vsock``."""

    guest_cid: int = option(3, help="context id of the guest", minimum=3, maximum=0xFFFF_FFFE)
    uds_path: str | None = option(
        None,
        help="Unix socket for connections to the guest (CONNECT PORT); those of the guest go to PATH_PORT",
        metavar="PATH",
        exclusive="host",
    )
    forward_cid: int | None = option(
        None,
        help="connections of the guest go to AF_VSOCK of this machine at this cid, such as 1",
        exclusive="host",
        minimum=0,
    )
    forward_listen: str | None = option(
        None, help="ports of AF_VSOCK to listen on for the guest", metavar="PORT[,PORT…]"
    )


def _build(options: VsockOptions) -> Vsock:
    from vhost_user.devices.vsock import Vsock  # noqa: PLC0415  # a description is read without the device

    words = options.forward_listen.split(",") if options.forward_listen else []
    wrong = next((word for word in words if not word.isdecimal()), None)
    if wrong is not None:
        raise OptionError(f"--forward-listen: {wrong!r} is not a port")
    return Vsock(
        options.guest_cid,
        uds_path=options.uds_path,
        forward_cid=options.forward_cid,
        forward_listen=tuple(int(word) for word in words),
    )


def _packet_of_nobody() -> bytes:
    """RST of a connection that there is not: it is left alone, and takes its way through the ring."""
    return VsockHeader(_NOBODY, HOST_CID, _NOBODY, _NOBODY, 0, VsockType.STREAM, VsockOperation.RST).pack()


def _resembles(features: int, queues: int) -> bool:
    return features & _DEVICE_BITS == VsockFeature.STREAM | VsockFeature.SEQPACKET and queues in {2, 3}


DEVICE_TYPE = DeviceType(
    name="vsock",
    title="sockets between host and guest",
    device="vhost_user.devices.vsock:Vsock",
    options=VsockOptions,
    build=_build,
    examples=(
        "--socket-path=/tmp/vsock.sock --guest-cid=4 --uds-path=/tmp/guest4",
        "--socket-path=/tmp/vsock.sock --guest-cid=4 --forward-cid=1 --forward-listen=9001,9002",
    ),
    qemu=QemuDevice("vhost-user-vsock-pci", packed=True),
    other_vmms={
        "Cloud Hypervisor 52": "--memory size=1G,shared=on "
        "--generic-vhost-user socket={socket},device_type=vsock,queue_sizes=[256,256,256]",
        "crosvm": "--vhost-user type=vsock,socket={socket}",
        "User Mode Linux": "virtio_uml.device={socket}:19",
    },
    guest_modules=("vmw_vsock_virtio_transport",),
    queues=2,
    harmless=HarmlessRequest(queue=1, readable=_packet_of_nobody),
    resembles=_resembles,
)
