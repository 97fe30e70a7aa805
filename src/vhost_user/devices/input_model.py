"""Models of input devices: ``Keyboard``, ``Pointer``, ``Tablet``. Touch screens are in ``input_touch``.

keyboard = Keyboard()
serve(Input(keyboard))
keyboard.type("hello")
keyboard.tap("ctrl", "alt", "F1")
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Self

from vhost_user.devices.input_keymap import KeyLike, key_code, keys_for
from vhost_user.devices.input_source import BUS_VIRTUAL, ROOM_TIMEOUT, InputDescription, InputSource
from vhost_user.devices.input_state import InputState
from vhost_user.spec.input import InputAbsInfo, InputDeviceIds, InputEvent
from vhost_user.spec.input_codes import Absolute, EventType, InputProperty, Led, Relative, Repeat
from vhost_user.spec.input_keys import Key

INTERVAL = 0.01
"""Seconds between two characters that are typed."""
DETENT = 120
"""What a wheel that clicks moves by a click, in the units of REL_WHEEL_HI_RES."""
BUTTONS = (Key.BTN_LEFT, Key.BTN_RIGHT, Key.BTN_MIDDLE, Key.BTN_SIDE, Key.BTN_EXTRA)
WHEELS = (
    Relative.REL_WHEEL,
    Relative.REL_HWHEEL,
    Relative.REL_WHEEL_HI_RES,
    Relative.REL_HWHEEL_HI_RES,
)
SIZE = 32768
"""Steps of an axis, as QEMU's tablet has them."""


def ids(product: int) -> InputDeviceIds:
    """Those of the models, one product each."""
    return InputDeviceIds(BUS_VIRTUAL, 0, product, 1)


class InputModel(InputSource):
    """A device that a program moves: methods send reports, from any thread.

    ``with model.report():`` makes one report of everything in the block.
    """

    def __init__(self, description: InputDescription) -> None:
        super().__init__(description)
        self._gathered: list[InputEvent] = []
        self._depth = 0
        self._axes: dict[int, int] = {}  # also what is gathered

    @contextmanager
    def report(self) -> Iterator[Self]:
        """All of this happens at one moment. Other threads wait meanwhile."""
        with self.lock:
            self._depth += 1
            try:
                yield self
            finally:
                self._depth -= 1
                if not self._depth:
                    events, self._gathered = self._gathered, []
                    self.hand_on(events)

    def emit(self, kind: int, code: int, value: int) -> None:
        """An event, in the report of this moment. Raises ValueError for one that the device does not have."""
        if not self.description.has(kind, code):
            raise ValueError(f"{self.description.name!r} has no event of type {kind} with code {code}")
        with self.report():
            self._gathered.append(InputEvent(kind, code, value))

    @property
    def pressed(self) -> frozenset[int]:
        """The keys and buttons that are held."""
        with self.lock:
            return frozenset(self.state.keys)

    def go_on(self, state: InputState, saved: Any) -> None:
        """What was pressed in another process is pressed here."""
        del saved
        with self.lock:
            self.state = state
            self._axes = dict(state.axes)

    def _put(self, axis: int, value: int) -> None:
        """The axis goes there, if it is not there already."""
        with self.report():
            if self._axes.get(axis) != value:
                self.emit(EventType.EV_ABS, axis, value)
                self._axes[axis] = value

    def _hold(self, codes: Iterable[int], value: int) -> None:
        with self.report():
            for code in codes:
                self.emit(EventType.EV_KEY, code, value)


class Keyboard(InputModel):
    """A keyboard with every key that there is, LEDs, and the layout of the USA for ``type``.

    With ``repeat`` the guest repeats a key that is held. ``on_led`` is called with the LED and whether it is
    lit when the guest changes it; in the worker: it must not block.
    """

    def __init__(
        self,
        *,
        name: str = "vhost-user keyboard",
        serial: str = "",
        repeat: bool = True,
        on_led: Callable[[Led, bool], object] | None = None,
    ) -> None:
        codes: dict[int, set[int]] = {
            EventType.EV_KEY: {key for key in Key if key < Key.BTN_0},
            EventType.EV_LED: {Led.LED_NUML, Led.LED_CAPSL, Led.LED_SCROLLL},
        }
        if repeat:
            codes[EventType.EV_REP] = set(Repeat)
        super().__init__(InputDescription(name=name, serial=serial, ids=ids(1), codes=codes))
        self.on_led = on_led
        self._leds: set[Led] = set()
        self._lit = threading.Condition()

    def press(self, *keys: KeyLike) -> None:
        """Hold keys down, in this order."""
        for key in map(key_code, keys):
            self._hold((key,), 1)

    def release(self, *keys: KeyLike) -> None:
        """Let go of them; without any, of all that are held."""
        for key in map(key_code, keys or sorted(self.pressed)):
            self._hold((key,), 0)

    def tap(self, *keys: KeyLike) -> None:
        """Press keys and let go of them, the last first: ``tap("ctrl", "c")``."""
        self.press(*keys)
        self.release(*reversed(keys))

    def type(self, text: str, *, interval: float = INTERVAL, timeout: float = ROOM_TIMEOUT) -> None:
        """Type a text, a character in ``interval`` seconds, and no faster than the guest takes it.

        Linux keeps no more than 64 events for a program that reads them: with 0 it may lose some. Raises
        ValueError for a character that no key types, before anything is typed; TimeoutError when the guest
        takes nothing for ``timeout`` seconds.
        """
        for number, keys in enumerate([keys_for(character) for character in text]):
            if number and interval:
                time.sleep(interval)
            self.wait_for_room(timeout)
            self.tap(*keys)

    @property
    def leds(self) -> frozenset[Led]:
        """Those that the guest lit."""
        with self._lit:
            return frozenset(self._leds)

    def wait_for_led(self, led: Led, lit: bool = True, timeout: float = 10.0) -> None:
        """Wait until the guest has lit it, or put it out. Raises TimeoutError after so many seconds."""
        with self._lit:
            if not self._lit.wait_for(lambda: (led in self._leds) is lit, timeout):
                raise TimeoutError(f"{led.name} is not {'lit' if lit else 'out'} after {timeout:g} seconds")

    def told(self, event: InputEvent) -> None:
        """The guest changed a LED."""
        led, lit = Led(event.code), bool(event.value)
        with self._lit:
            if (led in self._leds) is lit:
                return
            (self._leds.add if lit else self._leds.discard)(led)
            self._lit.notify_all()
        if self.on_led is not None:
            self.on_led(led, lit)

    def driver_went(self) -> None:
        """The next driver finds them out."""
        for led in self.leds:
            self.told(InputEvent(EventType.EV_LED, led, 0))

    def saved(self) -> object:
        """The LEDs."""
        return [int(led) for led in sorted(self.leds)]

    def go_on(self, state: InputState, saved: Any) -> None:
        """The LEDs are lit as well."""
        if not isinstance(saved, list) or not all(type(led) is int for led in saved):
            raise ValueError("the LEDs in the state of a keyboard are a list of codes")
        super().go_on(state, saved)
        for led in saved:
            self.hear(InputEvent(EventType.EV_LED, led, 1))


class Buttons(InputModel):
    """What a pointer and a tablet have in common: buttons and wheels."""

    def press(self, button: KeyLike = "left") -> None:
        """Hold a button: ``"left"``, ``"right"``, ``"middle"``, ``"side"``, ``"extra"``."""
        self._hold((button_code(button),), 1)

    def release(self, button: KeyLike = "left") -> None:
        """Let go of it."""
        self._hold((button_code(button),), 0)

    def click(self, button: KeyLike = "left", count: int = 1) -> None:
        """Press and let go, so many times."""
        for _ in range(count):
            self.press(button)
            self.release(button)

    def scroll(self, lines: int, sideways: int = 0) -> None:
        """Turn the wheel by so many clicks: away from the user is positive, as is to the right."""
        with self.report():
            for code, fine, value in (
                (Relative.REL_WHEEL, Relative.REL_WHEEL_HI_RES, lines),
                (Relative.REL_HWHEEL, Relative.REL_HWHEEL_HI_RES, sideways),
            ):
                if value:
                    self.emit(EventType.EV_REL, code, value)
                    self.emit(EventType.EV_REL, fine, DETENT * value)


class Pointer(Buttons):
    """A mouse: it moves by something, has five buttons and two wheels."""

    def __init__(self, *, name: str = "vhost-user mouse", serial: str = "") -> None:
        codes: dict[int, set[int]] = {
            EventType.EV_KEY: set(BUTTONS),
            EventType.EV_REL: {Relative.REL_X, Relative.REL_Y, *WHEELS},
        }
        super().__init__(
            InputDescription(
                name=name,
                serial=serial,
                ids=ids(2),
                codes=codes,
                properties={InputProperty.INPUT_PROP_POINTER},
            )
        )

    def move(self, dx: int = 0, dy: int = 0) -> None:
        """Move it; right and down are positive."""
        with self.report():
            for code, value in ((Relative.REL_X, dx), (Relative.REL_Y, dy)):
                if value:
                    self.emit(EventType.EV_REL, code, value)


class Tablet(Buttons):
    """A pointer that goes to a place: x from 0 to ``width`` - 1, y from 0 to ``height`` - 1.

    Guests spread that over their screen. Raises ValueError for a side of less than 2.
    """

    def __init__(
        self,
        width: int = SIZE,
        height: int = SIZE,
        *,
        name: str = "vhost-user tablet",
        serial: str = "",
    ) -> None:
        axes: dict[int, InputAbsInfo] = {Absolute.ABS_X: side(width), Absolute.ABS_Y: side(height)}
        codes: dict[int, set[int]] = {
            EventType.EV_KEY: set(BUTTONS),
            EventType.EV_REL: set(WHEELS),
            EventType.EV_ABS: set(axes),
        }
        super().__init__(InputDescription(name=name, serial=serial, ids=ids(3), codes=codes, axes=axes))

    def move_to(self, x: int, y: int) -> None:
        """Go there. Raises ValueError for a place that is outside."""
        place = {Absolute.ABS_X: x, Absolute.ABS_Y: y}
        inside(self.description, place)
        with self.report():
            for axis, value in place.items():
                self._put(axis, value)


def button_code(button: KeyLike) -> int:
    """The code of a button; ``"back"`` is that of a mouse, not the key."""
    name = f"BTN_{button.upper()}" if isinstance(button, str) else ""
    return Key[name] if name in Key.__members__ else key_code(button)


def side(steps: int) -> InputAbsInfo:
    """The range of an axis with so many steps."""
    if not 2 <= steps <= 1 << 31:
        raise ValueError(f"a side has 2 steps at least, not {steps}")
    return InputAbsInfo(0, steps - 1)


def inside(description: InputDescription, place: dict[Absolute, int]) -> None:
    """Raise ValueError for a place that is outside of the axes' ranges."""
    for axis, value in place.items():
        bounds = description.axes[axis]
        if not bounds.min <= value <= bounds.max:
            raise ValueError(f"{axis.name} goes from {bounds.min} to {bounds.max}, not to {value}")
