"""Lines: each as a pin; one that rests high, as a button with a pull-up does, as a button too."""

from __future__ import annotations

from vhost_user.backend.device import Device
from vhost_user.board.control import Control
from vhost_user.board.lines import Button, Pin
from vhost_user.devices.gpio import Gpio


def controls(device: Device) -> list[Control]:
    """Of a GPIO device of ours."""
    shown: list[Control] = []
    for line in device.lines if isinstance(device, Gpio) else ():
        pin = Pin(line)
        shown.append(pin)
        if line.rest:
            shown.append(Button(line, f"{pin.label}, pressed"))
    return shown
