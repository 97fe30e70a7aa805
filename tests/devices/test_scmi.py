"""What the SCMI platform says of itself and its sensors, and what it refuses; virtio 1.4, 5.17."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

import pytest

from tests.support.scmi import BASE, SECOND, SENSOR, Drive, Measuring, status_of
from vhost_user.devices import Scmi, Sensor
from vhost_user.devices.scmi_protocol import Command, ScmiProtocol
from vhost_user.devices.scmi_settings import INTERVALS
from vhost_user.spec.scmi import (
    ScmiBase,
    ScmiHeader,
    ScmiMessage,
    ScmiSensor,
    ScmiStatus,
    ScmiType,
    SensorConfigBit,
    SensorUnit,
)
from vhost_user.testing.virtio import Virtio


def test_the_base_protocol_says_who_is_there(drive_scmi: Drive) -> None:
    scmi = drive_scmi(Scmi())
    assert scmi.version() == (2, 0)
    assert scmi.vendor() == "vhost-user"
    assert scmi.ask(BASE, ScmiBase.DISCOVER_SUB_VENDOR) == bytes(16)
    assert scmi.ask(BASE, ScmiBase.DISCOVER_IMPLEMENTATION_VERSION) == b"\1\0\0\0"
    assert scmi.ask(BASE, ScmiMessage.PROTOCOL_ATTRIBUTES) == b"\1\1\0\0"
    assert scmi.protocols() == [SENSOR]
    assert (scmi.agent(0), scmi.agent(1), scmi.agent()) == ((0, "platform"), (1, "OSPM"), (1, "OSPM"))
    assert status_of(lambda: scmi.agent(2)) == ScmiStatus.NOT_FOUND
    assert status_of(lambda: scmi.ask(BASE, ScmiBase.DISCOVER_LIST_PROTOCOLS, 2)) == -2


def test_many_protocols_are_listed_as_many_at_a_time_as_fit(drive_scmi: Drive) -> None:
    class Of(ScmiProtocol):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

    scmi = drive_scmi(Scmi(protocols=[Of(0x80 + number) for number in reversed(range(100))]))
    expected = [SENSOR, *range(0x80, 0x80 + 100)]
    assert scmi.protocols() == expected
    few = scmi.ask(BASE, ScmiBase.DISCOVER_LIST_PROTOCOLS, 1, room=4 + 4 + 4)
    assert few == b"\4\0\0\0" + bytes(expected[1:5])
    assert status_of(lambda: scmi.ask(BASE, ScmiBase.DISCOVER_LIST_PROTOCOLS, 0, room=11)) == -7
    with pytest.raises(ValueError, match="same number"):
        Scmi(protocols=[Of(0x15)])


def test_a_protocol_of_ones_own(drive_scmi: Drive) -> None:
    class Counter(ScmiProtocol):
        number = 0x82
        version = 0x10002

        def __init__(self) -> None:
            super().__init__()
            self.total = 0
            self.messages[3] = self.add

        def add(self, command: Command) -> bytes:
            (more,) = command.words(1)
            self.total += more
            return struct.pack("<I", self.total)

    scmi = drive_scmi(Scmi(protocols=[Counter()]))
    assert scmi.version(0x82) == (1, 2)
    assert [scmi.ask(0x82, 3, 5), scmi.ask(0x82, 3, 7)] == [b"\5\0\0\0", b"\x0c\0\0\0"]
    assert (scmi.has_message(0x82, 3), scmi.has_message(0x82, 4)) == (True, False)
    assert status_of(lambda: scmi.ask(0x82, 3)) == ScmiStatus.PROTOCOL_ERROR
    assert status_of(lambda: scmi.ask(0x82, 3, 1, 2)) == ScmiStatus.PROTOCOL_ERROR


def test_sensors_are_described_and_read(drive_scmi: Drive) -> None:
    cpu = Sensor("cpu", SensorUnit.CELSIUS, value=21.5)
    fan = Sensor("fan", SensorUnit.RPM, exponent=0, value=1200, limits=(0, 5000), resolution=60)
    scmi = drive_scmi(Scmi(cpu, fan))
    assert scmi.version(SENSOR) == (3, 0)
    assert [(each.number, each.name, each.unit, each.exponent) for each in scmi.sensors] == [
        (0, "cpu", SensorUnit.CELSIUS, -3),
        (1, "fan", SensorUnit.RPM, 0),
    ]
    assert scmi.sensors[0].range is None
    extent = scmi.sensors[1].range
    assert extent is not None
    assert (extent.minimum, extent.maximum, extent.resolution) == (0, 5000, 60)
    assert (scmi.value(0), scmi.value(1)) == (21.5, 1200.0)
    cpu.value = -40.25
    assert (scmi.readings(0)[0].value, scmi.value(0)) == (-40250, -40.25)
    fan.value = 2**40
    assert scmi.value(1) == 2.0**40


def test_a_sensor_with_axes(drive_scmi: Drive) -> None:
    acceleration = Sensor(
        "acceleration", SensorUnit.METER_PER_SECOND_SQUARED, axes="XYZ", value=(0.5, -1, 9.81),
        limits=(-20, 20), resolution=0.001,
    )  # fmt: skip
    scmi = drive_scmi(Scmi(acceleration))
    (description,) = scmi.sensors
    assert (description.axes, description.trip_points) == (3, 0)
    axes = scmi.axes(0)
    assert [(axis.number, axis.name, axis.unit, axis.exponent) for axis in axes] == [
        (number, f"acceleration_{name}", SensorUnit.METER_PER_SECOND_SQUARED, -3)
        for number, name in enumerate("XYZ")
    ]
    assert [axis.range.minimum if axis.range else None for axis in axes] == [-20000] * 3
    assert [reading.value for reading in scmi.readings(0)] == [500, -1000, 9810]
    acceleration.value = (1, 2, 3)
    assert acceleration.value == (1, 2, 3)
    assert [reading.value for reading in scmi.readings(0)] == [1000, 2000, 3000]
    assert status_of(lambda: scmi.sensor(ScmiSensor.AXIS_DESCRIPTION_GET, 0, 4)) == ScmiStatus.OUT_OF_RANGE


def test_hundreds_of_sensors_are_described_in_messages_that_linux_has_room_for(drive_scmi: Drive) -> None:
    sensors = [
        Sensor(f"s{number}", value=number, limits=(0, 1) if number % 3 else None) for number in range(300)
    ]
    scmi = drive_scmi(Scmi(*sensors))
    assert [each.name for each in scmi.sensors] == [f"s{number}" for number in range(300)]
    assert scmi.value(299) == 299
    assert scmi.sensor(ScmiSensor.DESCRIPTION_GET, 300) == bytes(4)
    assert status_of(lambda: scmi.sensor(ScmiSensor.DESCRIPTION_GET, 301)) == ScmiStatus.OUT_OF_RANGE
    assert (
        status_of(lambda: scmi.ask(SENSOR, ScmiSensor.DESCRIPTION_GET, 0, room=35)) == ScmiStatus.COMMS_ERROR
    )
    one = scmi.ask(SENSOR, ScmiSensor.DESCRIPTION_GET, 0, room=36)
    assert struct.unpack("<HH", one[:4]) == (1, 299)


def test_a_sensor_is_disabled_enabled_and_given_timestamps(drive_scmi: Drive) -> None:
    scmi = drive_scmi(Scmi(Sensor("cpu", value=1)))
    assert scmi.config(0) == SECOND | SensorConfigBit.ENABLED
    assert scmi.readings(0)[0].timestamp == 0
    scmi.set_config(0, SensorConfigBit.ENABLED | SensorConfigBit.TIMESTAMPS)
    before = time.monotonic_ns()
    assert before <= scmi.readings(0)[0].timestamp <= time.monotonic_ns()
    scmi.set_config(0, 0)
    assert status_of(lambda: scmi.readings(0)) == ScmiStatus.PROTOCOL_ERROR
    scmi.set_config(0, SensorConfigBit.ENABLED)
    assert scmi.value(0) == 1
    assert status_of(lambda: scmi.set_config(0, 1 << 8)) == ScmiStatus.INVALID_PARAMETERS


@pytest.mark.parametrize("sensor", [Measuring("water"), Sensor("model")], ids=lambda each: each.name)
def test_every_sensor_has_intervals(drive_scmi: Drive, sensor: Sensor) -> None:
    scmi = drive_scmi(Scmi(sensor))
    assert scmi.intervals(0) == pytest.approx([0.1, 1, 10])
    assert status_of(lambda: scmi.sensor(ScmiSensor.LIST_UPDATE_INTERVALS, 0, 4)) == ScmiStatus.OUT_OF_RANGE
    down, up, nearest = 0, SensorConfigBit.ROUND_UP, SensorConfigBit.ROUND_TO_NEAREST
    for milliseconds, rounding, (count, power) in (
        (1, down, INTERVALS[0]),
        (100, up, INTERVALS[0]),
        (100, down, INTERVALS[0]),
        (101, up, INTERVALS[1]),
        (999, down, INTERVALS[0]),
        (900, nearest, INTERVALS[1]),
        (60_000, up, INTERVALS[2]),
        (60_000, nearest, INTERVALS[2]),
        (9_999, down, INTERVALS[1]),
    ):
        scmi.set_config(0, milliseconds << 16 | (-3 & 0x1F) << 11 | rounding | 1)
        assert scmi.config(0) == count << 16 | (power & 0x1F) << 11 | 1, (milliseconds, rounding)
    scmi.set_config(0, 1)
    assert scmi.config(0) >> 11  # no interval: as it was


@pytest.mark.parametrize(
    ("protocol", "message", "words", "status"),
    [
        (0x14, 0, (), ScmiStatus.NOT_SUPPORTED),
        (BASE, 9, (), ScmiStatus.NOT_SUPPORTED),
        (BASE, 0, (1,), ScmiStatus.PROTOCOL_ERROR),
        (BASE, 1, (1,), ScmiStatus.PROTOCOL_ERROR),
        (BASE, 2, (), ScmiStatus.PROTOCOL_ERROR),
        (BASE, 2, (9,), ScmiStatus.NOT_FOUND),
        (BASE, 3, (0,), ScmiStatus.PROTOCOL_ERROR),
        (BASE, 8, (2,), ScmiStatus.INVALID_PARAMETERS),
        (SENSOR, 12, (), ScmiStatus.NOT_SUPPORTED),
        (SENSOR, 4, (1, 1), ScmiStatus.NOT_FOUND),
        (SENSOR, 4, (0, 2), ScmiStatus.INVALID_PARAMETERS),
        (SENSOR, 5, (0, 4 << 4, 0, 0), ScmiStatus.INVALID_PARAMETERS),
        (SENSOR, 5, (0, 4, 0, 0), ScmiStatus.INVALID_PARAMETERS),
        (SENSOR, 6, (1, 0), ScmiStatus.NOT_FOUND),
        (SENSOR, 6, (0xFFFF_FFFF, 0), ScmiStatus.NOT_FOUND),
        (SENSOR, 6, (0, 2), ScmiStatus.INVALID_PARAMETERS),
        (SENSOR, 6, (0,), ScmiStatus.PROTOCOL_ERROR),
        (SENSOR, 7, (0, 0), ScmiStatus.NOT_SUPPORTED),
        (SENSOR, 8, (1, 0), ScmiStatus.NOT_FOUND),
        (SENSOR, 9, (1,), ScmiStatus.NOT_FOUND),
        (SENSOR, 10, (1, 1), ScmiStatus.NOT_FOUND),
        (SENSOR, 11, (0, 0xFFFF_FFFF), ScmiStatus.INVALID_PARAMETERS),
    ],
)
def test_commands_that_cannot_be_get_the_status_of_scmi_and_nothing_else(
    drive_scmi: Drive, protocol: int, message: int, words: tuple[int, ...], status: ScmiStatus
) -> None:
    scmi = drive_scmi(Scmi(Sensor("cpu")))
    header = ScmiHeader(message, protocol, token=7).pack()
    data = header + struct.pack(f"<{len(words)}I", *words)
    assert scmi.queue(0).request(data, 100) == header + struct.pack("<i", status)


def test_what_is_not_a_command_comes_back(drive_scmi: Drive, virtio: Virtio) -> None:
    scmi = drive_scmi(Scmi(Sensor("cpu")))
    header = ScmiHeader(0, BASE).pack()
    for readable, writable in ((b"", 12), (header[:3], 12), (header, 0), (header, 7)):
        assert scmi.queue(0).request(readable, writable) == b""
    assert scmi.queue(0).request(header, 8) == header + struct.pack("<i", ScmiStatus.COMMS_ERROR)
    for kind in (1, ScmiType.DELAYED_RESPONSE, ScmiType.NOTIFICATION):
        wrong = ScmiHeader(0, BASE, kind).pack()
        assert scmi.queue(0).request(wrong, 12) == wrong + struct.pack("<i", ScmiStatus.NOT_SUPPORTED)
    assert virtio.errors == []


def test_a_protocol_with_a_fault_is_a_generic_error(drive_scmi: Drive, virtio: Virtio) -> None:
    class Faulty(ScmiProtocol):
        number = 0x99

        def attributes(self) -> bytes:
            raise ZeroDivisionError

    scmi = drive_scmi(Scmi(protocols=[Faulty()]))
    assert status_of(lambda: scmi.ask(0x99, 1)) == ScmiStatus.GENERIC_ERROR
    assert len(virtio.errors) == 1
    virtio.errors.clear()
    assert scmi.version(0x99) == (1, 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sensor("a name of 16 let"), "up to 15 ASCII"),
        (lambda: Sensor("größe"), "up to 15 ASCII"),
        (lambda: Sensor("x", axes=["zero\0"]), "up to 15 ASCII"),
        (lambda: Sensor("x", axes=[str(number) for number in range(64)]), "64 axes"),
        (lambda: Sensor("x", trip_points=17), "17 trip points"),
        (lambda: Sensor("x", exponent=16), "exponent of 16"),
        (lambda: Sensor("x", value=1e17), "does not fit into 64 bits"),
        (lambda: Sensor("x", value=(1, 2)), "shows 1 values, not 2"),
        (lambda: Scmi(Sensor("x"), Sensor("x")), "a name of its own"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_sensors_are_found_by_name_and_number() -> None:
    cpu, gpu = Sensor("cpu"), Sensor("gpu")
    device = Scmi(cpu, gpu)
    assert (device.sensor("gpu"), device.sensor(0)) == (gpu, cpu)
    assert repr(gpu) == "<Sensor gpu>"
    with pytest.raises(KeyError):
        device.sensor("water")
    with pytest.raises(IndexError):
        device.sensor(2)
