"""Keyboards, mice and touch screens of a real guest: Linux's own driver, read from /dev/input and a terminal.

The installed QEMU has a device for them that wants KVM; that of 11.1, which does not, gives its queues four
entries. Its generic device takes larger ones.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.front_end import until
from vhost_user.device_types.qemu import GENERIC
from vhost_user.devices import Input, InputSource, Keyboard, Pointer, Tablet, Touch
from vhost_user.spec.input_codes import Absolute, EventType, Led, Relative
from vhost_user.spec.input_keys import Key
from vhost_user.testing.booting import BootGuest
from vhost_user.testing.guest_devices import VhostUserDevice
from vhost_user.testing.guest_qemu import locate_qemu
from vhost_user.testing.virtio import Virtio

pytestmark = pytest.mark.guest

KEY, REL, ABS, SYN = EventType.EV_KEY, EventType.EV_REL, EventType.EV_ABS, EventType.EV_SYN
EVENT = struct.Struct("<qqHHi")
"""struct input_event of a 64-bit guest."""
MODULES = ("virtio_input", "evdev")
Events = list[tuple[int, int, int]]


@pytest.fixture(params=["own device, split", "generic device, packed"])
def boot(request: pytest.FixtureRequest, virtio: Virtio, virtio_guest: BootGuest) -> Callable[..., Any]:
    """Boot a guest with these sources, by either device of QEMU."""
    packed = "packed" in request.param

    def made(source: InputSource) -> VhostUserDevice:
        device = Input(source)
        device.packed = packed  # QEMU hands on what the back-end offers
        socket = virtio.attach(device).socket
        virtio.devices[-1].disconnect()
        if not packed:
            return VhostUserDevice("vhost-user-input-pci", socket, modules=MODULES)
        properties = {"virtio-id": 18, "num_vqs": 2, "vq_size": 64, "config_size": 256}
        return VhostUserDevice(GENERIC.driver, socket, properties=properties, modules=MODULES)

    return lambda *sources: virtio_guest(*map(made, sources), qemu=locate_qemu())


def node(guest: Any, name: str) -> str:
    """The device file of the input device with this name. The guest learns of it by and by."""
    command = (
        f"for each in /sys/class/input/event*; do "
        f'[ "$(cat $each/device/name)" = "{name}" ] && basename $each; done; true'
    )
    until(lambda: guest.run(command).strip(), f"the guest has {name}")
    path = f"/dev/input/{guest.run(command).strip()}"
    until(lambda: guest.run(f"[ -c {path} ] && echo yes || true"), f"the guest has {path}")
    return path


def listen(guest: Any, path: str, name: str) -> None:
    """Keep what comes from a device file in the file ``name``, from now on."""
    guest.run(f"cat {path} </dev/null >/{name} 2>/{name}.error & echo $! >/{name}.pid")
    until(
        lambda: guest.run(f"ls -l /proc/$(cat /{name}.pid)/fd | grep -c {path} || true").strip() == "1",
        "the file is open",
    )


def heard(guest: Any, name: str) -> Events:
    data = base64.b64decode(guest.run(f"base64 /{name}"))
    return [event[2:] for event in EVENT.iter_unpack(data[: len(data) // EVENT.size * EVENT.size])]


def wait_for(guest: Any, name: str, *last: tuple[int, int, int]) -> Events:
    """All that was heard, once it ends with a report of these events."""
    end = [*last, (SYN, 0, 0)]
    try:
        until(lambda: heard(guest, name)[-len(end) :] == end, f"{last} is heard")
    except AssertionError as error:
        raise AssertionError(f"heard: {heard(guest, name)}") from error
    return heard(guest, name)


def taps(*codes: int) -> Events:
    return [event for code in codes for value in (1, 0) for event in ((KEY, code, value), (SYN, 0, 0))]


def light(led: Led, lit: bool) -> str:
    """The shell's word for an event that changes a LED."""
    data = EVENT.pack(0, 0, EventType.EV_LED, led, int(lit))
    return "printf '" + "".join(f"\\{byte:03o}" for byte in data) + "'"


def test_a_text_is_typed_and_leds_are_lit(boot: Callable[..., Any]) -> None:
    keyboard = Keyboard(name="keyboard of tests", serial="5/8", repeat=False)
    guest = boot(keyboard)
    path = node(guest, "keyboard of tests")
    assert guest.run(f"cat /sys/class/input/{path.rpartition('/')[2]}/device/uniq") == "5/8\n"
    assert guest.run(f"cat /sys/class/input/{path.rpartition('/')[2]}/device/id/bustype") == "0006\n"
    # A terminal reads it as well.
    guest.run("head -n 1 </dev/tty1 >/line 2>/line.error & echo $! >/line.pid")
    until(lambda: guest.run("ls -l /proc/$(cat /line.pid)/fd | grep -c tty1 || true").strip() == "1", "open")
    listen(guest, path, "events")
    for word, last in (("hello", Key.KEY_O), (", World", Key.KEY_D), ("!\n", Key.KEY_ENTER)):
        keyboard.type(word)
        typed = wait_for(guest, "events", (KEY, last, 0))  # Linux keeps 64 events for who reads them
    assert typed[:20] == taps(Key.KEY_H, Key.KEY_E, Key.KEY_L, Key.KEY_L, Key.KEY_O)
    assert typed.count((KEY, Key.KEY_LEFTSHIFT, 1)) == 2
    until(lambda: guest.run("cat /line"), "the terminal has its line")
    assert guest.run("cat /line") == "hello, World!\n"
    for lit in (True, False, True):
        guest.run(f"{light(Led.LED_SCROLLL, lit)} >{path}")
        keyboard.wait_for_led(Led.LED_SCROLLL, lit)
    keyboard.tap("capslock")  # the terminal lights that one by itself
    keyboard.wait_for_led(Led.LED_CAPSL)


def test_mouse_tablet_and_fingers(boot: Callable[..., Any]) -> None:
    mouse, tablet, screen = Pointer(), Tablet(1000, 1000), Touch(800, 600, contacts=5)
    guest = boot(mouse, tablet, screen)
    for name, source in (("mouse", mouse), ("tablet", tablet), ("screen", screen)):
        listen(guest, node(guest, source.description.name), name)
    mouse.move(30, -5)
    mouse.click("right")
    mouse.scroll(-2)
    assert wait_for(
        guest, "mouse", (REL, Relative.REL_WHEEL, -2), (REL, Relative.REL_WHEEL_HI_RES, -240)
    ) == [
        *((REL, Relative.REL_X, 30), (REL, Relative.REL_Y, -5), (SYN, 0, 0)),
        *taps(Key.BTN_RIGHT),
        *((REL, Relative.REL_WHEEL, -2), (REL, Relative.REL_WHEEL_HI_RES, -240), (SYN, 0, 0)),
    ]
    tablet.move_to(999, 500)
    wait_for(guest, "tablet", (ABS, Absolute.ABS_X, 999), (ABS, Absolute.ABS_Y, 500))
    with screen.report():
        fingers = [screen.down(100 * number, 7) for number in range(1, 6)]  # 24 events, and the ring has 4
    for finger in fingers:
        finger.up()
    events = wait_for(guest, "screen", (ABS, Absolute.ABS_MT_TRACKING_ID, -1), (KEY, Key.BTN_TOUCH, 0))
    first = events[: events.index((SYN, 0, 0))]
    assert [value for _, code, value in first if code == Absolute.ABS_MT_TRACKING_ID] == [0, 1, 2, 3, 4]
    assert [value for _, code, value in first if code == Absolute.ABS_MT_POSITION_X] == [
        100,
        200,
        300,
        400,
        500,
    ]
    assert [value for _, code, value in first if code == Absolute.ABS_MT_SLOT] == [1, 2, 3, 4]


def test_C054_pauses_lose_nothing_and_a_reboot_is_told_what_is_pressed(boot: Callable[..., Any]) -> None:
    keyboard = Keyboard(repeat=False)
    guest = boot(keyboard)
    listen(guest, node(guest, keyboard.description.name), "events")
    expected: Events = []
    for key in "abcdefgh":
        code = Key[f"KEY_{key.upper()}"]
        keyboard.tap(key)
        guest.qmp("stop")
        keyboard.tap(key)
        keyboard.press("shift")
        guest.qmp("cont")
        keyboard.tap(key)
        keyboard.release("shift")
        expected += [*taps(code, code), (KEY, Key.KEY_LEFTSHIFT, 1), (SYN, 0, 0), *taps(code)]
        expected += [(KEY, Key.KEY_LEFTSHIFT, 0), (SYN, 0, 0)]
        wait_for(guest, "events", *expected[:-1])
    keyboard.press("x")
    wait_for(guest, "events", (KEY, Key.KEY_X, 1))
    guest.reboot()
    path = node(guest, keyboard.description.name)
    listen(guest, path, "events")
    keyboard.tap("y")
    keyboard.release("x")
    # It had been told that x is pressed: a release of what is not pressed is no event.
    wanted = [*taps(Key.KEY_Y), (KEY, Key.KEY_X, 0), (SYN, 0, 0)]
    assert wait_for(guest, "events", (KEY, Key.KEY_X, 0))[-len(wanted) :] == wanted
