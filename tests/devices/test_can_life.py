"""The CAN controller as it is started, stopped, off the bus, reset, moved and killed.

C053, C054, C075, C124, C125, C130, C134.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.can_bus import SlowBus, raise_once
from tests.support.drivers import resume
from tests.support.front_end import until
from tests.support.killed_programs import lives, served
from vhost_user.devices import Can, CanFrame
from vhost_user.devices.can_bus import BusOffError
from vhost_user.frontend import CanDriver, DeviceError, PeerTimeout, RequestRefused
from vhost_user.spec.can import CanControl, CanHeader, CanMessage, CanStatus
from vhost_user.testing.virtio import Virtio

PROMPT = 0.5
"""Seconds in which a stop is to be answered although the bus takes nothing."""


@pytest.fixture
def drive(virtio: Virtio, packed: bool) -> Callable[..., CanDriver]:
    return lambda device, **options: virtio.attach(device, packed=packed).drive(CanDriver, **options)


def test_a_stopped_controller_sends_and_hears_nothing(drive: Callable[..., CanDriver]) -> None:
    bus = SlowBus()
    driver = drive(Can(bus), start=False)
    bus.frames.say(CanFrame(1))
    for _ in range(2):
        with pytest.raises(DeviceError, match="0x2: the device answers 01"):
            driver.send(2)
        with pytest.raises(PeerTimeout):
            driver.receive(timeout=0.2)
        driver.start()
        driver.send(3)
        bus.frames.say(CanFrame(4))
        assert driver.receive().can_id == 4
        driver.stop()
        bus.frames.say(CanFrame(1))
    assert [frame.can_id for frame in bus.sent] == [3, 3]


def test_a_stop_refuses_the_frames_that_wait(drive: Callable[..., CanDriver]) -> None:
    bus = SlowBus()
    driver = drive(Can(bus))
    bus.open.clear()
    pending = [driver.submit(number) for number in range(20)]
    assert bus.asked.wait(10)
    driver.stop()
    assert not bus.busy  # not before the frame in hand is done with
    for one in pending:
        assert one.wait(10) == b"\1"
        one.release()
    assert not bus.sent
    bus.open.set()
    driver.start()
    driver.send(7)
    assert [frame.can_id for frame in bus.sent] == [7]


def test_control_messages_that_there_are_not_are_refused(drive: Callable[..., CanDriver]) -> None:
    driver = drive(Can())
    for message in (b"", b"\1", CanControl(0).pack(), CanControl(0x0203).pack(), CanControl(0x0101).pack()):
        assert driver.queue(2).request(message, 1) == b"\1"
    driver.send(1)  # it is still started


@pytest.mark.parametrize("how", ["called", "sent", "received"])
def test_C130_off_the_bus_the_driver_is_told_and_starts_again(
    drive: Callable[..., CanDriver], how: str
) -> None:
    bus = SlowBus()
    device = Can(bus)
    driver = drive(device)
    assert driver.status() == 0
    if how == "called":
        device.bus_off()
    elif how == "sent":
        bus.error = BusOffError()
        with pytest.raises(DeviceError):
            driver.send(1)
        bus.error = None
    else:
        bus.frames.say(CanFrame(1))
        driver.receive()
        bus.frames.recv = raise_once(bus.frames.recv, BusOffError())  # type: ignore[method-assign]
    until(lambda: driver.config_changes, "the change")
    assert driver.status() == CanStatus.BUS_OFF
    with pytest.raises(DeviceError):
        driver.send(2)
    driver.start()
    assert driver.status() == 0
    driver.send(3)
    device.bus_off()
    driver.frontend.reset_device(need_reply=True)
    assert device.config.status == 0


@pytest.mark.alone
@pytest.mark.parametrize("queue", [0, 2], ids=["frames", "control"])
def test_C054_a_stop_while_the_bus_takes_nothing_is_answered_and_frames_come_again(
    drive: Callable[..., CanDriver], queue: int
) -> None:
    bus = SlowBus()
    driver = drive(Can(bus))
    answers = []
    for round_ in range(3):
        bus.open.clear()
        bus.asked.clear()
        pending = [driver.submit(number) for number in range(10)]
        assert bus.asked.wait(10)
        before = time.monotonic()
        driver.stop_queue(queue)
        assert time.monotonic() - before < PROMPT
        bus.open.set()
        resume(driver, queue)
        for one in pending:
            answers.append(one.wait(10))
            one.release()
        # The one that was in hand may have been refused by the bus, each other is sent once and in order.
        sent = [frame.can_id for frame in bus.sent]
        assert sent == [number for number, answer in enumerate(answers[round_ * 10 :]) if answer == b"\0"]
        bus.sent.clear()
    assert answers.count(b"\0") > 20


def test_C053_frames_that_came_while_the_queue_was_stopped_are_there_after_the_restart(
    drive: Callable[..., CanDriver],
) -> None:
    bus = SlowBus()
    driver = drive(Can(bus))
    driver.stop_queue(1)
    for number in range(10):
        bus.frames.say(CanFrame(number))
    resume(driver, 1)
    assert [driver.receive().can_id for _ in range(10)] == list(range(10))


def test_C075_C134_after_a_reset_and_a_new_driver_the_controller_is_stopped(
    virtio: Virtio, packed: bool
) -> None:
    bus = SlowBus()
    attached = virtio.attach(Can(bus), packed=packed)
    for reset in (True, False, True):
        driver = attached.drive(CanDriver, start=False)
        with pytest.raises(DeviceError):
            driver.send(1)
        driver.start()
        driver.send(2)
        if reset:
            driver.frontend.reset_device(need_reply=True)
        attached.disconnect()
    assert [frame.can_id for frame in bus.sent] == [2, 2, 2]


@pytest.mark.parametrize("started", [True, False])
def test_C124_the_state_goes_along(virtio: Virtio, started: bool) -> None:
    source, target = (virtio.attach(Can()) for _ in range(2))
    driver = source.drive(CanDriver, start=started)
    for queue in range(3):
        driver.stop_queue(queue)
    target.load_state(source.save_state())
    moved = target.drive(CanDriver, start=False)
    if started:
        moved.send(1)
    else:
        with pytest.raises(DeviceError):
            moved.send(1)


@pytest.mark.parametrize("state", [None, [], {}, {"started": 1, "status": 0}, {"started": True, "status": 2}])
def test_C125_a_state_that_is_none_is_refused(state: object) -> None:
    with pytest.raises(ValueError, match="of a CAN device"):
        Can().load_state(state, 1)


def test_C134_a_program_that_was_killed_goes_on_with_its_controller_started(tmp_path: Path) -> None:
    frame = CanHeader(CanMessage.TRANSMIT, 0, can_id=1).pack()
    with lives(served(tmp_path, "can", "--bus=null"), range(3)) as each:
        for life, front in each:
            if not life:
                assert front.request(0, frame, 1) == b"\1"
                assert front.request(2, CanControl(CanMessage.START).pack(), 1) == b"\0"
            assert front.request(0, frame, 1) == b"\0"


def test_a_state_that_is_none_is_refused_by_the_program_too(virtio: Virtio) -> None:
    attached = virtio.attach(Can())
    with pytest.raises(RequestRefused):
        attached.load_state(b"nonsense")
    virtio.errors.clear()
