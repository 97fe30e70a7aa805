"""SCMI in a real guest: Linux's own driver with its hwmon and IIO, which hears of new values.

Linux has it for Arm; here it is compiled for x86, and told what a device tree would (``guest_scmi``).
"""

from __future__ import annotations

import struct

import pytest

from vhost_user.devices import Scmi, Sensor
from vhost_user.spec.features import VirtioFeature
from vhost_user.spec.scmi import SensorUnit
from vhost_user.testing.booting import BootGuest
from vhost_user.testing.guest_drivers import locate_driver_kernel

pytestmark = pytest.mark.guest


@pytest.fixture(params=[False, True], ids=["split", "packed"])
def packed(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_hwmon_reads_them_by_delayed_responses(virtio_guest: BootGuest, packed: bool) -> None:
    cpu, core = Sensor("cpu", value=41.5), Sensor("core", SensorUnit.VOLT, value=1.05, limits=(0, 5))
    more = [Sensor(f"zone {number}", value=number) for number in range(20)]  # no message has room for all
    platform = Scmi(cpu, core, *more)
    platform.packed = packed
    guest = virtio_guest(
        platform, kernel=locate_driver_kernel(module="scmi-module"), modules=["scmi-module", "scmi-hwmon"]
    )
    assert bool(platform.driver_features & VirtioFeature.RING_PACKED) is packed
    assert "SCMI Protocol v2.0 'vhost-user:' Firmware version 0x1" in guest.run("dmesg")
    folder = "/sys/class/hwmon/hwmon0"
    names = guest.run(f"cat {folder}/temp*_label").splitlines()
    assert sorted(names) == sorted(["cpu", *(sensor.name for sensor in more)])
    assert guest.run(f"cat {folder}/in0_label {folder}/in0_input") == "core\n1050\n"
    (file,) = guest.run(f"grep -lx cpu {folder}/temp*_label").split()
    for degrees in (41.5, -40.25, 125.0):
        cpu.value = degrees
        assert guest.run(f"cat {file.replace('label', 'input')}") == f"{1000 * degrees:.0f}\n"


def test_iio_has_the_axes_and_hears_of_new_values(virtio_guest: BootGuest, packed: bool) -> None:
    unit = SensorUnit.METER_PER_SECOND_SQUARED
    bump = Sensor("bump", unit, axes="XYZ", value=(0.5, -1, 9.81), limits=(-20, 20), resolution=0.001)
    platform = Scmi(Sensor("cpu"), bump)
    platform.packed = packed
    guest = virtio_guest(
        platform, kernel=locate_driver_kernel(module="scmi_iio"), modules=["scmi-module", "scmi_iio"]
    )
    folder = "/sys/bus/iio/devices/iio:device0"
    assert (
        guest.run(f"cat {folder}/name {folder}/in_accel_x_raw {folder}/in_accel_z_raw") == "bump\n500\n9810\n"
    )
    assert guest.run(f"cat {folder}/in_accel_y_scale") == "0.001000000\n"
    assert guest.run(f"cat {folder}/in_accel_sampling_frequency") == "1.000000\n"
    guest.run(
        f"for each in {folder}/scan_elements/*_en; do echo 1 >$each; done; echo 1 >{folder}/buffer/enable"
    )
    for values in ((1, 2, 3), (-4, 0, 5)):
        bump.value = values
        read = guest.run("head -c 32 /dev/iio:device0 | od -An -v -tx1")
        *seen, when = struct.unpack("<4q", bytes.fromhex(read.replace("\n", "")))
        assert seen == [1000 * value for value in values]
        assert when > 0
    guest.run(f"echo 0 >{folder}/buffer/enable")
    assert not platform.sensors.settings[1].enabled
