"""The CAN controller, described."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vhost_user.device_types import DeviceType, HarmlessRequest, option
from vhost_user.spec.can import CanFeature, CanHeader, CanMessage, CanResult

if TYPE_CHECKING:
    from vhost_user.devices.can import Can

_DEVICE_BITS = (1 << 24) - 1
_QUEUES = 3
_NO_FLAG = 1


@dataclass(frozen=True)
class CanOptions:
    """The options of ``vhost-user serve can``."""

    bus: str = option(
        help="the bus, by the words of python-can: socketcan:can0",
        metavar="INTERFACE:CHANNEL[,OPTION=VALUE…]",
    )
    classic: bool = option(False, help="offer no CAN FD")


def _build(options: CanOptions) -> Can:
    from vhost_user.devices.can import Can  # noqa: PLC0415  # a description is read without the device

    return Can(options.bus, fd=not options.classic)


def _frame_of_no_kind() -> bytes:
    """A frame with a flag that does not exist: no bus sees it, whatever state the controller is in."""
    return CanHeader(CanMessage.TRANSMIT, 0, flags=_NO_FLAG).pack()


def _wrong(data: bytes, length: int) -> str | None:
    if length != 1 or data[:1] == bytes([CanResult.OK]):
        return f"a frame with an unknown flag is answered by {length} bytes, {data[:1].hex()}, not by NOT_OK"
    return None


def _resembles(features: int, queues: int) -> bool:
    offered = features & _DEVICE_BITS
    known = CanFeature.CLASSIC | CanFeature.FD | CanFeature.RTR_FRAMES | CanFeature.LATE_TX_ACK
    return queues == _QUEUES and bool(offered & CanFeature.RTR_FRAMES) and not offered & ~int(known)


DEVICE_TYPE = DeviceType(
    name="can",
    title="a CAN bus, by any interface of python-can",
    device="vhost_user.devices.can:Can",
    options=CanOptions,
    build=_build,
    examples=(
        "--socket-path=/tmp/can.sock --bus=socketcan:can0",
        "--socket-path=/tmp/can.sock --bus=udp_multicast:239.74.163.2",
        "--socket-path=/tmp/can.sock --bus=slcan:/dev/ttyUSB0,bitrate=500000 --classic",
    ),
    notes="""The bus is one of
  socketcan:can0               a CAN interface of this machine, vcan0 too
  udp_multicast:239.74.163.2   all who use this address in the local network
  virtual:NAME                 all who use this name in this program
  INTERFACE:CHANNEL            any other interface of python-can
  null                         nobody""",
    other_vmms={
        "Cloud Hypervisor 52": "--memory size=1G,shared=on "
        "--generic-vhost-user socket={socket},device_type=36,queue_sizes=[256,256,256]",
        "User Mode Linux": "virtio_uml.device={socket}:36",
    },
    queues=_QUEUES,
    harmless=HarmlessRequest(readable=_frame_of_no_kind, writable=lambda: 32, wrong=_wrong),
    resembles=_resembles,
)
