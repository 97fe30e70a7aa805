"""Each device of ours, made for a test: with no hardware, no file and no terminal at its other end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vhost_user import Device
from vhost_user.device_types import find

DEVICES = Path(__file__).resolve().parents[2] / "src" / "vhost_user" / "devices"
OPTIONS: dict[str, dict[str, Any]] = {
    "blk": {"memory": 1 << 20},
    "can": {"bus": "null"},
    "console": {"end": "null", "max_ports": 3},
}
"""Options of ``vhost-user serve`` for those that need some. A new device that needs some adds a line."""
NAMES = sorted(path.stem.removesuffix("_type") for path in DEVICES.glob("*_type.py"))


def make(name: str) -> Device:
    """The device, ready to be served."""
    device = find(name).make(OPTIONS.get(name, {}))
    assert isinstance(device, Device)
    return device
