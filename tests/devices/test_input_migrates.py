"""The state of input devices goes along; C124, C125."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.input_events import (
    ID,
    SLOT,
    SYN,
    X,
    Y,
    absolute,
    key,
    quiet,
    reports,
)
from vhost_user.devices import (
    Input,
    Keyboard,
    Touch,
)
from vhost_user.devices.input import BACKLOG
from vhost_user.frontend import InputDriver
from vhost_user.spec.input import (
    InputEvent,
)
from vhost_user.spec.input_codes import (
    Led,
    Synchronization,
)
from vhost_user.spec.input_keys import Key
from vhost_user.testing.virtio import Virtio, VirtioDevice


def stopped(device: VirtioDevice, driver: InputDriver) -> bytes:
    for queue in range(2):
        driver.stop_queue(queue)
    return device.save_state()


def test_C124_what_is_pressed_lit_and_on_its_way_goes_along(virtio: Virtio, packed: bool) -> None:
    here, there = Keyboard(), Keyboard()
    source, target = (virtio.attach(Input(each), packed=packed) for each in (here, there))
    driver = source.drive(InputDriver, buffers=0)
    driver.light(Led.LED_SCROLLL)
    here.press("shift")
    here.tap("a")
    driver.leave(3)
    begun = driver.events(minimum=3)
    assert begun == [
        *key(Key.KEY_LEFTSHIFT, 1),
        InputEvent(SYN, Synchronization.SYN_REPORT, 0),
        *key(Key.KEY_A, 1),
    ]
    target.load_state(stopped(source, driver))
    assert there.leds == {Led.LED_SCROLLL}
    assert there.pressed == {Key.KEY_LEFTSHIFT}
    moved = target.drive(InputDriver)
    assert moved.report() == []  # the end of the one that had begun
    assert moved.report() == key(Key.KEY_A, 0)
    there.release()
    assert moved.report() == key(Key.KEY_LEFTSHIFT, 0)
    quiet(moved)


def test_C124_fingers_go_along(virtio: Virtio) -> None:
    here, there = Touch(100, 100), Touch(100, 100)
    source, target = (virtio.attach(Input(each)) for each in (here, there))
    driver = source.drive(InputDriver)
    here.down(1, 2)
    here.down(3, 4)
    reports(driver, 2)
    target.load_state(stopped(source, driver))
    moved = target.drive(InputDriver)
    assert [contact.slot for contact in there.contacts] == [0, 1]
    there.contacts[1].move_to(3, 5)
    assert moved.report() == absolute((Y, 5))  # the slot is the one that was named last, over there
    there.contacts[0].move_to(9, 2)
    assert moved.report() == absolute((SLOT, 0), (X, 9), (0, 9))
    there.down(5, 5)
    assert moved.report()[:2] == absolute((SLOT, 2), (ID, 2))
    quiet(moved)


def test_C124_what_was_dropped_is_told_elsewhere(virtio: Virtio) -> None:
    here, there = Keyboard(), Keyboard()
    source, target = (virtio.attach(Input(each)) for each in (here, there))
    driver = source.drive(InputDriver, buffers=0)
    here.press("a")
    for _ in range(BACKLOG):
        here.tap("b")
    target.load_state(stopped(source, driver))
    moved = target.drive(InputDriver)
    assert reports(moved, 2) == [
        [InputEvent(SYN, Synchronization.SYN_DROPPED, 0)],
        key(Key.KEY_A, 1),
    ]


def good_state() -> dict[str, Any]:
    state = Input(Keyboard()).save_state()
    assert isinstance(state, dict)
    return state


END = [0, 0, 0]


@pytest.mark.parametrize(
    "change",
    [
        {"driver": 1},
        {"behind": None},
        {"state": None},
        {"state": {}},
        {"state": {"keys": [1 << 16]}},
        {"known": []},
        {"begun": [[1, 2]]},
        {"begun": [[1, 2, 3]]},
        {"begun": [[1, 2, 1 << 31], END]},
        {"begun": [[1, True, 3], END]},
        {"waiting": None},
        {"waiting": [[]]},
        {"waiting": [[[1, 2, 3]]]},
        {"waiting": [END * 3000]},
        {"source": None},
        {"source": ["on"]},
    ],
    ids=str,
)
def test_C125_a_state_that_is_none_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"input device|keyboard|event"):
        Input(Keyboard()).load_state({**good_state(), **change}, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"keys": None},
        {"switches": ["a"]},
        {"axes": [[1]]},
        {"axes": [3]},
        {"axes": {}},
        {"contacts": 5},
        {"contacts": [[0]]},
        {"contacts": [[-1, []]]},
        {"contacts": [[0, [["x", 0]]]]},
        {"slot": "0"},
        {"slot": 1 << 40},
    ],
    ids=str,
)
def test_C125_a_state_of_what_is_pressed_that_is_none_is_refused(change: dict[str, Any]) -> None:
    state = good_state()
    with pytest.raises(ValueError, match=r"input device|contact|event|slot"):
        Input(Touch()).load_state({**state, "state": {**state["state"], **change}}, 1)


def test_C125_a_state_is_a_map() -> None:
    Input(Keyboard()).load_state(good_state(), 1)
    with pytest.raises(ValueError, match="an input device is a map"):
        Input(Keyboard()).load_state([], 1)


def test_a_source_belongs_to_one_device() -> None:
    keyboard = Keyboard()
    Input(keyboard)
    with pytest.raises(ValueError, match="belongs to a device already"):
        Input(keyboard)
