"""The clock device, described."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vhost_user.device_types import DeviceType, HarmlessRequest, OptionError, QemuDevice, option
from vhost_user.spec.rtc import ClockType, RtcFeature, RtcHead, RtcRequestType, Smearing

if TYPE_CHECKING:
    from vhost_user.devices.rtc import Rtc

_DEVICE_BITS = (1 << 24) - 1
_ANSWER = 16


@dataclass(frozen=True)
class RtcOptions:
    """The options of ``vhost-user serve rtc``."""

    utc: bool = option(True, help="without the host's UTC")
    tai: bool = option(True, help="without its TAI")
    monotonic: bool = option(True, help="without its monotonic clock")
    smeared: Literal["unspecified", "noon-linear", "utc-sls"] | None = option(
        None, help="the host's UTC smears leap seconds, in this way"
    )
    time: str | None = option(
        None, help="what UTC shows when it is started, such as 1985-10-26T01:20:00+00:00", metavar="ISO8601"
    )


def _build(options: RtcOptions) -> Rtc:
    from datetime import UTC, datetime  # noqa: PLC0415  # a description is read without the device

    from vhost_user.devices.rtc import Rtc  # noqa: PLC0415
    from vhost_user.devices.rtc_clock import Clock  # noqa: PLC0415

    clocks = []
    if options.utc:
        kind = ClockType.UTC if options.smeared is None else ClockType.UTC_SMEARED
        smearing = Smearing[(options.smeared or "unspecified").upper().replace("-", "_")]
        clocks.append(Clock(kind, smearing=smearing))
        if options.time is not None:
            try:
                when = datetime.fromisoformat(options.time)
            except ValueError as error:
                raise OptionError(f"--time: {options.time!r} is not a time: {error}") from error
            clocks[0].travel(when if when.tzinfo else when.replace(tzinfo=UTC))
    elif options.time is not None or options.smeared is not None:
        raise OptionError("--time and --smeared are about UTC, and exclude --no-utc")
    clocks += [Clock(ClockType.TAI)] * options.tai + [Clock(ClockType.MONOTONIC)] * options.monotonic
    return Rtc(clocks)


def _wrong(data: bytes, length: int) -> str | None:
    if length != _ANSWER or struct.unpack_from("<B7xH", data)[0] != 0:
        return f"the number of clocks is answered by {length} bytes, {data[:_ANSWER].hex()}"
    return None


def _resembles(features: int, queues: int) -> bool:
    return features & _DEVICE_BITS == RtcFeature.ALARM and queues == 2


DEVICE_TYPE = DeviceType(
    name="rtc",
    title="clocks and alarms",
    device="vhost_user.devices.rtc:Rtc",
    options=RtcOptions,
    build=_build,
    examples=(
        "--socket-path=/tmp/rtc.sock",
        "--socket-path=/tmp/rtc.sock --no-tai --time=1985-10-26T01:20:00",
    ),
    qemu=QemuDevice("vhost-user-rtc-pci", since=(11, 1)),
    other_vmms={
        "Cloud Hypervisor 52": "--memory size=1G,shared=on "
        "--generic-vhost-user socket={socket},device_type=17,queue_sizes=[256,256]",
        "User Mode Linux": "virtio_uml.device={socket}:17",
    },
    guest_modules=("virtio_rtc",),
    queues=2,
    harmless=HarmlessRequest(readable=RtcHead(RtcRequestType.CFG).pack, writable=lambda: 32, wrong=_wrong),
    resembles=_resembles,
)
