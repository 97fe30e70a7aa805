"""An I2C bus in a real guest: Linux's own driver (i2c-virtio), i2cdetect, and the kernel's hwmon."""

from __future__ import annotations

import pytest

from tests.support.examples import load
from vhost_user.devices import Eeprom, I2c
from vhost_user.testing.booting import BootGuest
from vhost_user.testing.guest_drivers import locate_driver_kernel

pytestmark = pytest.mark.guest


def test_i2cdetect_sees_them_and_hwmon_reads_the_temperature(virtio_guest: BootGuest) -> None:
    sensor = load("temperature_sensor").TMP102()
    memory = Eeprom(b"hello")
    guest = virtio_guest(
        I2c({0x48: sensor, 0x50: memory}),
        kernel=locate_driver_kernel(),
        modules=["i2c-dev", "tmp102"],
        programs=("i2cdetect", "i2cget", "i2cset", "i2ctransfer"),
    )
    buses = guest.run("grep -l virtio /sys/class/i2c-adapter/i2c-*/name").split("/")
    bus = next(part for part in buses if part.startswith("i2c-") and part[4:].isdecimal())[4:]
    seen = guest.run(f"i2cdetect -y {bus}")
    assert [word for line in seen.splitlines()[1:] for word in line.split()[1:] if word != "--"] == [
        "48",
        "50",
    ]
    assert guest.run(f"i2ctransfer -y {bus} w1@0x50 0 r5") == "0x68 0x65 0x6c 0x6c 0x6f\n"
    guest.run(f"i2cset -y {bus} 0x50 0 0x4a")
    assert bytes(memory.memory[:5]) == b"Jello"
    assert guest.run(f"i2cget -y {bus} 0x51 0 2>/dev/null || echo nobody") == "nobody\n"
    sensor.is_at(21.5)
    guest.run(f"echo tmp102 0x48 >/sys/bus/i2c/devices/i2c-{bus}/new_device")
    read = "sleep 1; cat /sys/class/hwmon/hwmon*/temp1_input"
    assert guest.run(read) == "21500\n"
    sensor.is_at(-10.25)
    assert guest.run(read) == "-10250\n"
