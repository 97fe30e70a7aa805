"""The SCMI platform, driven in this process; C053, C054, C075, C124, C125, C134; virtio 1.4, 5.17."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from vhost_user.devices import Scmi, Sensor
from vhost_user.devices.scmi_protocol import Command, ScmiProtocol
from vhost_user.devices.scmi_sensors import MOST_DELAYED
from vhost_user.devices.scmi_settings import INTERVALS
from vhost_user.frontend import DeviceError, PeerTimeout, ScmiDriver
from vhost_user.spec.scmi import (
    ScmiBase,
    ScmiEvent,
    ScmiHeader,
    ScmiMessage,
    ScmiProtocolId,
    ScmiSensor,
    ScmiStatus,
    ScmiType,
    SensorConfigBit,
    SensorLow,
    SensorUnit,
)
from vhost_user.testing.virtio import Virtio

Drive = Callable[..., ScmiDriver]
BASE, SENSOR = ScmiProtocolId.BASE, ScmiProtocolId.SENSOR
SECOND = 1 << 16
"""The interval that a sensor has at first, as its configuration shows it."""
MOMENT = 0.05
"""Seconds in which nothing is expected to come."""


@pytest.fixture(params=[False, True], ids=["split", "packed"])
def packed(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def drive(virtio: Virtio, packed: bool) -> Drive:
    def up(device: Scmi, **options: Any) -> ScmiDriver:
        return virtio.attach(device, packed=packed).drive(ScmiDriver, **options)

    return up


def status_of(call: Callable[[], object]) -> int | None:
    with pytest.raises(DeviceError) as error:
        call()
    return error.value.status


class Measuring(Sensor):
    """Nobody tells of its changes; it may fail."""

    polled = True
    broken = False

    def readings(self) -> tuple[int, ...]:
        if self.broken:
            raise OSError("the wire is cut")
        return super().readings()


def test_the_base_protocol_says_who_is_there(drive: Drive) -> None:
    scmi = drive(Scmi())
    assert scmi.version() == (2, 0)
    assert scmi.vendor() == "vhost-user"
    assert scmi.ask(BASE, ScmiBase.DISCOVER_SUB_VENDOR) == bytes(16)
    assert scmi.ask(BASE, ScmiBase.DISCOVER_IMPLEMENTATION_VERSION) == b"\1\0\0\0"
    assert scmi.ask(BASE, ScmiMessage.PROTOCOL_ATTRIBUTES) == b"\1\1\0\0"
    assert scmi.protocols() == [SENSOR]
    assert (scmi.agent(0), scmi.agent(1), scmi.agent()) == ((0, "platform"), (1, "OSPM"), (1, "OSPM"))
    assert status_of(lambda: scmi.agent(2)) == ScmiStatus.NOT_FOUND
    assert status_of(lambda: scmi.ask(BASE, ScmiBase.DISCOVER_LIST_PROTOCOLS, 2)) == -2


def test_many_protocols_are_listed_as_many_at_a_time_as_fit(drive: Drive) -> None:
    class Of(ScmiProtocol):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

    scmi = drive(Scmi(protocols=[Of(0x80 + number) for number in reversed(range(100))]))
    expected = [SENSOR, *range(0x80, 0x80 + 100)]
    assert scmi.protocols() == expected
    few = scmi.ask(BASE, ScmiBase.DISCOVER_LIST_PROTOCOLS, 1, room=4 + 4 + 4)
    assert few == b"\4\0\0\0" + bytes(expected[1:5])
    assert status_of(lambda: scmi.ask(BASE, ScmiBase.DISCOVER_LIST_PROTOCOLS, 0, room=11)) == -7
    with pytest.raises(ValueError, match="same number"):
        Scmi(protocols=[Of(0x15)])


def test_a_protocol_of_ones_own(drive: Drive) -> None:
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

    scmi = drive(Scmi(protocols=[Counter()]))
    assert scmi.version(0x82) == (1, 2)
    assert [scmi.ask(0x82, 3, 5), scmi.ask(0x82, 3, 7)] == [b"\5\0\0\0", b"\x0c\0\0\0"]
    assert (scmi.has_message(0x82, 3), scmi.has_message(0x82, 4)) == (True, False)
    assert status_of(lambda: scmi.ask(0x82, 3)) == ScmiStatus.PROTOCOL_ERROR
    assert status_of(lambda: scmi.ask(0x82, 3, 1, 2)) == ScmiStatus.PROTOCOL_ERROR


def test_sensors_are_described_and_read(drive: Drive) -> None:
    cpu = Sensor("cpu", SensorUnit.CELSIUS, value=21.5)
    fan = Sensor("fan", SensorUnit.RPM, exponent=0, value=1200, limits=(0, 5000), resolution=60)
    scmi = drive(Scmi(cpu, fan))
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


def test_a_sensor_with_axes(drive: Drive) -> None:
    acceleration = Sensor(
        "acceleration", SensorUnit.METER_PER_SECOND_SQUARED, axes="XYZ", value=(0.5, -1, 9.81),
        limits=(-20, 20), resolution=0.001,
    )  # fmt: skip
    scmi = drive(Scmi(acceleration))
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


def test_hundreds_of_sensors_are_described_in_messages_that_linux_has_room_for(drive: Drive) -> None:
    sensors = [
        Sensor(f"s{number}", value=number, limits=(0, 1) if number % 3 else None) for number in range(300)
    ]
    scmi = drive(Scmi(*sensors))
    assert [each.name for each in scmi.sensors] == [f"s{number}" for number in range(300)]
    assert scmi.value(299) == 299
    assert scmi.sensor(ScmiSensor.DESCRIPTION_GET, 300) == bytes(4)
    assert status_of(lambda: scmi.sensor(ScmiSensor.DESCRIPTION_GET, 301)) == ScmiStatus.OUT_OF_RANGE
    assert (
        status_of(lambda: scmi.ask(SENSOR, ScmiSensor.DESCRIPTION_GET, 0, room=35)) == ScmiStatus.COMMS_ERROR
    )
    one = scmi.ask(SENSOR, ScmiSensor.DESCRIPTION_GET, 0, room=36)
    assert struct.unpack("<HH", one[:4]) == (1, 299)


def test_a_sensor_is_disabled_enabled_and_given_timestamps(drive: Drive) -> None:
    scmi = drive(Scmi(Sensor("cpu", value=1)))
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
def test_every_sensor_has_intervals(drive: Drive, sensor: Sensor) -> None:
    scmi = drive(Scmi(sensor))
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


def test_updates_are_told(drive: Drive) -> None:
    cpu, other = Sensor("cpu", value=1), Sensor("other")
    scmi = drive(Scmi(cpu, other))
    cpu.value = 2
    with pytest.raises(PeerTimeout):
        scmi.wait_event(timeout=MOMENT)
    scmi.notify_updates(0)
    other.value = 5
    cpu.value = 3
    assert scmi.wait_update() == (0, [3000])
    for number in range(20):  # more than there are buffers
        cpu.value = number
        assert scmi.wait_update() == (0, [1000 * number])
    scmi.notify_updates(0, False)
    cpu.value = 4
    with pytest.raises(PeerTimeout):
        scmi.wait_event(timeout=MOMENT)


def test_updates_without_buffers_are_one_with_the_latest_value(drive: Drive) -> None:
    cpu = Sensor("cpu")
    scmi = drive(Scmi(cpu))
    scmi.notify_updates(0)
    scmi.stop_queue(1)
    for number in range(1000):
        cpu.value = number
    scmi.start_queue(1)
    scmi.frontend.set_vring_enable(1, True)
    assert scmi.wait_update() == (0, [999_000])
    with pytest.raises(PeerTimeout):
        scmi.wait_event(timeout=MOMENT)


def test_trip_points_are_told_when_they_are_crossed(drive: Drive) -> None:
    cpu = Sensor("cpu", value=40)
    scmi = drive(Scmi(cpu))
    assert scmi.sensors[0].trip_points == 4
    scmi.set_trip_point(0, 0, 80_000, 1)
    scmi.set_trip_point(0, 3, 60_000, 2)
    cpu.value = 90
    cpu.value = 40
    with pytest.raises(PeerTimeout):
        scmi.wait_event(timeout=MOMENT)  # nobody asked yet
    scmi.notify_crossings(0)
    cpu.value = 79.999
    cpu.value = 80
    assert scmi.wait_crossing() == (0, 0, True)
    cpu.value = 95  # it is above already
    cpu.value = 70
    cpu.value = 59
    assert scmi.wait_crossing() == (0, 3, False)
    scmi.set_trip_point(0, 0, -5_000, 3)
    cpu.value = -10
    assert scmi.wait_crossing() == (0, 0, False)
    cpu.value = 0
    assert scmi.wait_crossing() == (0, 0, True)
    scmi.set_trip_point(0, 0, 0, 0)
    cpu.value = -10
    with pytest.raises(PeerTimeout):
        scmi.wait_event(timeout=MOMENT)


def test_a_sensor_that_measures_is_looked_at_while_somebody_wants_to_hear(drive: Drive) -> None:
    water = Measuring("water", value=10)
    scmi = drive(Scmi(Sensor("model"), water))
    scmi.set_config(1, 1 << 16 | (-1 & 0x1F) << 11 | 1)
    scmi.set_trip_point(1, 0, 50_000, 1)
    scmi.notify_crossings(1)
    water.shown = (60_000,)  # nobody tells
    assert scmi.wait_crossing() == (1, 0, True)
    scmi.notify_updates(1)
    assert scmi.wait_update() == (1, [60_000])
    water.shown = (61_000,)
    while scmi.wait_update() != (1, [61_000]):
        pass
    scmi.notify_updates(1, False)
    scmi.notify_crossings(1, False)
    while True:  # one may have been under way
        try:
            scmi.wait_event(timeout=0.3)
        except PeerTimeout:
            break


def test_a_reading_may_come_later(drive: Drive) -> None:
    scmi = drive(Scmi(Sensor("cpu", value=1), Sensor("gpu", value=2)))
    assert scmi.sensors[0].low & SensorLow.ASYNC_READ
    tokens = [scmi.read_later(number) for number in (1, 0, 1)]
    values = {0: [1000], 1: [2000]}
    for number, token in zip((1, 0, 1), tokens, strict=True):
        assert scmi.wait_reading() == (token, number, values[number])


def test_delayed_responses_wait_for_buffers_and_are_bounded(drive: Drive) -> None:
    scmi = drive(Scmi(Sensor("cpu", value=1)))
    scmi.stop_queue(1)
    tokens = [scmi.read_later(0) for _ in range(MOST_DELAYED)]
    assert status_of(lambda: scmi.read_later(0)) == ScmiStatus.BUSY
    scmi.start_queue(1)
    scmi.frontend.set_vring_enable(1, True)
    assert [scmi.wait_reading()[0] for _ in tokens] == tokens
    scmi.read_later(0)


def test_a_sensor_that_fails_is_a_hardware_error_and_an_event(drive: Drive) -> None:
    water = Measuring("water", value=1)
    scmi = drive(Scmi(water))
    scmi.notify_errors()
    water.broken = True
    assert status_of(lambda: scmi.readings(0)) == ScmiStatus.HARDWARE_ERROR
    event = scmi.wait_event()
    assert (event.header.type, event.header.protocol, event.header.message) == (3, BASE, ScmiEvent.BASE_ERROR)
    agent, error_status, header, code = event.words()
    assert (agent, error_status, code) == (1, 1, ScmiStatus.HARDWARE_ERROR & 0xFFFF_FFFF)
    failed = ScmiHeader.unpack(struct.pack("<I", header))
    assert (failed.protocol, failed.message) == (SENSOR, ScmiSensor.READING_GET)
    scmi.read_later(0)
    assert status_of(scmi.wait_reading) == ScmiStatus.HARDWARE_ERROR
    water.broken = False
    assert scmi.value(0) == 1


def test_errors_that_a_program_reports(drive: Drive) -> None:
    device = Scmi()
    scmi = drive(device)
    device.report_error()  # nobody wants to know
    scmi.notify_errors()
    scmi.stop_queue(1)
    for _ in range(20):
        device.report_error(ScmiStatus.HARDWARE_ERROR, fatal=True)
    scmi.start_queue(1)
    scmi.frontend.set_vring_enable(1, True)
    words = scmi.wait_event().words()
    assert words[:2] == (0, 1 << 31 | 8)  # the platform's own
    device.report_error()
    assert scmi.wait_event().words()[1] == 1
    scmi.notify_errors(False)
    device.report_error()
    with pytest.raises(PeerTimeout):
        scmi.wait_event(timeout=MOMENT)


def test_without_the_feature_there_are_neither_events_nor_words_of_them(drive: Drive) -> None:
    cpu = Sensor("cpu", value=1)
    scmi = drive(Scmi(cpu), features=0)
    (description,) = scmi.sensors
    assert (description.trip_points, description.low & 0xC000_0000) == (0, 0)
    asking = {SENSOR: (4, 5, 11), BASE: (8,)}
    for protocol, messages in asking.items():
        for message in messages:
            assert not scmi.has_message(protocol, message)
    for call in (
        lambda: scmi.notify_updates(0),
        lambda: scmi.notify_crossings(0),
        lambda: scmi.set_trip_point(0, 0, 1, 1),
        scmi.notify_errors,
        lambda: scmi.read_later(0),
    ):
        assert status_of(call) == ScmiStatus.NOT_SUPPORTED
    assert scmi.value(0) == 1
    cpu.value = 2


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
    drive: Drive, protocol: int, message: int, words: tuple[int, ...], status: ScmiStatus
) -> None:
    scmi = drive(Scmi(Sensor("cpu")))
    header = ScmiHeader(message, protocol, token=7).pack()
    data = header + struct.pack(f"<{len(words)}I", *words)
    assert scmi.queue(0).request(data, 100) == header + struct.pack("<i", status)


def test_what_is_not_a_command_comes_back(drive: Drive, virtio: Virtio) -> None:
    scmi = drive(Scmi(Sensor("cpu")))
    header = ScmiHeader(0, BASE).pack()
    for readable, writable in ((b"", 12), (header[:3], 12), (header, 0), (header, 7)):
        assert scmi.queue(0).request(readable, writable) == b""
    assert scmi.queue(0).request(header, 8) == header + struct.pack("<i", ScmiStatus.COMMS_ERROR)
    for kind in (1, ScmiType.DELAYED_RESPONSE, ScmiType.NOTIFICATION):
        wrong = ScmiHeader(0, BASE, kind).pack()
        assert scmi.queue(0).request(wrong, 12) == wrong + struct.pack("<i", ScmiStatus.NOT_SUPPORTED)
    assert virtio.errors == []


def test_a_protocol_with_a_fault_is_a_generic_error(drive: Drive, virtio: Virtio) -> None:
    class Faulty(ScmiProtocol):
        number = 0x99

        def attributes(self) -> bytes:
            raise ZeroDivisionError

    scmi = drive(Scmi(protocols=[Faulty()]))
    assert status_of(lambda: scmi.ask(0x99, 1)) == ScmiStatus.GENERIC_ERROR
    assert len(virtio.errors) == 1
    virtio.errors.clear()
    assert scmi.version(0x99) == (1, 0)


def test_C075_C134_what_a_driver_has_set_ends_with_it(virtio: Virtio, packed: bool) -> None:
    cpu = Sensor("cpu", value=1)
    attached = virtio.attach(Scmi(cpu), packed=packed)
    for reset in (True, False, True):
        scmi = attached.drive(ScmiDriver)
        assert scmi.config(0) == SECOND | SensorConfigBit.ENABLED
        cpu.value = 50
        with pytest.raises(PeerTimeout):
            scmi.wait_event(timeout=MOMENT)
        scmi.notify_updates(0)
        scmi.notify_errors()
        scmi.stop_queue(1)
        cpu.value = 60
        scmi.set_config(0, 0)
        if reset:
            scmi.frontend.reset_device(need_reply=True)
        attached.disconnect()


def test_C124_settings_values_and_events_go_along(virtio: Virtio) -> None:
    cpus = [Sensor("cpu", value=number) for number in (40, 0)]
    platforms = [Scmi(cpu) for cpu in cpus]
    source, target = map(virtio.attach, platforms)
    scmi = source.drive(ScmiDriver)
    scmi.set_config(0, 3)
    scmi.notify_updates(0)
    scmi.notify_crossings(0)
    scmi.notify_errors()
    scmi.set_trip_point(0, 1, 80_000, 3)
    scmi.stop_queue(1)
    token = scmi.read_later(0)
    cpus[0].value = 90
    platforms[0].report_error(ScmiStatus.BUSY)
    scmi.stop_queue(0)
    target.load_state(source.save_state())
    moved = target.drive(ScmiDriver)
    assert (moved.config(0), moved.value(0)) == (SECOND | 3, 90)
    assert moved.wait_reading() == (token, 0, [90_000])
    assert moved.wait_crossing() == (0, 1, True)
    assert moved.wait_update() == (0, [90_000])
    assert moved.wait_event().header.protocol == BASE
    cpus[1].value = 70
    assert moved.wait_crossing() == (0, 1, False)


GOOD = {
    "name": "cpu", "flags": [True] * 4, "interval": 0, "trip_points": [[0, 1, -5]], "last": None,
    "shown": [5],
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"name": "gpu"},
        {"flags": [True] * 3},
        {"flags": [1, 1, 1, 1]},
        {"interval": 3},
        {"interval": True},
        {"trip_points": [[4, 1, 1]]},
        {"trip_points": [[0, 0, 1]]},
        {"trip_points": [[0, 1, 1 << 63]]},
        {"trip_points": [[0, 1]]},
        {"trip_points": [[0, 1, 1]] * 17},
        {"last": "1"},
        {"shown": []},
        {"shown": [1.5]},
        None,
    ],
    ids=str,
)
def test_C125_a_state_that_is_none_is_refused(change: dict[str, object] | None) -> None:
    device = Scmi(Sensor("cpu"))
    base = [False, False, []]

    def state(sensors: object, pending: object = ()) -> dict[str, object]:
        return {"protocols": {"16": base, "21": sensors}, "pending": list(pending)}  # type: ignore[call-overload]

    device.load_state(state([GOOD]), 1)
    assert device.sensor("cpu").value == 0.005
    with pytest.raises(ValueError, match="state"):
        device.load_state(state([None if change is None else {**GOOD, **change}]), 1)
    with pytest.raises(ValueError, match="other sensors"):
        device.load_state(state([]), 1)


@pytest.mark.parametrize(
    "pending",
    [
        [[21]],
        [[21, "update"]],
        [[21, "update", 1]],
        [[21, "update", -1]],
        [[21, "update", 0, 0]],
        [[21, "crossing", 0, 1 << 17]],
        [[21, "delayed", 0, 1024]],
        [[21, "delayed", 0, 1], [21, "delayed", 0, 1]],
        [[21, ["update"], 0]],
        [[16, "update", 0]],
        [[99, "error"]],
        ["error"],
        None,
    ],
    ids=str,
)
def test_C125_events_that_are_none_are_refused(pending: object) -> None:
    device = Scmi(Sensor("cpu"))
    state = device.save_state()
    assert isinstance(state, dict)
    for wrong in (pending, [[21, "delayed", 0, number] for number in range(MOST_DELAYED + 1)]):
        with pytest.raises(ValueError, match="event"):
            device.load_state({**state, "pending": wrong}, 1)
    none: list[Any] = [None, {}, {"protocols": {}, "pending": []}]
    for nothing in none:
        with pytest.raises(ValueError, match="state"):
            device.load_state(nothing, 1)
    for wrong in (None, [1, 2, 3], [False, False, [[1, 1 << 32]]], [False, False, [[1]]]):
        with pytest.raises(ValueError, match="base protocol"):
            device.load_state({**state, "protocols": {**state["protocols"], "16": wrong}}, 1)


def test_C054_it_stops_at_once_while_sensors_change_in_another_thread(drive: Drive) -> None:
    cpu = Sensor("cpu")
    scmi = drive(Scmi(cpu))
    scmi.notify_updates(0)
    ended = threading.Event()

    def change() -> None:
        number = 0
        while not ended.is_set():
            cpu.value = number = number + 1

    thread = threading.Thread(target=change)
    thread.start()
    try:
        seen = []
        for _ in range(20):
            seen.append(scmi.wait_update()[1][0])
            before = time.monotonic()
            scmi.stop_queue(1)
            assert time.monotonic() - before < 1
            scmi.start_queue(1)
            scmi.frontend.set_vring_enable(1, True)
    finally:
        ended.set()
        thread.join()
    assert seen == sorted(seen)


def test_a_sensor_may_be_set_before_and_after_it_is_served(virtio: Virtio) -> None:
    cpu = Sensor("cpu")
    device = Scmi(cpu)
    cpu.value = 1
    attached = virtio.attach(device)
    scmi = attached.drive(ScmiDriver)
    scmi.notify_updates(0)
    attached.disconnect()
    assert attached.daemon is not None
    attached.daemon.close()
    cpu.value = 2
    device.report_error()


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
