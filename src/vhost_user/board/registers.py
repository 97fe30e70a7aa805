"""What a page shows of I2C models: a table of registers, or what is in a memory."""

from __future__ import annotations

from vhost_user.board.control import Control, Json
from vhost_user.devices.i2c_model import Eeprom, I2cModel

ROW = 16
"""Bytes in a row of a memory."""


class Registers(Control):
    """A table of a model's registers. All of them can be set, as by the hardware itself."""

    kind = "registers"

    def __init__(self, model: I2cModel, label: str | None = None) -> None:
        super().__init__(label or type(model).__name__)
        self.model = model
        self._registers = {register.name: register for _, register in sorted(model.registers.items())}

    def describe(self) -> dict[str, Json]:
        """Name, number, size and sign of each, and whether the guest may write it."""
        return {
            "registers": [
                {
                    "name": name,
                    "address": register.address,
                    "size": register.size,
                    "signed": register.signed,
                    "writable": register.writable,
                }
                for name, register in self._registers.items()
            ]
        }

    def value(self) -> Json:
        """What is in each, in the order of their numbers."""
        return [getattr(self.model, name) for name in self._registers]

    def act(self, value: Json, who: object) -> None:
        """Put a number into a register: ``[name, number]``. Raises ValueError for one that does not fit."""
        del who
        match value:
            case [str() as name, int() as number] if name in self._registers and type(number) is int:
                setattr(self.model, name, number)
            case _:
                raise ValueError(f"{self.label}: {value!r} is not a register and a number")


class Memory(Control):
    """The bytes of a memory, as they are now."""

    kind = "text"

    def __init__(self, memory: Eeprom, label: str | None = None) -> None:
        super().__init__(label or type(memory).__name__)
        self.memory = memory

    def value(self) -> Json:
        """Rows of bytes, each with its position in front."""
        data = bytes(self.memory.memory)
        return "\n".join(
            f"{start:02x}: {data[start : start + ROW].hex(' ')}" for start in range(0, len(data), ROW)
        )
