"""A temperature sensor on an I2C bus, as a model, and a test of what reads it. Run it with pytest."""

from vhost_user.devices import I2c, I2cModel, Register
from vhost_user.frontend import I2cDriver
from vhost_user.testing.virtio import Virtio


class TMP102(I2cModel):
    """Texas Instruments' TMP102: 12 bits of 1/16 °C in register 0, or 13 if a driver wants."""

    degrees = 0.0

    temperature = Register(0x00, size=2, signed=True)
    configuration = Register(0x01, size=2, default=0x60A0, writable=True)
    low = Register(0x02, size=2, default=75 << 7, signed=True, writable=True)
    high = Register(0x03, size=2, default=80 << 7, signed=True, writable=True)

    def is_at(self, celsius: float) -> None:
        self.degrees = celsius
        self.temperature = round(celsius * 16) << (3 if self.configuration & 0x10 else 4)

    def written(self, _register: Register) -> None:
        self.is_at(self.degrees)


def celsius(bus: I2cDriver) -> float:
    """What is tested here: how a driver reads it."""
    (data,) = bus.transfer(0x48, [b"\x00", 2])
    return (int.from_bytes(data, "big", signed=True) >> 4) / 16


def test_warm_and_cold(virtio: Virtio) -> None:
    sensor = TMP102()
    bus = virtio.attach(I2c({0x48: sensor})).drive(I2cDriver)
    for degrees in (21.5, -0.0625, 127.9375):
        sensor.is_at(degrees)
        assert celsius(bus) == degrees
