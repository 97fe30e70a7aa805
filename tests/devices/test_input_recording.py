"""Recorded sessions of input devices, in the format of evemu: C124, C125, C134."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from tests.support.front_end import until
from tests.support.upgraded_program import UpgradedProgram
from vhost_user.devices import (
    Input,
    InputRecording,
    Keyboard,
    Pointer,
    Recorder,
    Replay,
    Tablet,
    Touch,
    input_recording,
)
from vhost_user.devices.input_recording import Report
from vhost_user.frontend import InputDriver, PeerTimeout
from vhost_user.spec.input import InputAbsInfo, InputEvent
from vhost_user.spec.input_codes import Absolute, EventType, Led, Synchronization
from vhost_user.spec.input_keys import Key
from vhost_user.testing.virtio import Virtio

KEY, REL, ABS, SYN = EventType.EV_KEY, EventType.EV_REL, EventType.EV_ABS, EventType.EV_SYN

# As evemu-record writes it: a stick with a button, moved once.
OF_EVEMU = """\
# EVEMU 1.3
# Kernel: 6.1.0
# Input device name: "Stick # 1"
N: Stick # 1
I: 0003 046d c215 0110
P: 00 00 00 00 00 00 00 00
B: 00 0b 00 00 00 00 00 00 00
B: 01 00 00 00 00 00 00 00 00
B: 01 00 00 00 00 00 00 00 00
B: 01 00 00 00 00 00 00 00 00
B: 01 00 00 00 00 00 00 00 00
B: 01 00 00 00 00 01 00 00 00
B: 03 03 00 00 00 00 00 00 00
B: 15 00 00 00 00 00 00 00 00
A: 00 -512 511 2 8 0
A: 01 -512 511 2 8
L: 00 0
################################
#      Waiting for events      #
################################
E: 0.000001 0003 0000 -017\t# EV_ABS / ABS_X                -17
E: 0.000001 0001 0120 0001\t# EV_KEY / BTN_TRIGGER          1
E: 0.000001 0000 0000 0000\t# ------------ SYN_REPORT (0) ---------- +0ms
E: 1.250001 0001 0120 0000\t# EV_KEY / BTN_TRIGGER          0
E: 1.250001 0000 0000 0000\t# ------------ SYN_REPORT (0) ---------- +1250ms
"""
PRESSED = Report(0.000001, (InputEvent(ABS, Absolute.ABS_X, -17), InputEvent(KEY, Key.BTN_TRIGGER, 1)))
RELEASED = Report(1.250001, (InputEvent(KEY, Key.BTN_TRIGGER, 0),))


def test_a_session_of_evemu_is_read() -> None:
    recording = InputRecording.parse(OF_EVEMU)
    description = recording.description
    assert description.name == "Stick # 1"
    assert (description.ids.vendor, description.ids.version) == (0x46D, 0x110)
    assert description.codes == {KEY: {Key.BTN_TRIGGER}, ABS: {0, 1}}
    assert description.axes[0] == description.axes[1] == InputAbsInfo(-512, 511, 2, 8, 0)
    assert recording.reports == [PRESSED, RELEASED]
    assert InputRecording.parse(recording.dump()) == recording


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Q: 1", "such a line does not exist"),
        ("hello", "such a line does not exist"),
        ("E: 0.1 0001 001e", "3 numbers, and 4 are due"),
        ("E: soon 0001 001e 1", "could not convert"),
        ("E: -1 0001 001e 1", "-1 is not a time"),
        ("E: nan 0001 001e 1", "nan is not a time"),
        ("E: 0.1 0001 1001e 1", "1001e is not a number from 0 to 65535"),
        ("E: 0.1 0001 001e 2147483648", "2147483648 is not a number"),
        ("I: 0003 046d c215", "3 numbers"),
        ("I: 0003 046d c215 -1", "-1 is not a number"),
        ("P: 100", "100 is not a number from 0 to 255"),
        ("B:", "0 numbers, and 1 to 129 are due"),
        ("A: 40 0 1 0 0", "40 is not a number from 0 to 63"),
        ("A: 00 0 1", "3 numbers, and 5 to 6 are due"),
        (f"B: 01 {' 00' * 128}", "more codes than any device has"),
    ],
)
def test_a_line_that_is_not_as_it_should_be_is_named(line: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"session, line 19: .*{message}"):
        InputRecording.parse(OF_EVEMU.replace("#      Waiting", f"{line}\n# Waiting"), "session")


def test_other_files_are_no_sessions(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no line B with a code"):
        InputRecording.parse("", "empty")
    with pytest.raises(ValueError, match="x: axis 1 of an input device has no range"):
        InputRecording.parse(OF_EVEMU.replace("A: 01", "# A: 01"), "x")
    noise = tmp_path / "noise"
    noise.write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match="noise, line"):
        InputRecording.load(noise)
    with pytest.raises(FileNotFoundError):
        Replay(tmp_path / "nothing")


def test_more_events_than_anybody_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_recording, "MOST_EVENTS", 4)
    with pytest.raises(ValueError, match="more than 4 events"):
        InputRecording.parse(OF_EVEMU)


@pytest.mark.parametrize("model", [Keyboard, Pointer, Tablet, Touch])
def test_what_is_written_is_read(model: Any, tmp_path: Path) -> None:
    source = model()
    with Recorder(source, tmp_path / "s"):
        if isinstance(source, Keyboard):
            source.type("ab")
        else:
            source.emit(KEY, min(source.description.codes[KEY]), 1)
    recording = InputRecording.load(tmp_path / "s")
    assert recording.description == source.description
    assert recording.reports
    assert recording.dump() == (tmp_path / "s").read_text()


def test_a_recording_begins_with_what_is_pressed_and_goes_on_where_one_ends(tmp_path: Path) -> None:
    mouse = Pointer()
    mouse.press("right")
    with Recorder(mouse, tmp_path / "s") as recorder:
        mouse.move(1, 2)
        recorder.close()
        mouse.move(3, 4)
    first = InputRecording.load(tmp_path / "s").reports
    assert [[event.value for event in each.events] for each in first] == [[1], [1, 2]]
    with Recorder(mouse, tmp_path / "s"):
        mouse.move(5)
    again = InputRecording.load(tmp_path / "s").reports
    assert again[:2] == first
    assert [[event.value for event in each.events] for each in again[2:]] == [[1], [5]]
    assert again[2].time >= first[-1].time
    with pytest.raises(ValueError, match="not a session of this device: name another file"):
        Recorder(Keyboard(), tmp_path / "s")


def test_a_disk_that_is_full_is_said_and_survived(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mouse = Pointer()
    with Path("/dev/full").open("r+b", buffering=0) as full, Recorder(mouse, tmp_path / "s") as recorder:
        recorder._file.close()
        recorder._file = full
        mouse.move(1)
    assert "events are not recorded" in caplog.text


class Clock:
    """Shows how long was waited; waiting takes no time."""

    def __init__(self) -> None:
        self.now = 100.0
        self.waited: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.waited.append(round(seconds, 3))
        self.now += seconds
        return False

    def is_set(self) -> bool:
        return False


def test_it_is_played_with_its_times_or_without(monkeypatch: pytest.MonkeyPatch) -> None:
    clock: Any = Clock()
    monkeypatch.setattr(input_recording, "time", clock)
    recording = InputRecording.parse(OF_EVEMU)
    recording.reports.append(Report(1.5, PRESSED.events))
    played: list[Any] = []
    assert recording.play(played.append, ended=clock)
    assert clock.waited == [1.25, 0.25]
    assert played == [each.events for each in recording.reports]
    played.clear()
    assert recording.play(played.append, skip_time=True, start=1, ended=clock)
    assert clock.waited == [1.25, 0.25]
    assert len(played) == 2
    ended = threading.Event()
    ended.set()
    assert not recording.play(played.append, ended=ended)
    assert len(played) == 2


def written(tmp_path: Path, reports: int = 3) -> Path:
    recording = InputRecording(Keyboard(name="recorded").description)
    for number in range(reports):
        value = int(number % 2 == 0)
        recording.reports.append(Report(number / 100, (InputEvent(KEY, Key.KEY_A + number // 2, value),)))
    path = tmp_path / "session.evemu"
    path.write_text(recording.dump())
    return path


def values(driver: InputDriver, reports: int) -> list[tuple[int, int]]:
    return [(event.code, event.value) for _ in range(reports) for event in driver.report()]


def test_C134_each_driver_sees_it_from_the_beginning(virtio: Virtio, tmp_path: Path) -> None:
    device = virtio.attach(Input(Replay(written(tmp_path), serial="9")))
    for _ in range(3):
        driver = device.drive(InputDriver)
        assert values(driver, 3) == [(30, 1), (30, 0), (31, 1)]
        assert (driver.name, driver.serial) == ("recorded", "9")
        device.disconnect()


def test_it_may_be_played_by_hand(virtio: Virtio, tmp_path: Path) -> None:
    replay = Replay(written(tmp_path), automatic=False, skip_time=True)
    driver = virtio.attach(Input(replay)).drive(InputDriver)
    with pytest.raises(PeerTimeout):
        driver.events(minimum=1, timeout=0.05)
    for _ in range(2):
        assert replay.play()
    assert values(driver, 6) == 2 * [(30, 1), (30, 0), (31, 1)]


def test_a_long_one_waits_for_the_guest(virtio: Virtio, tmp_path: Path) -> None:
    replay = Replay(written(tmp_path, 200), automatic=True, skip_time=True)
    for report in list(replay.recording.reports):
        replay.recording.reports += [report] * 19
    driver = virtio.attach(Input(replay), queue_size=4).drive(InputDriver)
    reports = [driver.report() for _ in range(4000)]
    assert not [event for report in reports for event in report if event.type == SYN]
    assert reports == [list(each.events) for each in replay.recording.reports]


def test_C124_it_goes_on_where_it_was(virtio: Virtio, tmp_path: Path) -> None:
    path = written(tmp_path, 40)
    here, there = Replay(path, skip_time=True), Replay(path, skip_time=True)
    source, target = (virtio.attach(Input(each), queue_size=4) for each in (here, there))
    driver = source.drive(InputDriver)
    seen = values(driver, 5)
    until(lambda: here.saved() == 40, "all of it waits for the guest")
    for queue in range(2):
        driver.stop_queue(queue)
    rest = driver.events()
    target.load_state(source.save_state())
    moved = target.drive(InputDriver)
    seen += [(event.code, event.value) for event in rest if event.type == KEY]
    while len(seen) < 40:
        seen += values(moved, 1)  # none, if it is the end of a report that had begun over there
    assert seen == [(event.code, event.value) for each in here.recording.reports for event in each.events]
    with pytest.raises(PeerTimeout):
        moved.events(minimum=1, timeout=0.05)


def test_what_a_driver_that_went_did_not_see_is_not_played(tmp_path: Path) -> None:
    """It goes while the replay waits for its turn."""
    replay = Replay(written(tmp_path), automatic=False, skip_time=True)
    ended = replay._ended

    class Gone:
        def report(self, events: Any) -> None:
            pytest.fail(f"{events} were played")

        def wait_for_room(self, timeout: float) -> None:
            assert timeout > 0
            replay.driver_went()

    replay.add_sink(Gone())
    assert not replay._play(ended)
    assert (replay.saved(), replay.state.keys) == (0, set())


@pytest.mark.parametrize("place", [None, "1", -1, 4, True])
def test_C125_a_place_that_is_none_is_refused(place: Any, tmp_path: Path) -> None:
    device = Input(Replay(written(tmp_path)))
    state: Any = device.save_state()
    with pytest.raises(ValueError, match="is not a place in 3 reports"):
        device.load_state({**state, "source": place}, 1)


def test_recorded_and_played_again_is_the_same(virtio: Virtio, tmp_path: Path) -> None:
    screen = Touch(100, 100)
    driver = virtio.attach(Input(screen)).drive(InputDriver)
    with Recorder(screen, tmp_path / "s"):
        for place in range(5):
            with screen.down(place, place) as contact:
                contact.move_to(place, 99)
    first = [driver.report() for _ in range(15)]
    second = virtio.attach(Input(Replay(tmp_path / "s", skip_time=True))).drive(InputDriver)
    assert [second.report() for _ in range(15)] == first
    assert Synchronization.SYN_DROPPED not in {
        event.code for report in first for event in report if event.type == SYN
    }


class UpgradedReplay(UpgradedProgram):
    """``vhost-user serve input --replay=…``, and a driver of it."""

    device = "input"


def test_C124_an_upgrade_goes_on_where_it_was(tmp_path: Path) -> None:
    options = f"--replay={written(tmp_path, 60)}", f"--record={tmp_path / 'copy'}"
    with UpgradedReplay(tmp_path, *options) as program:
        program.driver = driver = InputDriver(str(program.socket), queue_size=16)
        seen = []
        for _ in range(3):
            seen += values(driver, 15)
            program.upgrade()
        seen += values(driver, 15)
        assert seen == [(30 + number // 2, 1 - number % 2) for number in range(60)]
        driver.light(Led.LED_CAPSL)  # there is one, and nobody minds
        with pytest.raises(PeerTimeout):
            driver.events(minimum=1, timeout=0.05)
    copied = InputRecording.load(tmp_path / "copy").reports
    assert [(event.code, event.value) for each in copied for event in each.events][:15] == seen[:15]
