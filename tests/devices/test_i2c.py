"""The I2C bus driven in this process; C053, C054, C075; virtio 1.4, 5.16.6."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import smbus2  # type: ignore[import-untyped,unused-ignore]

from vhost_user.device_types import OptionError, find
from vhost_user.devices import Eeprom, I2c, I2cModel, Register, i2c_model
from vhost_user.devices.i2c_model import Adapter
from vhost_user.devices.library import MissingLibraryError
from vhost_user.frontend import DeviceError, I2cDriver
from vhost_user.spec.i2c import I2cFlag, I2cHeader
from vhost_user.testing.virtio import Virtio

Drive = Callable[[I2c], I2cDriver]


@pytest.fixture
def drive(virtio: Virtio, packed: bool) -> Drive:
    return lambda bus: virtio.attach(bus, packed=packed).drive(I2cDriver)


class Sensor(I2cModel):
    temperature = Register(0x00, size=2, signed=True)
    configuration = Register(0x01, size=2, default=0x60A0, writable=True)
    identity = Register(0x0F, default=0x5A)

    def __init__(self) -> None:
        self.heard: list[str] = []

    def written(self, register: Register) -> None:
        self.heard.append(register.name)


def test_registers_are_read_and_written(drive: Drive) -> None:
    sensor = Sensor()
    bus = drive(I2c({0x48: sensor}))
    sensor.temperature = -320
    assert bus.transfer(0x48, [b"\x00", 2]) == [b"\xfe\xc0"]
    assert bus.transfer(0x48, [b"\x01", 2]) == [b"\x60\xa0"]
    bus.write(0x48, b"\x01\x12\x34")
    assert (sensor.configuration, sensor.heard) == (0x1234, ["configuration"])
    bus.write(0x48, b"\x00\x12\x34")  # read-only: makes no difference
    assert sensor.temperature == -320
    assert bus.transfer(0x48, [b"\x0f", 3]) == [b"\x5a\xff\xff"]
    assert bus.transfer(0x48, [b"\x00", 4]) == [b"\xfe\xc0\x12\x34"]
    with pytest.raises(ValueError, match="temperature: 40000 does not fit"):
        sensor.temperature = 40000


def test_zero_length_requests_find_who_is_there(drive: Drive) -> None:
    bus = drive(I2c({0x48: Sensor(), 0x50: Eeprom()}))
    found = []
    for address in range(0x03, 0x78):
        try:
            bus.write(address, b"")
        except DeviceError:
            continue
        found.append(address)
    assert found == [0x48, 0x50]
    assert bus.read(0x48, 0) == b""


def test_a_memory_goes_on_where_it_was(drive: Drive) -> None:
    memory = Eeprom(b"hello world")
    bus = drive(I2c({0x50: memory}))
    assert bus.transfer(0x50, [b"\x06", 3, 2]) == [b"wor", b"ld"]
    bus.write(0x50, b"\xfeABC")
    assert bytes(memory.memory[:2]) == b"Ce"
    assert bus.transfer(0x50, [b"\x00", 256])[0][:5] == b"Cello"


def test_after_a_failure_the_rest_of_the_transfer_fails(drive: Drive) -> None:
    memory = Eeprom()
    device = I2c({0x50: memory})
    bus = drive(device)
    queue = bus.queues[0]
    messages = [
        queue.submit([I2cHeader(0x51 << 1, I2cFlag.FAIL_NEXT).pack(), b"\x00"], 1),
        queue.submit([I2cHeader(0x50 << 1, 0).pack(), b"\x00X"], 1),
    ]
    queue.publish()
    assert [message.wait(10) for message in messages] == [b"\1", b"\1"]
    assert memory.memory[0] == 0xFF
    bus.write(0x50, b"\x00Y")  # the next is another transfer
    assert memory.memory[0] == ord("Y")


@pytest.mark.parametrize("address", [0x80, 0x123, 0x3FF])
def test_addresses_of_ten_bits_are_served(drive: Drive, address: int) -> None:
    bus = drive(I2c({address: Eeprom(b"ten")}))
    field = (address & 0xFF) << 8 | 0xF0 | (address >> 8) << 1
    answer = bus.queues[0].request(I2cHeader(field, I2cFlag.READ).pack(), 4)
    assert answer == b"ten\0"
    other = bus.queues[0].request(I2cHeader(field ^ 0x100, I2cFlag.READ).pack(), 4)
    assert other[-1] == 1


@pytest.mark.parametrize("field", [0x91, 0x190, 0xF0, 0xFFFF])
def test_what_is_not_an_address_is_refused(drive: Drive, virtio: Virtio, field: int) -> None:
    bus = drive(I2c({0x48: Sensor()}))
    assert bus.queues[0].request(I2cHeader(field).pack(), 1) == b"\1"
    assert virtio.errors == []


def test_a_driver_without_the_feature_is_refused(virtio: Virtio, packed: bool) -> None:
    bus = virtio.attach(I2c({0x48: Sensor()}), packed=packed, features=0).drive(I2cDriver)
    with pytest.raises(DeviceError):
        bus.read(0x48, 2)


@pytest.mark.alone
def test_C054_half_a_transfer_goes_back_and_comes_again(drive: Drive) -> None:
    memory = Eeprom(b"abc")
    device = I2c({0x50: memory})
    bus = drive(device)
    queue = bus.queues[0]
    first = queue.submit([I2cHeader(0x50 << 1, I2cFlag.FAIL_NEXT).pack(), b"\x01"], 1)
    queue.publish()
    for _ in range(3):
        before = time.monotonic()
        bus.stop_queue(0)
        assert time.monotonic() - before < 0.5
        bus.start_queue(0)
        bus.frontend.set_vring_enable(0, True)
    second = queue.submit([I2cHeader(0x50 << 1, I2cFlag.READ).pack()], 3)
    queue.publish()
    assert second.wait(10) == b"bc\0"
    assert first.wait(10) == b"\0"


@pytest.mark.parametrize("address", [-1, 0x78, 0x400])
def test_addresses_that_there_are_not_are_refused(address: int) -> None:
    with pytest.raises(ValueError, match="is not an address"):
        I2c({address: Eeprom()})


def test_registers_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="8 bits"):
        Register(0x100)
    with pytest.raises(TypeError, match="same number"):
        type("Twice", (I2cModel,), {"a": Register(1), "b": Register(1)})


class Bus:
    """A bus of this machine as smbus2 shows it: no kernel here has one."""

    i2c_msg = smbus2.i2c_msg
    seen: list[list[tuple[int, int, bytes]]]

    def __init__(self, path: str) -> None:
        if path != "/dev/i2c-7":
            raise FileNotFoundError(2, "No such file or directory", path)
        Bus.seen = []
        self.closed = False

    def i2c_rdwr(self, *messages: Any) -> None:
        if messages[0].addr == 0x33:
            raise OSError(121, "Remote I/O error")
        Bus.seen.append([(message.addr, message.flags, bytes(message)) for message in messages])
        for message in messages:
            for position in range(message.len if message.flags else 0):
                message.buf[position] = position + 1

    def close(self) -> None:
        self.closed = True


def test_a_bus_of_this_machine_gets_whole_transfers(
    virtio: Virtio, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = type("Library", (), {"SMBus": Bus, "i2c_msg": smbus2.i2c_msg})
    monkeypatch.setattr(i2c_model, "library", lambda _module, extra: library if extra == "i2c" else None)
    device = find("i2c").make({"device_list": "7:0x48:51", "eeprom": "0x50"})
    assert sorted(device.targets) == [0x33, 0x48, 0x50]
    bus = virtio.attach(device, packed=packed).drive(I2cDriver)
    assert bus.transfer(0x48, [b"\x00", 2]) == [b"\x01\x02"]
    assert [message[:2] for message in Bus.seen[0]] == [(0x48, 0), (0x48, 1)]
    bus.write(0x48, b"")
    assert Bus.seen[1] == [(0x48, 0, b"")]
    with pytest.raises(DeviceError):
        bus.read(0x33, 1)


def test_options_that_make_no_sense_are_refused() -> None:
    for options in ({"eeprom": "here"}, {"device_list": "1"}, {"device_list": "1:x"}):
        with pytest.raises(OptionError):
            find("i2c").make(options)


def test_without_the_library_the_command_that_brings_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "smbus2", None)
    with pytest.raises(MissingLibraryError, match=r"pip install 'vhost-user\[i2c\]'"):
        Adapter(1)
