"""Sensors out of files, as Linux shows them in sysfs; what the command line says of them; C134."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.killed_programs import served
from vhost_user.device_types import OptionError, find
from vhost_user.devices import Scmi
from vhost_user.devices.scmi_host import FileSensor, hwmon_sensor, iio_sensor
from vhost_user.frontend import DeviceError, ScmiDriver
from vhost_user.spec.scmi import ScmiStatus, SensorUnit
from vhost_user.testing.virtio import Virtio


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """A folder as those in /sys/class/hwmon and /sys/bus/iio/devices."""
    for name, text in {
        "temp1_input": "42500", "temp1_label": "Package id 0 of all", "in0_input": "12032", "fan2_input": "0",
        "power1_input": "15000000", "odd_input": "7",
        "in_accel_x_raw": "-27", "in_accel_y_raw": "59", "in_accel_z_raw": "1000",
        "in_accel_scale": "0.009582",
        "in_temp_raw": "100", "in_temp_scale": "0.125", "in_temp_offset": "-20.5",
        "in_illuminance_input": "125.75", "in_voltage3_raw": "2000", "in_voltage3_scale": "1.5",
        "in_magn_x_raw": "7", "in_magn_x_scale": "0.0001", "in_odd0_raw": "3",
    }.items():  # fmt: skip
        (tmp_path / name).write_text(f"{text}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("channel", "unit", "value"),
    [
        ("temp1", SensorUnit.CELSIUS, 42.5),
        ("in0", SensorUnit.VOLT, 12.032),
        ("fan2", SensorUnit.RPM, 0),
        ("power1", SensorUnit.WATT, 15),
        ("odd", SensorUnit.UNSPECIFIED, 7),
    ],
)
def test_hwmon(virtio: Virtio, sysfs: Path, channel: str, unit: SensorUnit, value: float) -> None:
    scmi = virtio.attach(Scmi(hwmon_sensor(sysfs, channel))).drive(ScmiDriver)
    name = "Package id 0 of" if channel == "temp1" else channel  # its label, as far as it fits
    assert (scmi.sensors[0].unit, scmi.sensors[0].name) == (unit, name)
    assert scmi.value(0) == pytest.approx(value)


@pytest.mark.parametrize(
    ("channel", "unit", "value"),
    [
        ("in_temp", SensorUnit.CELSIUS, 0.0099375),
        ("in_illuminance", SensorUnit.LUX, 125.75),
        ("in_voltage3", SensorUnit.VOLT, 3.0),
        ("in_odd0", SensorUnit.UNSPECIFIED, 3),
    ],
)
def test_iio(virtio: Virtio, sysfs: Path, channel: str, unit: SensorUnit, value: float) -> None:
    scmi = virtio.attach(Scmi(iio_sensor(sysfs, channel, "it"))).drive(ScmiDriver)
    assert (scmi.sensors[0].unit, scmi.sensors[0].name) == (unit, "it")
    assert scmi.value(0) == pytest.approx(value)


def test_iio_with_axes(virtio: Virtio, sysfs: Path) -> None:
    scmi = virtio.attach(Scmi(iio_sensor(sysfs, "in_accel"), iio_sensor(sysfs, "in_magn"))).drive(ScmiDriver)
    assert [each.axes for each in scmi.sensors] == [3, 1]
    x, y, z = scmi.axes(0)
    assert ((x.name, y.name, z.name), x.exponent) == (("accel_X", "accel_Y", "accel_Z"), -6)
    assert x.unit == SensorUnit.METER_PER_SECOND_SQUARED
    assert [reading.value for reading in scmi.readings(0)] == [-27 * 9582, 59 * 9582, 9_582_000]
    assert (scmi.axes(1)[0].exponent, scmi.readings(1)[0].value) == (-4, 7)


@pytest.mark.parametrize("text", ["", "warm", "nan", "inf", "1e99", "9" * 64, "\xff"], ids=ascii)
def test_what_is_not_a_number_is_a_hardware_error_and_may_come_back(
    virtio: Virtio, sysfs: Path, text: str
) -> None:
    file = sysfs / "temp1_input"
    scmi = virtio.attach(Scmi(hwmon_sensor(sysfs, "temp1"))).drive(ScmiDriver)
    file.write_bytes(text.encode("latin-1"))
    for _ in range(2):
        with pytest.raises(DeviceError) as error:
            scmi.value(0)
        assert error.value.status == ScmiStatus.HARDWARE_ERROR
        file.unlink(missing_ok=True)
    file.write_text("1000\n")
    assert scmi.value(0) == 1


def test_sensors_that_are_not_there_are_said(sysfs: Path) -> None:
    for make, channel in ((hwmon_sensor, "temp9"), (iio_sensor, "in_none")):
        with pytest.raises(FileNotFoundError, match=channel):
            make(sysfs, channel)


def test_the_command_line_names_all_kinds(sysfs: Path) -> None:
    device = find("scmi").make(
        device=(
            "fake,name=cpu,value=40.5",
            "fake,name=bump,axes=XYZ,unit=meter-per-second-squared,exponent=-2",
            f"file,path={sysfs}/odd_input,unit=lux,exponent=0",
            f"hwmon,path={sysfs},channel=temp1,name=core",
            f"iio,path={sysfs},channel=in_accel",
        )
    )
    names = [sensor.name for sensor in device.sensors.sensors]
    assert names == ["cpu", "bump", "odd_input", "core", "accel"]
    assert [device.sensor(name).value for name in names[:4]] == [40.5, (0, 0, 0), 7, 42.5]
    assert isinstance(device.sensor("core"), FileSensor)
    assert find("scmi").make().sensors.sensors == ()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("real", "'real' is not one of fake, file, hwmon, iio"),
        ("fake,cpu", "'cpu' is not PROPERTY=VALUE"),
        ("fake,name=a,name=b", "two of them"),
        ("fake,colour=red", "has no colour; there are name, unit"),
        ("fake,unit=inch", "unit 'inch' is not one of none, unspecified, celsius"),
        ("fake,value=warm", "value=warm is not a number"),
        ("hwmon,path=/tmp", "has channel, too"),
    ],
)
def test_words_that_make_no_sense_are_refused(words: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        find("scmi").make(device=(words,))


def test_C134_a_program_that_is_killed_comes_back_and_its_sensors_are_read(tmp_path: Path) -> None:
    value = tmp_path / "value"
    value.write_text("1")
    program = served(tmp_path, "scmi", f"--device=file,path={value}", "--device=fake")
    try:
        for number in range(3):
            program.start()
            value.write_text(f"{number}.25")
            with ScmiDriver(str(program.socket)) as scmi:
                assert [each.name for each in scmi.sensors] == ["value", "fake"]
                assert (scmi.value(0), scmi.value(1)) == (number + 0.25, 0)
            program.kill()
    finally:
        program.kill()
