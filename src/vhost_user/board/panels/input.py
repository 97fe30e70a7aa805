"""An input device: keys to type on, or a pad, as its model is."""

from __future__ import annotations

from vhost_user.backend.device import Device
from vhost_user.board.control import Control, Text
from vhost_user.board.hands import Keys, Pad
from vhost_user.devices.input import Input
from vhost_user.devices.input_model import Keyboard, Pointer, Tablet
from vhost_user.devices.input_touch import Touch


def controls(device: Device) -> list[Control]:
    """Of an input device of ours."""
    if not isinstance(device, Input):
        return []
    source = device.source
    if isinstance(source, Keyboard):
        return [Keys(source)]
    if isinstance(source, Pointer | Tablet | Touch):
        return [Pad(source)]
    words = f"{source.description.name}, {type(source).__name__}"
    return [Text("Source", lambda: words)]
