"""A device of another package: a thermometer, whose guest reads a temperature with each request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vhost_user import Device, Request
from vhost_user.device_types import DeviceType, HarmlessRequest, option

VIRTIO_ID = 63
ZERO_IN_KELVIN = 273.15


class Thermometer(Device, type=VIRTIO_ID, queues=1, device_features=1 << 3):
    def __init__(self, celsius: float = 21.5, *, scale: str = "celsius") -> None:
        self.reading = round(10 * (celsius + (ZERO_IN_KELVIN if scale == "kelvin" else 0)))

    def handle(self, request: Request) -> None:
        request.pack("<h", self.reading)


@dataclass(frozen=True)
class ThermometerOptions:
    celsius: float = option(21.5, help="the temperature it shows", unit="°C", minimum=-90, maximum=60)
    scale: Literal["celsius", "kelvin"] = option("celsius", help="what the guest reads")


def _wrong(data: bytes, length: int) -> str | None:
    return None if length == len(data) == 2 else f"{length} bytes are not a temperature"


DEVICE_TYPE = DeviceType(
    name="thermometer",
    title="the temperature of a room",
    virtio_id=VIRTIO_ID,
    device="thermometer:Thermometer",
    options=ThermometerOptions,
    features=("indoor",),
    guest_modules=("virtio_thermometer",),
    harmless=HarmlessRequest(writable=lambda: 2, wrong=_wrong),
    resembles=lambda features, queues: bool(features & 1 << 3) and queues == 1,
)
