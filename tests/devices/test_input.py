"""Input devices driven in this process; C053, C054, C075, C124, C125, C129, C134; virtio 1.4, 5.8."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.front_end import FrontEnd, until
from vhost_user.devices import (
    Input,
    InputDescription,
    InputSource,
    Keyboard,
    Pointer,
    Recorder,
    Tablet,
    Touch,
)
from vhost_user.devices.input import BACKLOG
from vhost_user.frontend import InputDriver, PeerTimeout, RequestRefused
from vhost_user.protocol.listener import connect
from vhost_user.spec.input import (
    EVENT_QUEUE,
    STATUS_QUEUE,
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
    Synchronization,
)
from vhost_user.spec.input_keys import Key
from vhost_user.testing.guest_backend import BackendProcess
from vhost_user.testing.virtio import Virtio, VirtioDevice

KEY, REL, ABS, SYN = EventType.EV_KEY, EventType.EV_REL, EventType.EV_ABS, EventType.EV_SYN
X, Y, SLOT = Absolute.ABS_MT_POSITION_X, Absolute.ABS_MT_POSITION_Y, Absolute.ABS_MT_SLOT
ID = Absolute.ABS_MT_TRACKING_ID
Drive = Callable[..., InputDriver]


@pytest.fixture(params=[False, True], ids=["split", "packed"])
def packed(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def attached(virtio: Virtio, packed: bool) -> Callable[..., VirtioDevice]:
    return lambda source, **options: virtio.attach(Input(source), packed=packed, **options)


@pytest.fixture
def drive(attached: Callable[..., VirtioDevice]) -> Drive:
    def up(source: InputSource, *, buffers: int = 64, **options: Any) -> InputDriver:
        return attached(source, **options).drive(InputDriver, buffers=buffers)

    return up


def resume(driver: InputDriver, queue: int = EVENT_QUEUE) -> None:
    driver.start_queue(queue)
    driver.frontend.set_vring_enable(queue, True)


def key(code: int, value: int) -> list[InputEvent]:
    return [InputEvent(KEY, code, value)]


def taps(*codes: int) -> list[list[InputEvent]]:
    return [key(code, value) for code in codes for value in (1, 0)]


def reports(driver: InputDriver, count: int) -> list[list[InputEvent]]:
    return [driver.report() for _ in range(count)]


def quiet(driver: InputDriver) -> None:
    """Nothing comes, not even after the device has answered something else."""
    driver.send(InputEvent(SYN, Synchronization.SYN_REPORT, 0))
    with pytest.raises(PeerTimeout):
        driver.events(minimum=1, timeout=0.02)


def told(events: list[InputEvent]) -> dict[int, int]:
    return {event.code: event.value for event in events if event.type == KEY}


# What it says of itself


def test_a_keyboard_says_what_it_is(drive: Drive) -> None:
    driver = drive(Keyboard(name="a keyboard of tests", serial="№ 5"))
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


def test_a_question_without_an_answer_is_answered_by_nothing(drive: Drive) -> None:
    driver = drive(Tablet())
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


def test_C129_select_and_subsel_are_written_one_by_one_or_with_the_whole_space(drive: Drive) -> None:
    driver = drive(Tablet(100, 200, name="t"))
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


def test_the_next_driver_finds_nothing_selected(attached: Callable[..., VirtioDevice]) -> None:
    device = attached(Keyboard())
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


def test_a_text_is_typed_key_by_key(drive: Drive) -> None:
    keyboard = Keyboard()
    driver = drive(keyboard)
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


def test_keys_have_names(drive: Drive) -> None:
    keyboard = Keyboard()
    driver = drive(keyboard)
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


def test_a_mouse_moves_clicks_and_scrolls(drive: Drive) -> None:
    mouse = Pointer()
    driver = drive(mouse)
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


def test_a_movement_that_no_event_has_room_for_is_refused(drive: Drive) -> None:
    mouse = Pointer()
    driver = drive(mouse)
    for far in (1 << 31, -(1 << 31) - 1):
        with pytest.raises(ValueError, match="InputEvent"):
            mouse.move(far)
    mouse.move(1)
    assert driver.report() == [InputEvent(REL, Relative.REL_X, 1)]


def test_a_tablet_goes_to_places(drive: Drive) -> None:
    tablet = Tablet(640, 480)
    driver = drive(tablet)
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


def absolute(*pairs: tuple[int, int]) -> list[InputEvent]:
    return [InputEvent(ABS, axis, value) for axis, value in pairs]


def test_fingers_have_slots(drive: Drive) -> None:
    screen = Touch(800, 600, contacts=2)
    driver = drive(screen)
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


def test_reports_of_two_threads_do_not_mix(drive: Drive) -> None:
    screen = Touch(contacts=2)
    driver = drive(screen)

    def draw() -> None:
        for place in range(40):
            screen.wait_for_room()
            with screen.report():
                contact = screen.down(place, place)
                contact.move_to(place, place + 1)
                contact.up()

    threads = [threading.Thread(target=draw) for _ in range(2)]
    for thread in threads:
        thread.start()
    for report in reports(driver, 80):
        codes = [event.code for event in report]
        assert codes.count(ID) == 2
        assert codes.count(Key.BTN_TOUCH) == 2
    for thread in threads:
        thread.join(10)
    quiet(driver)


def test_a_report_that_is_longer_than_the_ring_comes_whole(drive: Drive) -> None:
    screen = Touch(contacts=10)
    driver = drive(screen, queue_size=4)  # as in QEMU
    with screen.report():
        for number in range(10):
            screen.down(number, 100 + number)
    report = driver.report()
    assert [event.value for event in report if event.code == ID] == list(range(10))
    assert [event.value for event in report if event.code == Y] == list(range(100, 110))
    quiet(driver)


def test_buffers_come_one_by_one_and_reports_go_on(drive: Drive) -> None:
    mouse = Pointer()
    driver = drive(mouse, buffers=0)
    mouse.move(1, 2)
    mouse.move(3, 4)
    got = []
    for _ in range(6):
        driver.leave(1)
        got += driver.events(minimum=1)
    assert [event.value for event in got] == [1, 2, 0, 3, 4, 0]
    driver.leave(1)
    quiet(driver)


def test_a_long_text_waits_for_a_guest_that_reads_slowly(drive: Drive) -> None:
    keyboard = Keyboard()
    driver = drive(keyboard, queue_size=4)
    text = "the quick brown fox jumps over the lazy dog " * 20
    typing = threading.Thread(target=keyboard.type, args=(text,), kwargs={"interval": 0})
    typing.start()
    got = "".join(
        {Key.KEY_SPACE: " "}.get(Key(report[0].code), Key(report[0].code).name[4:].lower())
        for report in reports(driver, 2 * len(text))
        if report[0].value
    )
    typing.join(10)
    assert got == text


def test_a_guest_that_takes_nothing_makes_typing_fail_in_words(drive: Drive) -> None:
    keyboard = Keyboard()
    drive(keyboard, buffers=0)
    with pytest.raises(TimeoutError, match="took no input events for"):
        keyboard.type("x" * BACKLOG, interval=0, timeout=0.05)


@pytest.mark.parametrize("size", [1, 7])
def test_buffers_that_are_too_small_are_used_for_nothing(drive: Drive, size: int) -> None:
    """More of them than the device looks at in one go."""
    mouse = Pointer()
    driver = drive(mouse, buffers=0)
    mouse.move(7)
    driver.queues[EVENT_QUEUE].post(size, count=200)
    for pending in driver.queues[EVENT_QUEUE].completed(minimum=200):
        assert pending.length == 0
        pending.release()
    driver.leave(2)
    assert driver.report() == [InputEvent(REL, Relative.REL_X, 7)]


# A driver that falls behind


def test_reports_that_are_dropped_are_whole_and_what_is_pressed_is_told(drive: Drive) -> None:
    keyboard = Keyboard()
    driver = drive(keyboard, buffers=0)
    keyboard.press("a")
    for _ in range(BACKLOG):
        keyboard.tap("b")
    keyboard.press("c")
    driver.leave(1)  # of a report that began before all were dropped, or the first word after it
    first = driver.events(minimum=1)
    assert first == [InputEvent(SYN, Synchronization.SYN_DROPPED, 0)]
    driver.leave(64)
    assert reports(driver, 2) == [[], [*key(Key.KEY_A, 1), *key(Key.KEY_C, 1)]]
    keyboard.release("a")
    assert driver.report() == key(Key.KEY_A, 0)
    quiet(driver)


def test_a_report_that_has_begun_is_ended_although_others_are_dropped(drive: Drive) -> None:
    mouse = Pointer()
    driver = drive(mouse, buffers=0)
    driver.leave(1)
    mouse.move(1, 2)
    assert driver.events(minimum=1) == [InputEvent(REL, Relative.REL_X, 1)]
    mouse.press("right")
    for _ in range(BACKLOG):
        mouse.move(5, 5)
    driver.leave(64)
    assert reports(driver, 3) == [
        [InputEvent(REL, Relative.REL_Y, 2)],
        [InputEvent(SYN, Synchronization.SYN_DROPPED, 0)],
        key(Key.BTN_RIGHT, 1),
    ]
    mouse.move(6)
    assert driver.report() == [InputEvent(REL, Relative.REL_X, 6)]


def test_fingers_are_told_after_what_was_dropped(drive: Drive) -> None:
    screen = Touch(1000, 1000, contacts=3)
    driver = drive(screen, buffers=0)
    driver.leave(12)
    gone, stays = screen.down(1, 1), screen.down(2, 2)
    assert len(driver.events(minimum=12)) == 12
    for place in range(BACKLOG):
        stays.move_to(place % 1000, 5)
    gone.up()
    fresh = screen.down(7, 8)
    driver.leave(64)
    assert driver.report() == [InputEvent(SYN, Synchronization.SYN_DROPPED, 0)]
    report = driver.report()
    assert [event.value for event in report if event.code == ID] == [2]  # in the slot of the one that is gone
    assert (stays.slot, fresh.slot) == (1, 0)
    x = (BACKLOG - 1) % 1000
    assert report == absolute(
        *((0, x), (1, 5)),  # for those that know of one finger
        *((SLOT, 0), (ID, 2), (X, 7), (Y, 8)),
        *((SLOT, 1), (X, x), (Y, 5)),
        (SLOT, 0),  # where the screen is
    )


# Its life


def test_C054_stops_lose_and_double_nothing(drive: Drive) -> None:
    keyboard = Keyboard()
    driver = drive(keyboard)
    got: list[list[InputEvent]] = []
    for _ in range(20):
        keyboard.tap("a", "b")
        driver.stop_queue(EVENT_QUEUE)
        keyboard.tap("c")
        resume(driver)
        got += reports(driver, 6)
    assert got == 20 * [*taps(Key.KEY_A)[:1], *taps(Key.KEY_B), *taps(Key.KEY_A)[1:], *taps(Key.KEY_C)]
    quiet(driver)


def test_C054_a_stop_in_the_middle_of_a_report(drive: Drive) -> None:
    mouse = Pointer()
    driver = drive(mouse, buffers=0)
    driver.leave(1)
    mouse.move(1, 2)
    first = driver.events(minimum=1)
    driver.stop_queue(EVENT_QUEUE)
    mouse.move(3, 4)
    resume(driver)
    driver.leave(5)
    got = [*first, *driver.events(minimum=5)]
    assert [event.value for event in got] == [1, 2, 0, 3, 4, 0]


def test_C075_C134_the_next_driver_is_told_what_is_pressed_and_nothing_else(
    attached: Callable[..., VirtioDevice],
) -> None:
    keyboard = Keyboard()
    device = attached(keyboard)
    keyboard.type("lost: there is no driver")
    keyboard.press("x")
    for reset in (True, False, True):
        driver = device.drive(InputDriver)
        assert driver.report() == key(Key.KEY_X, 1)
        driver.stop_queue(EVENT_QUEUE)
        keyboard.type("lost with the driver")
        if reset:
            driver.frontend.reset_device(need_reply=True)
        device.disconnect()
        keyboard.type("lost as well")
    keyboard.release("x")
    quiet(device.drive(InputDriver))


def test_C131_a_driver_that_boots_again_without_a_reset_is_another(virtio: Virtio) -> None:
    """As QEMU shows a reboot for most devices: all rings stop, and begin anew."""
    keyboard = Keyboard()
    front = FrontEnd(connect(virtio.attach(Input(keyboard)).socket, timeout=10))
    keyboard.press("a")
    with closing(front):
        front.negotiate()
        front.share_memory()
        for _ in range(3):
            front.start_ring(EVENT_QUEUE, size=16)
            assert read_until_end(front) == key(Key.KEY_A, 1)
            front.stop_ring(EVENT_QUEUE)
            keyboard.tap("z")
            del front.rings[EVENT_QUEUE]


def test_C134_a_driver_that_was_at_work_is_told_of_all_keys(virtio: Virtio) -> None:
    """A program that was killed may have left a key pressed that the next knows nothing of."""
    keyboard = Keyboard()
    device = virtio.attach(Input(keyboard))
    keyboard.press("b")
    first = FrontEnd(connect(device.socket, timeout=10))
    first.negotiate()
    first.share_memory()
    first.start_ring(EVENT_QUEUE)
    assert read_until_end(first) == key(Key.KEY_B, 1)
    base = first.stop_ring(EVENT_QUEUE)
    first.connection.close()
    second = FrontEnd(connect(device.socket, timeout=10))
    second.memory.close()
    second.memory, second.rings = first.memory, first.rings
    with closing(second):
        second.negotiate()
        second.share_memory()
        second.start_ring(EVENT_QUEUE, base=base)
        events = read_until_end(second)
    known = told(events)
    assert known.pop(Key.KEY_B) == 1
    assert set(known.values()) == {0}
    assert set(known) | {Key.KEY_B} == keyboard.description.codes[KEY]


def test_C134_a_program_that_is_killed_leaves_no_key_pressed(tmp_path: Path) -> None:
    keyboard = Keyboard()
    with Recorder(keyboard, tmp_path / "session"):
        keyboard.press("a")
    command: list[str | Path] = [Path(sys.executable).parent / "vhost-user-input"]
    command += [f"--replay={tmp_path / 'session'}", f"--socket-path={tmp_path / 's'}"]
    program = BackendProcess(command, tmp_path / "s", tmp_path / "log", announcement="listening")
    front: FrontEnd | None = None
    try:
        for attempt in range(3):
            program.start()
            before, front = front, FrontEnd(connect(tmp_path / "s", timeout=10))
            if before is not None:
                front.memory.close()
                front.memory, front.rings = before.memory, before.rings
            front.negotiate()
            front.share_memory()
            ring = front.rings.get(EVENT_QUEUE)
            front.start_ring(EVENT_QUEUE, base=0 if ring is None else ring.used_index)
            if attempt:
                known = told(read_until_end(front))
                assert set(known) == keyboard.description.codes[KEY]
                assert set(known.values()) == {0}
            assert read_until_end(front) == key(Key.KEY_A, 1)
            program.kill()
            front.connection.close()
    finally:
        program.kill()
        if front is not None:
            front.close()


def read_until_end(front: FrontEnd) -> list[InputEvent]:
    events: list[InputEvent] = []
    while True:
        event = InputEvent.unpack(front.request(EVENT_QUEUE, b"", InputEvent.SIZE))
        if event == InputEvent(SYN, Synchronization.SYN_REPORT, 0):
            return events
        events.append(event)


# What the driver tells


def test_the_guest_lights_leds(attached: Callable[..., VirtioDevice]) -> None:
    seen: list[tuple[Led, bool]] = []
    keyboard = Keyboard(on_led=lambda led, lit: seen.append((led, lit)))
    device = attached(keyboard)
    driver = device.drive(InputDriver)
    driver.light(Led.LED_CAPSL)
    keyboard.wait_for_led(Led.LED_CAPSL)
    driver.light(Led.LED_CAPSL)
    driver.light(Led.LED_NUML)
    assert keyboard.leds == {Led.LED_CAPSL, Led.LED_NUML}
    driver.light(Led.LED_CAPSL, False)
    keyboard.wait_for_led(Led.LED_CAPSL, lit=False)
    assert seen == [(Led.LED_CAPSL, True), (Led.LED_NUML, True), (Led.LED_CAPSL, False)]
    with pytest.raises(TimeoutError, match="LED_CAPSL is not lit after"):
        keyboard.wait_for_led(Led.LED_CAPSL, timeout=0.01)
    device.disconnect()
    until(lambda: not keyboard.leds, "the LEDs go out with their driver")


def test_what_no_keyboard_lights_is_left_alone(drive: Drive) -> None:
    keyboard = Keyboard()
    driver = drive(keyboard)
    for kind, code, value in (
        (EventType.EV_LED, Led.LED_MAIL, 1),
        (EventType.EV_LED, 0xFFFF, 1),
        (EventType.EV_MSC, 4, 7),
        (EventType.EV_KEY, Key.KEY_A, 1),
        (0xFFFF, 0, -1),
    ):
        driver.send(InputEvent(kind, code, value))
    for size in (0, 1, 7):
        if size:
            driver.queues[STATUS_QUEUE].request(bytes(size))
    driver.queues[STATUS_QUEUE].request(InputEvent(EventType.EV_LED, Led.LED_NUML, 1).pack() + bytes(100))
    assert keyboard.leds == {Led.LED_NUML}
    assert not keyboard.pressed
    quiet(driver)


# Its state


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
