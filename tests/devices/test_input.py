"""How reports of input devices reach their drivers; C053, C054, C075, C131, C134; virtio 1.4, 5.8."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.front_end import FrontEnd, until
from tests.support.input_events import (
    ID,
    KEY,
    REL,
    SLOT,
    SYN,
    AttachInput,
    DriveInput,
    X,
    Y,
    absolute,
    key,
    quiet,
    reports,
    resume,
    taps,
    told,
)
from tests.support.killed_programs import lives, served
from vhost_user.devices import (
    Input,
    Keyboard,
    Pointer,
    Recorder,
    Touch,
)
from vhost_user.devices.input import BACKLOG
from vhost_user.frontend import InputDriver
from vhost_user.protocol.listener import connect
from vhost_user.spec.input import (
    EVENT_QUEUE,
    STATUS_QUEUE,
    InputEvent,
)
from vhost_user.spec.input_codes import (
    EventType,
    Led,
    Relative,
    Synchronization,
)
from vhost_user.spec.input_keys import Key
from vhost_user.testing.virtio import Virtio


def test_reports_of_two_threads_do_not_mix(drive_input: DriveInput) -> None:
    screen = Touch(contacts=2)
    driver = drive_input(screen)

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


def test_a_report_that_is_longer_than_the_ring_comes_whole(drive_input: DriveInput) -> None:
    screen = Touch(contacts=10)
    driver = drive_input(screen, queue_size=4)  # as in QEMU
    with screen.report():
        for number in range(10):
            screen.down(number, 100 + number)
    report = driver.report()
    assert [event.value for event in report if event.code == ID] == list(range(10))
    assert [event.value for event in report if event.code == Y] == list(range(100, 110))
    quiet(driver)


def test_buffers_come_one_by_one_and_reports_go_on(drive_input: DriveInput) -> None:
    mouse = Pointer()
    driver = drive_input(mouse, buffers=0)
    mouse.move(1, 2)
    mouse.move(3, 4)
    got = []
    for _ in range(6):
        driver.leave(1)
        got += driver.events(minimum=1)
    assert [event.value for event in got] == [1, 2, 0, 3, 4, 0]
    driver.leave(1)
    quiet(driver)


def test_a_long_text_waits_for_a_guest_that_reads_slowly(drive_input: DriveInput) -> None:
    keyboard = Keyboard()
    driver = drive_input(keyboard, queue_size=4)
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


def test_a_guest_that_takes_nothing_makes_typing_fail_in_words(drive_input: DriveInput) -> None:
    keyboard = Keyboard()
    drive_input(keyboard, buffers=0)
    with pytest.raises(TimeoutError, match="took no input events for"):
        keyboard.type("x" * BACKLOG, interval=0, timeout=0.05)


@pytest.mark.parametrize("size", [1, 7])
def test_buffers_that_are_too_small_are_used_for_nothing(drive_input: DriveInput, size: int) -> None:
    """More of them than the device looks at in one go."""
    mouse = Pointer()
    driver = drive_input(mouse, buffers=0)
    mouse.move(7)
    driver.queues[EVENT_QUEUE].post(size, count=200)
    for pending in driver.queues[EVENT_QUEUE].completed(minimum=200):
        assert pending.length == 0
        pending.release()
    driver.leave(2)
    assert driver.report() == [InputEvent(REL, Relative.REL_X, 7)]


# A driver that falls behind


def test_reports_that_are_dropped_are_whole_and_what_is_pressed_is_told(drive_input: DriveInput) -> None:
    keyboard = Keyboard()
    driver = drive_input(keyboard, buffers=0)
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


def test_a_report_that_has_begun_is_ended_although_others_are_dropped(drive_input: DriveInput) -> None:
    mouse = Pointer()
    driver = drive_input(mouse, buffers=0)
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


def test_fingers_are_told_after_what_was_dropped(drive_input: DriveInput) -> None:
    screen = Touch(1000, 1000, contacts=3)
    driver = drive_input(screen, buffers=0)
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


def test_C054_stops_lose_and_double_nothing(drive_input: DriveInput) -> None:
    keyboard = Keyboard()
    driver = drive_input(keyboard)
    got: list[list[InputEvent]] = []
    for _ in range(20):
        keyboard.tap("a", "b")
        driver.stop_queue(EVENT_QUEUE)
        keyboard.tap("c")
        resume(driver)
        got += reports(driver, 6)
    assert got == 20 * [*taps(Key.KEY_A)[:1], *taps(Key.KEY_B), *taps(Key.KEY_A)[1:], *taps(Key.KEY_C)]
    quiet(driver)


def test_C054_a_stop_in_the_middle_of_a_report(drive_input: DriveInput) -> None:
    mouse = Pointer()
    driver = drive_input(mouse, buffers=0)
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
    attach_input: AttachInput,
) -> None:
    keyboard = Keyboard()
    device = attach_input(keyboard)
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
    program = served(tmp_path, "input", f"--replay={tmp_path / 'session'}")
    with lives(program, [EVENT_QUEUE]) as each:
        for attempt, front in each:
            if attempt:
                known = told(read_until_end(front))
                assert set(known) == keyboard.description.codes[KEY]
                assert set(known.values()) == {0}
            assert read_until_end(front) == key(Key.KEY_A, 1)


def read_until_end(front: FrontEnd) -> list[InputEvent]:
    events: list[InputEvent] = []
    while True:
        event = InputEvent.unpack(front.request(EVENT_QUEUE, b"", InputEvent.SIZE))
        if event == InputEvent(SYN, Synchronization.SYN_REPORT, 0):
            return events
        events.append(event)


# What the driver tells


def test_the_guest_lights_leds(attach_input: AttachInput) -> None:
    seen: list[tuple[Led, bool]] = []
    keyboard = Keyboard(on_led=lambda led, lit: seen.append((led, lit)))
    device = attach_input(keyboard)
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


def test_what_no_keyboard_lights_is_left_alone(drive_input: DriveInput) -> None:
    keyboard = Keyboard()
    driver = drive_input(keyboard)
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
