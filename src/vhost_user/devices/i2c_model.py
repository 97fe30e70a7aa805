"""What hangs on an I2C bus: register maps, memories, and a bus of this machine."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Protocol, overload

from vhost_user.devices.library import library

Message = bytes | int
"""Bytes that are written to a target, or how many are read from it."""


class Target(Protocol):
    """What answers at an address. OSError is the answer that there is none (a NACK)."""

    def transfer(self, address: int, messages: Sequence[Message]) -> list[bytes]:
        """Carry out one transfer; gives what each reading message read."""


class Register:
    """A register of a model: ``temperature = Register(0x00, size=2, signed=True)``.

    As an attribute of the model it is a number. ``default`` is what it has at the beginning; the guest can
    change it if it is ``writable``, otherwise what it writes makes no difference, as with real devices.
    ``size`` is in bytes, ``order`` that of the bytes on the bus.
    """

    def __init__(  # all but the first by name
        self,
        address: int,
        *,
        size: int = 1,
        default: int = 0,
        writable: bool = False,
        signed: bool = False,
        order: Literal["big", "little"] = "big",
    ) -> None:
        if not 0 <= address <= 0xFF:
            raise ValueError(f"register {address:#x}: the number of a register has 8 bits")
        self.address, self.size, self.writable, self.signed = address, size, writable, signed
        self.order: Literal["big", "little"] = order
        self.name = f"register {address:#x}"
        self.default = self.packed(default)

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def packed(self, value: int) -> bytes:
        """The bytes of a value. Raises ValueError for one that does not fit."""
        try:
            return value.to_bytes(self.size, self.order, signed=self.signed)
        except OverflowError as error:
            raise ValueError(f"{self.name}: {value} does not fit into {self.size} bytes") from error

    @overload
    def __get__(self, instance: None, owner: type) -> Register: ...
    @overload
    def __get__(self, instance: I2cModel, owner: type) -> int: ...
    def __get__(self, instance: I2cModel | None, owner: type) -> Register | int:
        if instance is None:
            return self
        return int.from_bytes(instance.contents[self.address], self.order, signed=self.signed)

    def __set__(self, instance: I2cModel, value: int) -> None:
        instance.contents[self.address] = self.packed(value)


class I2cModel:
    """A device with registers: the first byte that is written chooses one, the others go into it.

    What is beyond it goes on in the next one. Override ``written`` to hear of a write, ``write`` and ``read``
    for a device that works in another way; OSError out of them is a NACK. They are called in the worker.
    """

    registers: ClassVar[dict[int, Register]] = {}

    def __init_subclass__(cls) -> None:
        """Collect the registers. Raises TypeError for two of one number."""
        super().__init_subclass__()
        found = dict(cls.registers)
        mine = [each for each in vars(cls).values() if isinstance(each, Register)]
        if len({each.address for each in mine}) != len(mine):
            raise TypeError(f"class {cls.__name__}: two registers have the same number")
        cls.registers = {**found, **{each.address: each for each in mine}}

    def __new__(cls, *_arguments: Any, **_keywords: Any) -> I2cModel:  # Self needs casts
        """The registers are there even if a model forgets ``super().__init__()``."""
        model = super().__new__(cls)
        # One assignment for each change: another thread sees the old value or the new one.
        model.contents = {address: register.default for address, register in cls.registers.items()}
        model.pointer = 0
        return model

    contents: dict[int, bytes]
    """Of each register."""
    pointer: int
    """The register that was chosen."""

    def transfer(self, address: int, messages: Sequence[Message]) -> list[bytes]:
        """Each message to ``write`` or ``read``."""
        del address
        results = []
        for message in messages:
            if isinstance(message, int):
                data = self.read(message)
                results.append(data[:message].ljust(message, b"\xff"))
            else:
                self.write(message)
        return results

    def write(self, data: bytes) -> None:
        """The guest wrote this; nothing at all if it only looked whether there is somebody."""
        if not data:
            return
        self.pointer, rest, address = data[0], data[1:], data[0]
        while rest:
            register = self.registers.get(address)
            size = 1 if register is None else register.size
            piece, rest = rest[:size], rest[size:]
            if register is not None and register.writable:
                self.contents[address] = piece + self.contents[address][len(piece) :]
                self.written(register)
            address = (address + 1) & 0xFF

    def read(self, size: int) -> bytes:
        """So many bytes from the register that was chosen; 0xFF where there is none."""
        data = bytearray()
        address = self.pointer
        while len(data) < size:
            data += self.contents.get(address, b"\xff")
            address = (address + 1) & 0xFF
        return bytes(data[:size])

    def written(self, register: Register) -> None:
        """The guest has written to this register."""


class Eeprom(I2cModel):
    """A memory of 256 bytes, such as a 24C02: reads go on where the last one ended."""

    def __init__(self, content: bytes = b"") -> None:
        self.memory = bytearray(content[:256].ljust(256, b"\xff"))

    def write(self, data: bytes) -> None:
        """The position, and what goes there."""
        if data:
            self.pointer = data[0]
            for byte in data[1:]:
                self.memory[self.pointer] = byte
                self.pointer = (self.pointer + 1) & 0xFF

    def read(self, size: int) -> bytes:
        """From the position."""
        data = bytes(self.memory[(self.pointer + position) & 0xFF] for position in range(size))
        self.pointer = (self.pointer + size) & 0xFF
        return data


class Adapter:
    """A bus of this machine, ``/dev/i2c-1`` or ``1``, by smbus2 (extra: i2c): at each address it serves.

    A transfer is one, with repeated starts. It takes as long as the bus takes. Raises OSError when the bus
    cannot be opened, MissingLibraryError without smbus2.
    """

    def __init__(self, bus: str | int) -> None:
        self._library: Any = library("smbus2", extra="i2c")
        text = str(bus)
        self._bus = self._library.SMBus(f"/dev/i2c-{text}" if text.isdecimal() else text)

    def transfer(self, address: int, messages: Sequence[Message]) -> list[bytes]:
        """See ``Target``. OSError for an address of ten bits, which smbus2 has not."""
        if address > 0x7F:
            raise OSError(errno.EOPNOTSUPP, "addresses of ten bits are not served")
        make: Any = self._library.i2c_msg
        made = [
            make.read(address, message) if isinstance(message, int) else make.write(address, message)
            for message in messages
        ]
        self._bus.i2c_rdwr(*made)
        return [bytes(part) for part, message in zip(made, messages, strict=True) if isinstance(message, int)]

    def close(self) -> None:
        """The bus is closed."""
        self._bus.close()
