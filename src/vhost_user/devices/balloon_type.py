"""The memory balloon, described."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vhost_user.device_types import DeviceType, HarmlessRequest, option
from vhost_user.device_types.options import BYTES
from vhost_user.spec.balloon import DEFLATE_QUEUE, PAGE_SIZE, BalloonFeature, pack_page_numbers

if TYPE_CHECKING:
    from vhost_user.devices.balloon import Balloon

_DEVICE_BITS = (1 << 24) - 1


@dataclass(frozen=True)
class BalloonOptions:
    """The options of ``vhost-user serve balloon``."""

    target: int = option(0, help="what the guest is to do without, such as 256M", metavar="SIZE", unit=BYTES)
    stats_interval: float | None = option(
        None, help="ask the guest for statistics every so many seconds", metavar="SECONDS"
    )
    reporting: bool = option(True, help="let the guest keep its free pages")
    hints: bool = option(True, help="do not offer free page hints")
    deflate_on_oom: bool = option(
        False, help="the guest may take pages out of the balloon before it kills a program"
    )
    must_tell: bool = option(False, help="the guest tells of each page before it uses it again")


def _build(options: BalloonOptions) -> Balloon:
    from vhost_user.devices.balloon import Balloon  # noqa: PLC0415  # a description is read without the device

    return Balloon(**vars(options))


def _resembles(features: int, queues: int) -> bool:
    bits = features & _DEVICE_BITS
    always = BalloonFeature.STATS_VQ | BalloonFeature.PAGE_POISON
    if bits >= BalloonFeature.PAGE_REPORTING << 1 or bits & always != always:
        return False
    if bits & BalloonFeature.PAGE_REPORTING:
        return queues == 5
    return queues == (4 if bits & BalloonFeature.FREE_PAGE_HINT else 3)


DEVICE_TYPE = DeviceType(
    name="balloon",
    title="memory that guests give back to the host",
    device="vhost_user.devices.balloon:Balloon",
    options=BalloonOptions,
    build=_build,
    examples=(
        "--socket-path=/tmp/balloon.sock --stats-interval=1 --control=/tmp/balloon.control",
        "--socket-path=/tmp/balloon.sock --target=256M --deflate-on-oom",
    ),
    other_vmms={
        "Cloud Hypervisor 52": "--memory size=1G,shared=on "
        "--generic-vhost-user socket={socket},device_type=5,queue_sizes=[256,256,256,256,256]",
        "User Mode Linux": "virtio_uml.device={socket}:5",
    },
    guest_modules=("virtio_balloon",),
    queues=2,
    harmless=HarmlessRequest(
        queue=DEFLATE_QUEUE, readable=lambda: pack_page_numbers([(1 << 20) // PAGE_SIZE]), writable=int
    ),
    resembles=_resembles,
)
