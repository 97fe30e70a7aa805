"""Models of input devices: what they say of themselves, what their methods send; C129; virtio 1.4, 5.8."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.input_events import (
    ABS,
    ID,
    KEY,
    REL,
    SLOT,
    AttachInput,
    DriveInput,
    X,
    Y,
    absolute,
    key,
    quiet,
    reports,
    taps,
    told,
)
from vhost_user.devices import (
    Input,
    InputDescription,
    Keyboard,
    Pointer,
    Tablet,
    Touch,
)
from vhost_user.frontend import InputDriver, RequestRefused
from vhost_user.spec.input import (
    InputAbsInfo,
    InputEvent,
    InputSelect,
)
from vhost_user.spec.input_codes import (
    Absolute,
    EventType,
    InputProperty,
    Led,
    Relative,
    Repeat,
)
from vhost_user.spec.input_keys import Key
from vhost_user.testing.virtio import Virtio

# What it says of itself


def test_a_keyboard_says_what_it_is(drive_input: DriveInput) -> None:
    driver = drive_input(Keyboard(name="a keyboard of tests", serial="№ 5"))
    assert (driver.name, driver.serial) == ("a keyboard of tests", "№ 5")
    assert (driver.ids.bustype, driver.ids.vendor, driver.ids.product, driver.ids.version) == (6, 0, 1, 1)
    keys = driver.codes(KEY)
    assert {Key.KEY_A, Key.KEY_ENTER, Key.KEY_MICMUTE} <= keys
    assert max(keys) < Key.BTN_0
    assert driver.codes(EventType.EV_LED) == {Led.LED_NUML, Led.LED_CAPSL, Led.LED_SCROLLL}
    assert driver.codes(EventType.EV_REP) == set(Repeat)
    assert not driver.codes(REL) | driver.codes(ABS) | driver.properties


def test_the_others_say_what_they_are(virtio: Virtio) -> None:
    mouse = virtio.attach(Input(Pointer())).drive(InputDriver)
    assert driver_codes(mouse, REL) == {"REL_X", "REL_Y", "REL_WHEEL", "REL_HWHEEL"} | {
        "REL_WHEEL_HI_RES",
        "REL_HWHEEL_HI_RES",
    }
    assert Key.BTN_MIDDLE in mouse.codes(KEY)
    assert mouse.properties == {InputProperty.INPUT_PROP_POINTER}
    tablet = virtio.attach(Input(Tablet(1920, 1080))).drive(InputDriver)
    assert tablet.codes(ABS) == {Absolute.ABS_X, Absolute.ABS_Y}
    assert tablet.axis(Absolute.ABS_Y) == InputAbsInfo(0, 1079)
    touch = virtio.attach(Input(Touch(800, 480, contacts=5))).drive(InputDriver)
    assert touch.axis(SLOT) == InputAbsInfo(0, 4)
    assert touch.axis(X) == InputAbsInfo(0, 799)
    assert touch.properties == {InputProperty.INPUT_PROP_DIRECT}
    assert len({each.ids.product for each in (mouse, tablet, touch)}) == 3


def driver_codes(driver: InputDriver, kind: EventType) -> set[str]:
    assert kind is REL
    return {Relative(code).name for code in driver.codes(kind)}


def test_a_question_without_an_answer_is_answered_by_nothing(drive_input: DriveInput) -> None:
    driver = drive_input(Tablet())
    for select, subselect in [
        (InputSelect.UNSET, 0),
        (InputSelect.ID_NAME, 1),
        (InputSelect.ID_SERIAL, 0),
        (InputSelect.EV_BITS, EventType.EV_SYN),
        (InputSelect.EV_BITS, 255),
        (InputSelect.ABS_INFO, Absolute.ABS_Z),
        (0x13, 0),
        (255, 255),
    ]:
        driver.write_config(0, bytes([select, subselect]))
        assert driver.read_config(0, 136) == bytes([select, subselect]).ljust(136, b"\0")


def test_C129_select_and_subsel_are_written_one_by_one_or_with_all_the_rest(
    drive_input: DriveInput,
) -> None:
    driver = drive_input(Tablet(100, 200, name="t"))
    # Linux writes byte by byte, as some front-ends hand it on.
    driver.write_config(0, bytes([InputSelect.ABS_INFO]))
    driver.write_config(1, bytes([Absolute.ABS_Y]))
    assert driver.read_config(2, 1) == bytes([InputAbsInfo.SIZE])
    assert InputAbsInfo.unpack(driver.read_config(8, 20)) == InputAbsInfo(0, 199)
    # QEMU writes its copy of all there is, and more if the size was given by hand.
    for size in (136, 256):
        stale = bytes([InputSelect.ID_NAME, 0, 77]).ljust(size, b"\xee")
        driver.write_config(0, stale)
        assert driver.read_config(0, 10) == bytes([InputSelect.ID_NAME, 0, 1, 0, 0, 0, 0, 0]) + b"t\0"
    for offset in (2, 3, 8, 135, 136, 250):
        with pytest.raises(RequestRefused):
            driver.write_config(offset, b"\xee")
    with pytest.raises(RequestRefused):
        driver.write_config(8, bytes(128))


def test_the_next_driver_finds_nothing_selected(attach_input: AttachInput) -> None:
    device = attach_input(Keyboard())
    assert device.drive(InputDriver).name
    device.disconnect()
    assert device.drive(InputDriver).read_config(0, 136) == bytes(136)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"name": "n" * 129}, "name of an input device has 128 bytes at most"),
        ({"name": "", "serial": "é" * 65}, "serial of an input device has 128 bytes"),
        ({"name": "", "codes": {KEY: {1024}}}, "from 0 to 1023, not 1024"),
        ({"name": "", "properties": {-1}}, "not -1"),
        ({"name": "", "codes": {ABS: {3}}}, "axis 3 of an input device has no range"),
    ],
)
def test_a_description_that_has_no_room_is_refused(words: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InputDescription(**words)


# Events


def test_a_text_is_typed_key_by_key(drive_input: DriveInput) -> None:
    keyboard = Keyboard()
    driver = drive_input(keyboard)
    keyboard.type("hi!\n")
    assert reports(driver, 10) == [
        *taps(Key.KEY_H, Key.KEY_I),
        key(Key.KEY_LEFTSHIFT, 1), *taps(Key.KEY_1), key(Key.KEY_LEFTSHIFT, 0),
        *taps(Key.KEY_ENTER),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="types 'ß'"):
        keyboard.type("aß")
    quiet(driver)


def test_every_character_of_ascii_is_typed() -> None:
    seen: dict[tuple[int, ...], str] = {}
    keyboard = Keyboard()
    sink = Sink()
    keyboard.add_sink(sink)
    for character in map(chr, [9, 10, *range(32, 127)]):
        keyboard.type(character)
        pressed = tuple(event.code for report in sink.reports for event in report if event.value)
        released = tuple(event.code for report in sink.reports for event in report if not event.value)
        assert pressed == released[::-1]
        sink.reports.clear()
        assert pressed not in seen, f"{character!r} is typed as {seen[pressed]!r}"
        seen[pressed] = character


class Sink:
    def __init__(self) -> None:
        self.reports: list[list[InputEvent]] = []

    def report(self, events: Any) -> None:
        self.reports.append(list(events))

    def wait_for_room(self, timeout: float) -> None:
        assert timeout > 0


def test_keys_have_names(drive_input: DriveInput) -> None:
    keyboard = Keyboard()
    driver = drive_input(keyboard)
    keyboard.press("ctrl", Key.KEY_LEFTALT, "KEY_F1")
    assert keyboard.pressed == {Key.KEY_LEFTCTRL, Key.KEY_LEFTALT, Key.KEY_F1}
    keyboard.release()
    keyboard.tap("q", 2)
    got = reports(driver, 10)
    assert got[:3] == [key(code, 1) for code in (Key.KEY_LEFTCTRL, Key.KEY_LEFTALT, Key.KEY_F1)]
    assert told([event for report in got[:6] for event in report]) == dict.fromkeys((29, 56, 59), 0)
    assert got[6:] == [key(16, 1), key(2, 1), key(2, 0), key(16, 0)]
    for wrong, message in (("hyper", "'hyper' is not the name"), (0, "0 is not the code"), (1024, "1024")):
        with pytest.raises(ValueError, match=message):
            keyboard.press(wrong)
    with pytest.raises(ValueError, match="has no event of type 1 with code 272"):
        keyboard.press(Key.BTN_LEFT)


def test_a_mouse_moves_clicks_and_scrolls(drive_input: DriveInput) -> None:
    mouse = Pointer()
    driver = drive_input(mouse)
    mouse.move(3, -4)
    mouse.move(0, 0)
    mouse.move(dy=7)
    mouse.click("right", 2)
    mouse.scroll(-1, 2)
    mouse.press()
    mouse.release()
    assert reports(driver, 9) == [
        [InputEvent(REL, Relative.REL_X, 3), InputEvent(REL, Relative.REL_Y, -4)],
        [InputEvent(REL, Relative.REL_Y, 7)],
        *taps(Key.BTN_RIGHT, Key.BTN_RIGHT),
        [
            InputEvent(REL, Relative.REL_WHEEL, -1),
            InputEvent(REL, Relative.REL_WHEEL_HI_RES, -120),
            InputEvent(REL, Relative.REL_HWHEEL, 2),
            InputEvent(REL, Relative.REL_HWHEEL_HI_RES, 240),
        ],
        *taps(Key.BTN_LEFT),
    ]
    with pytest.raises(ValueError, match="'fourth' is not the name"):
        mouse.press("fourth")
    quiet(driver)


def test_a_movement_that_no_event_has_room_for_is_refused(drive_input: DriveInput) -> None:
    mouse = Pointer()
    driver = drive_input(mouse)
    for far in (1 << 31, -(1 << 31) - 1):
        with pytest.raises(ValueError, match="InputEvent"):
            mouse.move(far)
    mouse.move(1)
    assert driver.report() == [InputEvent(REL, Relative.REL_X, 1)]


def test_a_tablet_goes_to_places(drive_input: DriveInput) -> None:
    tablet = Tablet(640, 480)
    driver = drive_input(tablet)
    tablet.move_to(639, 0)
    tablet.move_to(639, 479)
    with tablet.report():
        tablet.move_to(1, 2)
        tablet.press()
    assert reports(driver, 3) == [
        [InputEvent(ABS, Absolute.ABS_X, 639), InputEvent(ABS, Absolute.ABS_Y, 0)],
        [InputEvent(ABS, Absolute.ABS_Y, 479)],
        [InputEvent(ABS, Absolute.ABS_X, 1), InputEvent(ABS, Absolute.ABS_Y, 2), *key(Key.BTN_LEFT, 1)],
    ]
    for place in ((640, 0), (0, 480), (-1, 0)):
        with pytest.raises(ValueError, match="goes from 0 to"):
            tablet.move_to(*place)
    with pytest.raises(ValueError, match="2 steps at least"):
        Tablet(1)


def test_fingers_have_slots(drive_input: DriveInput) -> None:
    screen = Touch(800, 600, contacts=2)
    driver = drive_input(screen)
    first = screen.down(10, 20)
    assert driver.report() == [
        *absolute((ID, 0)), *key(Key.BTN_TOUCH, 1), *absolute((X, 10), (Y, 20), (0, 10), (1, 20)),
    ]  # fmt: skip
    second = screen.down(30, 40)
    assert driver.report() == absolute((SLOT, 1), (ID, 1), (X, 30), (Y, 40))
    with pytest.raises(ValueError, match="2 fingers are on the screen"):
        screen.down(1, 1)
    with screen.report():
        first.move_to(11, 20)
        second.move_to(30, 41)
    assert driver.report() == absolute((SLOT, 0), (X, 11), (0, 11), (SLOT, 1), (Y, 41))
    first.up()
    first.up()
    assert driver.report() == absolute((SLOT, 0), (ID, -1), (0, 30), (1, 41))
    with pytest.raises(ValueError, match="this finger was lifted"):
        first.move_to(1, 1)
    assert [contact.slot for contact in screen.contacts] == [1]
    second.up()
    assert driver.report() == [*absolute((SLOT, 1), (ID, -1)), *key(Key.BTN_TOUCH, 0)]
    with screen.down(5, 6) as third:
        assert third.slot == 0
    assert driver.report()[:2] == absolute((SLOT, 0), (ID, 2))
    assert driver.report() == [*absolute((ID, -1)), *key(Key.BTN_TOUCH, 0)]
    screen.tap(7, 7)
    assert len(reports(driver, 2)) == 2
    for place in ((800, 0), (0, -1)):
        with pytest.raises(ValueError, match="goes from 0 to"):
            screen.down(*place)
    assert not screen.contacts


@pytest.mark.parametrize("contacts", [0, 65])
def test_so_many_contacts_there_are_not(contacts: int) -> None:
    with pytest.raises(ValueError, match="1 to 64 contacts"):
        Touch(contacts=contacts)
