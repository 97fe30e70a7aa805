"""What a page shows of input models: keys, and a pad for a mouse, a tablet or a touch screen."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import ClassVar

from vhost_user.board.control import Control, Json
from vhost_user.devices.input_keymap import key_code
from vhost_user.devices.input_model import Buttons, Keyboard, Pointer, Tablet
from vhost_user.devices.input_touch import Contact, Touch
from vhost_user.spec.input_codes import Absolute, Led
from vhost_user.spec.input_keys import Key

MOST = 10_000
"""Steps that a pointer is moved by at once, at most."""
_LEDS = {"Num": Led.LED_NUML, "Caps": Led.LED_CAPSL, "Scroll": Led.LED_SCROLLL}
_NAMED = {
    **{f"Arrow{way}": f"KEY_{way.upper()}" for way in ("Up", "Down", "Left", "Right")},
    **{
        f"{key}{side}": f"KEY_{side.upper()}{key[:5].upper()}"
        for key in ("Shift", "Alt")
        for side in ("Left", "Right")
    },
    **{
        f"{key}{side}": f"KEY_{side.upper()}{word}"
        for key, word in (("Control", "CTRL"), ("Meta", "META"))
        for side in ("Left", "Right")
    },
    **{f"Numpad{digit}": f"KEY_KP{digit}" for digit in range(10)},
    "NumpadAdd": "KEY_KPPLUS",
    "NumpadComma": "KEY_KPCOMMA",
    "NumpadDecimal": "KEY_KPDOT",
    "NumpadDivide": "KEY_KPSLASH",
    "NumpadEnter": "KEY_KPENTER",
    "NumpadMultiply": "KEY_KPASTERISK",
    "NumpadSubtract": "KEY_KPMINUS",
    "Backquote": "KEY_GRAVE",
    "BracketLeft": "KEY_LEFTBRACE",
    "BracketRight": "KEY_RIGHTBRACE",
    "ContextMenu": "KEY_COMPOSE",
    "Escape": "KEY_ESC",
    "IntlBackslash": "KEY_102ND",
    "Period": "KEY_DOT",
    "PrintScreen": "KEY_SYSRQ",
    "Quote": "KEY_APOSTROPHE",
}
"""The names that browsers have for places on a keyboard, and those of Linux, where they differ."""


def linux_name(place: str) -> str:
    """The name that Linux has for a place that a browser calls ``KeyA``, ``Digit1`` or ``ArrowUp``."""
    plain = re.fullmatch(r"(?:Key|Digit)?(\w+)", place)
    return _NAMED.get(place) or f"KEY_{plain[1].upper()}" if plain else place


class _Held:
    """Who holds what: the first one presses it, the last one lets go of it."""

    def __init__(self, press: Callable[[str], object], release: Callable[[str], object]) -> None:
        self._press, self._release = press, release
        self._holders: dict[str, set[object]] = {}

    def hold(self, what: str, down: bool, who: object) -> None:
        holders = self._holders.get(what, set())
        if down and who not in holders:
            if not holders:
                self._press(what)
            self._holders[what] = {*holders, who}
        elif not down and who in holders:
            holders.remove(who)
            if not holders:
                self._release(what)

    def left(self, who: object) -> None:
        for what in list(self._holders):
            self.hold(what, False, who)

    def __iter__(self) -> Iterable[str]:
        return (what for what, holders in self._holders.items() if holders)


class Keys(Control):
    """A keyboard: what is typed into it on the page is pressed, by place, whatever the layout says of it."""

    kind = "keys"

    def __init__(self, keyboard: Keyboard, label: str | None = None) -> None:
        super().__init__(label or keyboard.description.name)
        self.keyboard = keyboard
        self._held = _Held(keyboard.press, keyboard.release)

    def value(self) -> Json:
        """The keys that are pressed, and the LEDs that the guest has lit."""
        lit = self.keyboard.leds
        return {
            "pressed": [
                Key(code).name.removeprefix("KEY_").lower() for code in sorted(self.keyboard.pressed)
            ],
            "leds": {name: led in lit for name, led in _LEDS.items()},
        }

    def act(self, value: Json, who: object) -> None:
        """``[place, 1]`` presses the key at a place that a browser calls so, ``[place, 0]`` lets go of it."""
        match value:
            case [str() as place, 0 | 1 as down]:
                key_code(linux_name(place))
                self._held.hold(linux_name(place), bool(down), who)
            case _:
                raise ValueError(f"{self.label}: {value!r} is not a key, and 1 or 0")

    def left(self, who: object) -> None:
        """Let go of all keys."""
        self._held.left(who)


class Pad(Control):
    """A surface on which a mouse moves, a tablet points, or fingers touch, as the model is."""

    kind = "pad"
    BUTTONS: ClassVar[tuple[str, ...]] = ("left", "middle", "right", "side", "extra")

    def __init__(self, model: Pointer | Tablet | Touch, label: str | None = None) -> None:
        super().__init__(label or model.description.name)
        self.model = model
        self._held = _Held(model.press, model.release) if isinstance(model, Buttons) else None
        self._contacts: dict[tuple[object, int], Contact] = {}

    def describe(self) -> dict[str, Json]:
        """How it is moved, and its sides."""
        if isinstance(self.model, Pointer):
            return {"mode": "moves", "sides": [4, 3]}
        width, height = self._sides()
        return {"mode": "touches" if isinstance(self.model, Touch) else "points", "sides": [width, height]}

    def value(self) -> Json:
        """The buttons that are pressed, or how many fingers touch it."""
        if isinstance(self.model, Touch):
            count = len(self.model.contacts)
            return f"{count} {'finger' if count == 1 else 'fingers'}" if count else ""
        return ", ".join(sorted(Key(code).name.removeprefix("BTN_").lower() for code in self.model.pressed))

    def act(self, value: Json, who: object) -> None:
        """Do what the model can.

        A mouse ``{"move": [dx, dy]}``, a tablet ``{"at": [x, y]}``, both ``{"button": [name, 1]}`` and
        ``{"scroll": lines}``, a touch screen ``{"finger": [number, x, y]}``, and ``{"finger": [number]}`` for
        one that is lifted. x and y are parts of the sides, 0 to 1.
        """
        model = self.model
        match value:
            case {"move": [int() as dx, int() as dy]} if isinstance(model, Pointer) and _small(dx, dy):
                model.move(dx, dy)
            case {"at": [x, y]} if isinstance(model, Tablet):
                model.move_to(*self._place(x, y))
            case {"button": [str() as button, 0 | 1 as down]} if self._held and button in self.BUTTONS:
                self._held.hold(button, bool(down), who)
            case {"scroll": int() as lines} if isinstance(model, Buttons) and _small(lines):
                model.scroll(lines)
            case {"finger": [int() as number, *place]} if isinstance(model, Touch) and len(place) in {0, 2}:
                self._touch(model, (who, number), [*place])
            case _:
                raise ValueError(f"{self.label}: {value!r} is nothing that it does")

    def left(self, who: object) -> None:
        """Let go of all buttons, and lift all fingers."""
        if self._held is not None:
            self._held.left(who)
        for finger in [finger for finger in self._contacts if finger[0] is who]:
            self._contacts.pop(finger).up()

    def _touch(self, screen: Touch, finger: tuple[object, int], place: list[Json]) -> None:
        contact = self._contacts.get(finger)
        if not place:
            if contact is not None:
                self._contacts.pop(finger).up()
        elif contact is None:
            self._contacts[finger] = screen.down(*self._place(*place))
        else:
            contact.move_to(*self._place(*place))

    def _sides(self) -> tuple[int, int]:
        axes = self.model.description.axes
        x, y = (
            (Absolute.ABS_MT_POSITION_X, Absolute.ABS_MT_POSITION_Y)
            if isinstance(self.model, Touch)
            else (Absolute.ABS_X, Absolute.ABS_Y)
        )
        return axes[x].max + 1, axes[y].max + 1

    def _place(self, x: Json, y: Json) -> tuple[int, int]:
        for part in (x, y):
            if type(part) not in {int, float} or not 0 <= part <= 1:
                raise ValueError(f"{self.label}: a place is two numbers from 0 to 1, not {x!r} and {y!r}")
        width, height = self._sides()
        return round(x * (width - 1)), round(y * (height - 1))


def _small(*steps: int) -> bool:
    return all(abs(step) <= MOST for step in steps)
