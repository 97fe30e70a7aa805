"""The SCMI platform as it is stopped, reset and moved; C054, C075, C124, C125, C134."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from tests.support.scmi import BASE, MOMENT, SECOND, Drive
from vhost_user.devices import Scmi, Sensor
from vhost_user.devices.scmi_sensors import MOST_DELAYED
from vhost_user.frontend import PeerTimeout, ScmiDriver
from vhost_user.spec.scmi import ScmiStatus, SensorConfigBit
from vhost_user.testing.virtio import Virtio


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


@pytest.mark.alone
def test_C054_it_stops_at_once_while_sensors_change_in_another_thread(drive_scmi: Drive) -> None:
    cpu = Sensor("cpu")
    scmi = drive_scmi(Scmi(cpu))
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
