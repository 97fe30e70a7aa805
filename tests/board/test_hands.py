"""Keys and pads: what is typed, moved and touched on a page is what a driver gets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.browser import Browser, Page
from vhost_user.board import Board, Keys, Pad, Panel
from vhost_user.board.hands import linux_name
from vhost_user.board.server import PageServer
from vhost_user.board.viewer import Viewer
from vhost_user.devices import Input, Keyboard, Pointer, Tablet, Touch
from vhost_user.frontend import InputDriver
from vhost_user.spec.input_codes import Absolute, EventType, Led, Relative
from vhost_user.spec.input_keys import Key
from vhost_user.testing.virtio import Virtio

DOWN, UP = 1, 0
Told = tuple[int, int, int]


def told(driver: InputDriver) -> list[Told]:
    """The next report."""
    return [(event.type, event.code, event.value) for event in driver.report()]


def key(code: Key, value: int) -> list[Told]:
    return [(EventType.EV_KEY, code, value)]


@pytest.mark.parametrize(
    ("place", "code"),
    [
        ("KeyA", Key.KEY_A),
        ("Digit7", Key.KEY_7),
        ("F11", Key.KEY_F11),
        ("Enter", Key.KEY_ENTER),
        ("ArrowUp", Key.KEY_UP),
        ("ShiftLeft", Key.KEY_LEFTSHIFT),
        ("AltRight", Key.KEY_RIGHTALT),
        ("ControlRight", Key.KEY_RIGHTCTRL),
        ("MetaLeft", Key.KEY_LEFTMETA),
        ("Numpad4", Key.KEY_KP4),
        ("NumpadEnter", Key.KEY_KPENTER),
        ("CapsLock", Key.KEY_CAPSLOCK),
        ("Quote", Key.KEY_APOSTROPHE),
        ("Slash", Key.KEY_SLASH),
        ("Space", Key.KEY_SPACE),
        ("PageDown", Key.KEY_PAGEDOWN),
        ("IntlBackslash", Key.KEY_102ND),
    ],
)
def test_the_names_of_browsers_are_those_of_linux(place: str, code: Key) -> None:
    assert Key[linux_name(place)] is code


def test_a_key_is_pressed_while_anybody_holds_it(virtio: Virtio) -> None:
    keyboard = Keyboard()
    keys = Keys(keyboard)
    driver = virtio.attach(Input(keyboard)).drive(InputDriver)
    for who, value in (("a", 1), ("b", 1), ("a", 1), ("a", 0), ("c", 0), ("b", 0)):
        keys.act(["KeyA", value], who)
    assert [told(driver), told(driver)] == [key(Key.KEY_A, DOWN), key(Key.KEY_A, UP)]
    keys.act(["ShiftLeft", 1], "a")
    keys.act(["KeyB", 1], "a")
    assert keys.value()["pressed"] == ["leftshift", "b"]
    keys.left("a")
    assert keys.value()["pressed"] == []
    driver.light(Led.LED_CAPSL)
    keyboard.wait_for_led(Led.LED_CAPSL)
    assert keys.value()["leds"] == {"Num": False, "Caps": True, "Scroll": False}
    for nonsense in (["KeyA", 2], ["KeyA"], "KeyA", [1, 1], None):
        with pytest.raises(ValueError, match="is not a key, and 1 or 0"):
            keys.act(nonsense, "a")
    for name in ("KeyÄ", "", "Key A", "BrowserThing"):
        with pytest.raises(ValueError, match="is not the name of a key"):
            keys.act([name, 1], "a")


def test_a_mouse_moves_and_clicks(virtio: Virtio) -> None:
    pad = Pad(mouse := Pointer())
    driver = virtio.attach(Input(mouse)).drive(InputDriver)
    assert pad.describe()["mode"] == "moves"
    pad.act({"move": [3, -4]}, "a")
    pad.act({"button": ["right", 1]}, "a")
    assert pad.value() == "right"
    pad.left("a")
    pad.act({"scroll": -2}, "a")
    assert told(driver) == [(EventType.EV_REL, Relative.REL_X, 3), (EventType.EV_REL, Relative.REL_Y, -4)]
    assert [told(driver), told(driver)] == [key(Key.BTN_RIGHT, DOWN), key(Key.BTN_RIGHT, UP)]
    assert told(driver)[0] == (EventType.EV_REL, Relative.REL_WHEEL, -2)
    odd: tuple[object, ...] = (
        {"move": [20_000, 0]},
        {"move": [1.5, 0]},
        {"at": [0, 0]},
        {"button": ["touch", 1]},
        {"button": ["left", 2]},
        {"scroll": 10**9},
        {"finger": [1, 0, 0]},
        [],
        None,
    )
    for nonsense in odd:
        with pytest.raises(ValueError, match="is nothing that it does"):
            pad.act(nonsense, "a")


def test_a_tablet_points(virtio: Virtio) -> None:
    pad = Pad(tablet := Tablet(1001, 501))
    driver = virtio.attach(Input(tablet)).drive(InputDriver)
    assert pad.describe() == {"mode": "points", "sides": [1001, 501]}
    pad.act({"at": [0.5, 1]}, "a")
    assert told(driver) == [(EventType.EV_ABS, Absolute.ABS_X, 500), (EventType.EV_ABS, Absolute.ABS_Y, 500)]
    for nonsense in ([1.5, 0], [-0.1, 0], ["0", 0], [True, 0], [float("nan"), 0]):
        with pytest.raises(ValueError, match="two numbers from 0 to 1"):
            pad.act({"at": nonsense}, "a")


def test_fingers_touch_and_are_lifted_with_their_page(virtio: Virtio) -> None:
    screen = Touch(101, 101)
    board = Board(screen=Input(screen))
    virtio.attach(board.devices["screen"]).drive(InputDriver)
    first, second = Viewer(board), Viewer(board)
    name = f"screen/{screen.description.name}"

    def touch(viewer: Viewer, *finger: float) -> str | None:
        return viewer.act(json.dumps({"control": name, "value": {"finger": finger}}))

    assert [touch(first, 1, 0.1, 0.1), touch(first, 2, 0.2, 0.2), touch(second, 1, 0.3, 0.3)] == 3 * [None]
    assert first.news()[name] == "3 fingers"
    assert touch(first, 1, 0.9, 0.9) is None
    assert touch(first, 1) is None
    assert touch(first, 7) is None
    assert len(screen.contacts) == 2
    first.close()
    assert second.news()[name] == "1 finger"
    second.close()
    assert not screen.contacts


def test_each_source_has_its_panel() -> None:
    for source, kind in ((Keyboard(), Keys), (Pointer(), Pad), (Tablet(), Pad), (Touch(), Pad)):
        shown = list(Panel(Input(source)).controls.values())
        assert [type(control) for control in shown[1:]] == [kind]


# In a browser


class Desk:
    """A keyboard, a mouse, a tablet and a touch screen on a page."""

    def __init__(self, virtio: Virtio, chromium: Browser) -> None:
        models: dict[str, Any] = {
            "keyboard": Keyboard(),
            "mouse": Pointer(),
            "tablet": Tablet(1001, 501),
            "screen": Touch(1001, 501),
        }
        devices = {name: Input(model) for name, model in models.items()}
        self.board = Board("A desk", **devices)
        self.drivers = {name: virtio.attach(device).drive(InputDriver) for name, device in devices.items()}
        self.server = PageServer(self.board)
        self.page: Page = chromium.open(self.server.url)
        self.page.shows("#connection", "live")


@pytest.fixture
def desk(virtio: Virtio, chromium: Browser) -> Iterator[Desk]:
    made = Desk(virtio, chromium)
    try:
        yield made
        assert made.page.troubles() == []
    finally:
        made.page.close()
        made.server.close()


def until_told(driver: InputDriver, wanted: Callable[[list[Told]], object]) -> list[Told]:
    """Reports up to the first one that is wanted."""
    while not wanted(found := told(driver)):
        pass
    return found


def test_what_is_typed_on_the_page_is_pressed(desk: Desk) -> None:
    page, driver = desk.page, desk.drivers["keyboard"]
    page.focus('[data-panel="keyboard"] .field')
    for text, code in (("KeyA", 65), ("ArrowUp", 38)):
        for kind in ("rawKeyDown", "keyUp"):
            page.call("Input.dispatchKeyEvent", type=kind, code=text, key=text, windowsVirtualKeyCode=code)
    expected = [
        (Key.KEY_A, DOWN), (Key.KEY_A, UP), (Key.KEY_UP, DOWN), (Key.KEY_UP, UP),
    ]  # fmt: skip
    assert [told(driver) for _ in expected] == [key(code, value) for code, value in expected]
    driver.light(Led.LED_CAPSL)
    page.until("document.querySelector('[data-panel=keyboard] [aria-label=\"Caps: on\"]')")
    # What is held when the field is left is let go.
    page.call("Input.dispatchKeyEvent", type="rawKeyDown", code="KeyB", key="b", windowsVirtualKeyCode=66)
    page.focus("summary, h1, body")
    page.evaluate("document.activeElement.blur()")
    assert [told(driver), told(driver)] == [key(Key.KEY_B, DOWN), key(Key.KEY_B, UP)]


def test_the_mouse_moves_on_the_page_and_in_the_guest(desk: Desk) -> None:
    page, driver = desk.page, desk.drivers["mouse"]
    surface = '[data-panel="mouse"] .surface'
    place = page.middle(surface)
    page.call("Input.dispatchMouseEvent", type="mouseMoved", **place)
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=place["x"] + 12, y=place["y"])
    until_told(driver, lambda report: any(code == Relative.REL_X for _, code, _ in report))
    page.click(surface)
    until_told(driver, lambda report: report == key(Key.BTN_LEFT, DOWN))
    until_told(driver, lambda report: report == key(Key.BTN_LEFT, UP))
    page.call("Input.dispatchMouseEvent", type="mouseWheel", deltaX=0, deltaY=-100, **place)
    until_told(driver, lambda report: report[0] == (EventType.EV_REL, Relative.REL_WHEEL, 1))
    page.focus(surface)
    page.key("ArrowRight")
    until_told(driver, lambda report: report == [(EventType.EV_REL, Relative.REL_X, 10)])


def test_the_tablet_is_where_the_mouse_is(desk: Desk) -> None:
    page, driver = desk.page, desk.drivers["tablet"]
    page.call("Input.dispatchMouseEvent", type="mouseMoved", **page.middle('[data-panel="tablet"] .surface'))

    def in_the_middle(report: list[Told]) -> bool:
        found = {code: value for kind, code, value in report if kind == EventType.EV_ABS}
        return all(
            abs(found.get(axis, 0) - half) < 20
            for axis, half in ((Absolute.ABS_X, 500), (Absolute.ABS_Y, 250))
        )

    until_told(driver, in_the_middle)


def test_a_finger_on_the_page_touches(desk: Desk) -> None:
    page, driver = desk.page, desk.drivers["screen"]
    place = page.middle('[data-panel="screen"] .surface')
    page.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[place])
    until_told(driver, lambda report: (EventType.EV_KEY, Key.BTN_TOUCH, DOWN) in report)
    page.shows('[data-panel="screen"] .pad output', "1 finger")
    page.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    until_told(driver, lambda report: (EventType.EV_KEY, Key.BTN_TOUCH, UP) in report)
