"""Input devices of this machine. It has none: the kernel's answers are a stand-in, the library is not."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

import evdev
import pytest

from tests.support.front_end import until
from vhost_user.device_types import find
from vhost_user.devices import (
    EvdevSource,
    Input,
    Keyboard,
    Pointer,
    Touch,
    UinputCopy,
    input_evdev,
)
from vhost_user.devices.library import MissingLibraryError
from vhost_user.frontend import InputDriver, PeerTimeout
from vhost_user.spec.input import InputAbsInfo, InputEvent
from vhost_user.spec.input_codes import Absolute, EventType, Led, Relative, Repeat, Synchronization
from vhost_user.spec.input_keys import Key
from vhost_user.testing.virtio import Virtio

KEY, REL, ABS, SYN = EventType.EV_KEY, EventType.EV_REL, EventType.EV_ABS, EventType.EV_SYN
PATH = "/dev/input/event7"
KERNEL_EVENT = struct.Struct("@llHHi")


class Hardware(evdev.InputDevice[str]):
    """A device of the library whose file is a socket: what it asks the kernel by ioctl is answered here."""

    made: ClassVar[list[Hardware]] = []
    taken: ClassVar[list[Hardware]] = []
    """Who has grabbed it."""

    def __init__(self, path: str) -> None:
        if path != PATH:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        self.path = path
        self.kernel, ours = socket.socketpair()
        ours.setblocking(False)
        self.kernel.settimeout(10)
        self.fd = ours.detach()
        self.info = evdev.DeviceInfo(3, 0x46D, 0xC31C, 0x110)
        self.name, self.uniq, self.phys = "A Keyboard With A Wheel", "4711", "usb-1"
        self._rawcapabilities = {
            SYN: [0, 1, 4],
            KEY: [Key.KEY_A, Key.KEY_B],
            REL: [Relative.REL_DIAL],
            ABS: [(Absolute.ABS_VOLUME, (5, -10, 100, 1, 2, 3))],
            EventType.EV_MSC: [4],
            EventType.EV_LED: [Led.LED_CAPSL],
            EventType.EV_REP: [0, 1],
            EventType.EV_FF: [80],
        }
        self.volume, self.held, self.unplugged = 5, list[int](), False
        self.refusal: Exception | None = None
        self.made.append(self)

    def absinfo(self, axis_num: int) -> Any:
        assert axis_num == Absolute.ABS_VOLUME
        return evdev.AbsInfo(self.volume, -10, 100, 1, 2, 3)

    def active_keys(self, verbose: bool = False) -> Any:
        assert not verbose
        return self.held

    def input_props(self, verbose: bool = False) -> list[int]:
        assert not verbose
        return [5]

    def grab(self) -> None:
        if self.taken:
            raise OSError(errno.EBUSY, "Device or resource busy")
        self.taken.append(self)

    def read(self) -> Any:
        if self.unplugged:
            raise OSError(errno.ENODEV, "No such device")
        return super().read()

    def write(self, *event: int) -> None:
        if self.refusal is not None:
            raise self.refusal
        super().write(*event)

    def close(self) -> None:
        self.taken[:] = [each for each in self.taken if each is not self]  # all are equal to the library
        super().close()
        self.kernel.close()

    # What the kernel does

    def happen(self, *events: tuple[int, int, int], end: bool = True) -> None:
        ends = [(int(SYN), int(Synchronization.SYN_REPORT), 0)] if end else []
        self.kernel.sendall(b"".join(KERNEL_EVENT.pack(12, 34, *event) for event in [*events, *ends]))

    def heard(self) -> tuple[int, int, int]:
        return KERNEL_EVENT.unpack(self.kernel.recv(KERNEL_EVENT.size, socket.MSG_WAITALL))[2:]


class Uinput:
    made: ClassVar[list[Uinput]] = []

    def __init__(self, events: dict[int, list[Any]], **words: Any) -> None:
        if words["name"] == "refused":
            raise evdev.UInputError('"/dev/uinput" cannot be opened for writing')
        self.events, self.words = events, words
        self.written: list[Any] = []
        self.made.append(self)

    def write(self, *event: int) -> None:
        if self.words["name"] == "full":
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        self.written.append(event)

    def syn(self) -> None:
        self.written.append("syn")

    def close(self) -> None:
        self.written.append("closed")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    library = SimpleNamespace(
        InputDevice=Hardware,
        UInput=Uinput,
        AbsInfo=evdev.AbsInfo,
        EvdevError=evdev.EvdevError,
        UInputError=evdev.UInputError,
    )
    monkeypatch.setattr(input_evdev, "_evdev", lambda: library)
    yield
    for each in Hardware.made:
        each.close()
    Hardware.made.clear()
    Uinput.made.clear()
    assert not Hardware.taken


def plugged(virtio: Virtio, **options: Any) -> tuple[Hardware, InputDriver]:
    driver = virtio.attach(Input(EvdevSource(PATH, **options))).drive(InputDriver)
    return Hardware.made[-1], driver


def test_the_guest_sees_the_device_of_this_machine(virtio: Virtio) -> None:
    _, driver = plugged(virtio)
    driver.report()  # where the wheel is
    assert (driver.name, driver.serial) == ("A Keyboard With A Wheel", "4711")
    identity = driver.ids
    assert (identity.bustype, identity.vendor, identity.product, identity.version) == (
        3,
        0x46D,
        0xC31C,
        0x110,
    )
    assert driver.properties == {5}
    assert driver.codes(KEY) == {Key.KEY_A, Key.KEY_B}
    assert driver.codes(EventType.EV_LED) == {Led.LED_CAPSL}
    assert driver.codes(EventType.EV_REP) == set(Repeat)
    assert driver.axis(Absolute.ABS_VOLUME) == InputAbsInfo(-10, 100, 1, 2, 3)
    assert not driver.codes(EventType.EV_FF)
    assert not driver.codes(SYN)


def test_it_may_have_another_name(virtio: Virtio) -> None:
    _, driver = plugged(virtio, name="mine", serial="1")
    driver.report()
    assert (driver.name, driver.serial) == ("mine", "1")


def test_whole_reports_reach_the_guest_and_leds_the_device(virtio: Virtio) -> None:
    hardware, driver = plugged(virtio)
    assert driver.report() == [InputEvent(ABS, Absolute.ABS_VOLUME, 5)]
    hardware.happen((4, 4, 7), (KEY, Key.KEY_A, 1), end=False)
    with pytest.raises(PeerTimeout):
        driver.events(minimum=1, timeout=0.05)
    hardware.happen()
    assert driver.report() == [InputEvent(4, 4, 7), InputEvent(KEY, Key.KEY_A, 1)]
    hardware.happen((KEY, Key.KEY_A, 2))
    assert driver.report() == [InputEvent(KEY, Key.KEY_A, 2)]
    hardware.happen((REL, Relative.REL_DIAL, -3))
    assert driver.report() == [InputEvent(REL, Relative.REL_DIAL, -3)]
    driver.light(Led.LED_CAPSL)
    assert hardware.heard() == (EventType.EV_LED, Led.LED_CAPSL, 1)
    hardware.happen((EventType.EV_LED, Led.LED_CAPSL, 1))  # the kernel tells who listens, too
    hardware.happen((KEY, Key.KEY_A, 0))
    assert driver.report() == [InputEvent(KEY, Key.KEY_A, 0)]


def test_what_linux_sends_back_goes_no_further(virtio: Virtio) -> None:
    hardware, driver = plugged(virtio)
    driver.report()
    driver.send(InputEvent(4, 5, 123))  # MSC_TIMESTAMP
    driver.light(Led.LED_CAPSL, False)
    assert hardware.heard() == (EventType.EV_LED, Led.LED_CAPSL, 0)


def test_a_device_that_cannot_be_written_is_said_and_survived(
    virtio: Virtio, caplog: pytest.LogCaptureFixture
) -> None:
    hardware, driver = plugged(virtio)
    for error in (evdev.EvdevError("no write access"), OSError(errno.ENODEV, "No such device")):
        hardware.refusal = error
        driver.light(Led.LED_CAPSL)
        assert f"a LED cannot be set: {error}" in caplog.text


def test_what_the_kernel_dropped_is_asked_for(virtio: Virtio) -> None:
    hardware, driver = plugged(virtio)
    driver.report()
    hardware.happen((KEY, Key.KEY_A, 1))
    assert driver.report() == [InputEvent(KEY, Key.KEY_A, 1)]
    hardware.held, hardware.volume = [Key.KEY_B], 7
    hardware.happen((KEY, Key.KEY_B, 2), (SYN, Synchronization.SYN_DROPPED, 0), (KEY, Key.KEY_B, 2))
    assert driver.report() == [
        InputEvent(KEY, Key.KEY_A, 0),
        InputEvent(KEY, Key.KEY_B, 1),
        InputEvent(ABS, Absolute.ABS_VOLUME, 7),
    ]
    hardware.happen(*[(4, 4, number) for number in range(2000)])  # what no hardware does
    hardware.happen((KEY, Key.KEY_B, 0))
    assert driver.report() == [InputEvent(KEY, Key.KEY_B, 0)]


def test_what_is_held_when_it_begins_is_told(virtio: Virtio) -> None:
    source = EvdevSource(PATH, grab=False)
    Hardware.made[-1].held = [Key.KEY_B]
    source.state = source._now()
    driver = virtio.attach(Input(source)).drive(InputDriver)
    assert driver.report() == [InputEvent(KEY, Key.KEY_B, 1), InputEvent(ABS, Absolute.ABS_VOLUME, 5)]


def test_unplugged_nothing_is_pressed_any_more(virtio: Virtio) -> None:
    hardware, driver = plugged(virtio)
    driver.report()
    hardware.happen((KEY, Key.KEY_A, 1))
    driver.report()
    hardware.unplugged = True
    hardware.happen()
    assert driver.report() == [InputEvent(KEY, Key.KEY_A, 0)]
    assert [error for error in virtio.errors if f"{PATH} is gone" in error]
    virtio.errors.clear()


def test_it_is_grabbed_unless_the_option_says_otherwise(virtio: Virtio) -> None:
    plugged(virtio, grab=False)
    assert not Hardware.taken
    hardware, _ = plugged(virtio)
    assert Hardware.taken == [hardware]


def test_one_that_somebody_else_has_is_waited_for(virtio: Virtio, caplog: pytest.LogCaptureFixture) -> None:
    other = Hardware(PATH)
    other.grab()
    hardware, driver = plugged(virtio)
    assert driver.report()
    until(lambda: "somebody else has grabbed it" in caplog.text, "the warning")
    hardware.held = [Key.KEY_A]
    other.close()
    assert driver.report() == [InputEvent(KEY, Key.KEY_A, 1)]
    assert Hardware.taken == [hardware]


def test_C124_hardware_has_a_state_of_its_own(virtio: Virtio) -> None:
    source = virtio.attach(Input(EvdevSource(PATH, grab=False)))
    driver = source.drive(InputDriver)
    driver.report()
    Hardware.made[-1].happen((KEY, Key.KEY_A, 1))
    driver.report()
    for queue in range(2):
        driver.stop_queue(queue)
    target = virtio.attach(Input(EvdevSource(PATH, grab=False)))
    target.load_state(source.save_state())
    moved = target.drive(InputDriver)
    assert moved.report() == [InputEvent(KEY, Key.KEY_A, 0)]


# uinput


def test_uinput_does_the_same(virtio: Virtio) -> None:
    screen = Touch(100, 100, name="screen")
    device = Input(screen)
    device.mirror(UinputCopy(screen))
    (made,) = Uinput.made
    assert made.events == {
        KEY: [Key.BTN_TOUCH],
        ABS: [
            (axis, (0, each.min, each.max, 0, 0, 0)) for axis, each in sorted(screen.description.axes.items())
        ],
    }
    assert made.words == {
        "name": "screen", "vendor": 0, "product": 4, "version": 1, "bustype": 6, "input_props": [1],
    }  # fmt: skip
    driver = virtio.attach(device).drive(InputDriver)
    screen.tap(1, 2)
    events = [(event.type, event.code, event.value) for event in driver.report()]
    assert made.written == [
        *events,
        "syn",
        *[(event.type, event.code, event.value) for event in driver.report()],
        "syn",
    ]


def test_uinput_repeats_keys_and_ends_with_the_device(virtio: Virtio) -> None:
    keyboard = Keyboard()
    keyboard.press("a")
    device = Input(keyboard)
    device.mirror(UinputCopy(keyboard))
    (made,) = Uinput.made
    assert made.events[EventType.EV_REP] == []
    assert made.written == [(KEY, Key.KEY_A, 1), "syn"]
    daemon = virtio.attach(device).daemon
    assert daemon is not None
    daemon.close()
    assert made.written[-1] == "closed"


def test_uinput_by_its_option() -> None:
    device = built(mouse=True, uinput=True)
    assert isinstance(device.source, Pointer)
    device.source.move(1)
    assert Uinput.made[0].written == [(REL, Relative.REL_X, 1), "syn"]


def test_uinput_that_cannot_be_used_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(OSError, match="no device can be made by uinput"):
        UinputCopy(Pointer(name="refused"))
    mouse = Pointer(name="full")
    UinputCopy(mouse)
    mouse.move(1)
    assert "uinput takes no events" in caplog.text


# Options


def built(**options: Any) -> Input:
    device = find("input").make(options)
    assert isinstance(device, Input)
    return device


def test_C144_evdev_path_and_no_grab(virtio: Virtio) -> None:
    device = built(evdev_path=PATH)
    assert device.source.description.name == "A Keyboard With A Wheel"
    virtio.attach(device)
    assert Hardware.taken == Hardware.made
    second = built(evdev=PATH, grab=False, name="again")
    assert second.source.description.name == "again"
    Hardware.made[-1].close()


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="event8"):
        EvdevSource("/dev/input/event8")
    monkeypatch.undo()
    with pytest.raises(OSError, match="it is not an input device: '/dev/null'"):
        EvdevSource("/dev/null")

    def missing(_name: str) -> None:
        raise ModuleNotFoundError("No module named 'evdev'")

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(MissingLibraryError, match=r"pip install 'vhost-user\[input\]'"):
        EvdevSource(PATH)
