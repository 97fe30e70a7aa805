"""A bus: the registers of each model, what is in each memory, and a word on all others."""

from __future__ import annotations

from vhost_user.backend.device import Device
from vhost_user.board.control import Control, Text
from vhost_user.board.registers import Memory, Registers
from vhost_user.devices.i2c import I2c
from vhost_user.devices.i2c_model import Eeprom, I2cModel, Target


def controls(device: Device) -> list[Control]:
    """Of an I2C bus of ours."""
    targets = device.targets if isinstance(device, I2c) else {}
    return [
        _control(f"{address:#04x} {type(target).__name__}", target) for address, target in targets.items()
    ]


def _control(label: str, target: Target) -> Control:
    if isinstance(target, Eeprom):
        return Memory(target, label)
    if isinstance(target, I2cModel) and target.registers:
        return Registers(target, label)
    return Text(label, lambda: "answers, and has no registers to show")
