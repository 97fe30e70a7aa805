"""What the SCMI platform tells by itself: updates, trip points, delayed responses, errors."""

from __future__ import annotations

import struct

import pytest

from tests.support.scmi import BASE, MOMENT, SENSOR, Drive, Measuring, status_of
from vhost_user.devices import Scmi, Sensor
from vhost_user.devices.scmi_sensors import MOST_DELAYED
from vhost_user.frontend import PeerTimeout
from vhost_user.spec.scmi import ScmiEvent, ScmiHeader, ScmiSensor, ScmiStatus, SensorLow


def test_updates_are_told(drive_scmi: Drive) -> None:
    cpu, other = Sensor("cpu", value=1), Sensor("other")
    scmi = drive_scmi(Scmi(cpu, other))
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


def test_updates_without_buffers_are_one_with_the_latest_value(drive_scmi: Drive) -> None:
    cpu = Sensor("cpu")
    scmi = drive_scmi(Scmi(cpu))
    scmi.notify_updates(0)
    scmi.stop_queue(1)
    for number in range(1000):
        cpu.value = number
    scmi.start_queue(1)
    scmi.frontend.set_vring_enable(1, True)
    assert scmi.wait_update() == (0, [999_000])
    with pytest.raises(PeerTimeout):
        scmi.wait_event(timeout=MOMENT)


def test_trip_points_are_told_when_they_are_crossed(drive_scmi: Drive) -> None:
    cpu = Sensor("cpu", value=40)
    scmi = drive_scmi(Scmi(cpu))
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


def test_a_sensor_that_measures_is_looked_at_while_somebody_wants_to_hear(drive_scmi: Drive) -> None:
    water = Measuring("water", value=10)
    scmi = drive_scmi(Scmi(Sensor("model"), water))
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


def test_a_reading_may_come_later(drive_scmi: Drive) -> None:
    scmi = drive_scmi(Scmi(Sensor("cpu", value=1), Sensor("gpu", value=2)))
    assert scmi.sensors[0].low & SensorLow.ASYNC_READ
    tokens = [scmi.read_later(number) for number in (1, 0, 1)]
    values = {0: [1000], 1: [2000]}
    for number, token in zip((1, 0, 1), tokens, strict=True):
        assert scmi.wait_reading() == (token, number, values[number])


def test_delayed_responses_wait_for_buffers_and_are_bounded(drive_scmi: Drive) -> None:
    scmi = drive_scmi(Scmi(Sensor("cpu", value=1)))
    scmi.stop_queue(1)
    tokens = [scmi.read_later(0) for _ in range(MOST_DELAYED)]
    assert status_of(lambda: scmi.read_later(0)) == ScmiStatus.BUSY
    scmi.start_queue(1)
    scmi.frontend.set_vring_enable(1, True)
    assert [scmi.wait_reading()[0] for _ in tokens] == tokens
    scmi.read_later(0)


def test_a_sensor_that_fails_is_a_hardware_error_and_an_event(drive_scmi: Drive) -> None:
    water = Measuring("water", value=1)
    scmi = drive_scmi(Scmi(water))
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


def test_errors_that_a_program_reports(drive_scmi: Drive) -> None:
    device = Scmi()
    scmi = drive_scmi(device)
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


def test_without_the_feature_there_are_neither_events_nor_words_of_them(drive_scmi: Drive) -> None:
    cpu = Sensor("cpu", value=1)
    scmi = drive_scmi(Scmi(cpu), features=0)
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
