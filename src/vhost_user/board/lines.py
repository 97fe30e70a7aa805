"""What a page shows of GPIO lines: LEDs, switches, buttons, and pins that can be any of these."""

from __future__ import annotations

from typing import ClassVar

from vhost_user.board.control import Control, Json
from vhost_user.devices.gpio_line import Line

COLOURS = ("red", "yellow", "green", "blue", "white")


class _OfLine(Control):
    """A control with a line behind it; its label is the line's name, or its number."""

    DRIVEN: ClassVar[str] = "the guest drives this line: what is set here is seen when it lets go of it"

    def __init__(self, line: Line, label: str | None = None) -> None:
        super().__init__(label or line.name or f"line {line.number}")
        self.line = line

    def value(self) -> Json:
        """The level, and who drives it."""
        return {"level": self.line.level, "driven": self.line.is_output}


class Led(_OfLine):
    """Lit while the line is high; with ``active=0`` while it is low. Colours: those of ``COLOURS``."""

    kind = "led"

    def __init__(
        self, line: Line, label: str | None = None, *, colour: str = "green", active: int = 1
    ) -> None:
        super().__init__(line, label)
        if colour not in COLOURS:
            raise ValueError(f"{self.label}: there is no LED in {colour!r}, but in {', '.join(COLOURS)}")
        if active not in {0, 1}:
            raise ValueError(f"{self.label}: an LED is lit by the level 0 or 1, not by {active!r}")
        self._colour, self._active = colour, active

    def describe(self) -> dict[str, Json]:
        """Its colour."""
        return {"colour": self._colour}

    def value(self) -> Json:
        """Whether it is lit."""
        return self.line.level == self._active


class Switch(_OfLine):
    """Gives the line a level that lasts."""

    kind = "switch"

    def act(self, value: Json, who: object) -> None:
        """Turn it to 0 or 1."""
        del who
        if type(value) is not int or value not in {0, 1}:
            raise ValueError(f"{self.label}: a level is 0 or 1, not {value!r}")
        self.line.set(value)


class Button(_OfLine):
    """Presses the line for as long as somebody holds it, on whichever page; see ``Line.press``."""

    kind = "button"

    def __init__(self, line: Line, label: str | None = None) -> None:
        super().__init__(line, label)
        self._holders: set[object] = set()

    def value(self) -> Json:
        """Whether it is pressed, by a page or a program, and who drives the line."""
        return {"pressed": self.line.level != self.line.rest, "driven": self.line.is_output}

    def act(self, value: Json, who: object) -> None:
        """Press it (1), or let go of it (0)."""
        if type(value) is not int or value not in {0, 1}:
            raise ValueError(f"{self.label}: press with 1, let go with 0, not with {value!r}")
        if not value:
            self.left(who)
        elif who not in self._holders:
            self._holders.add(who)
            self.line.press()

    def left(self, who: object) -> None:
        """Let go: the last one who held it releases it."""
        if who in self._holders:
            self._holders.remove(who)
            if not self._holders:
                self.line.release()


class Pin(Switch):
    """A line that nobody has said more of: its level, its direction, and a switch."""

    kind = "pin"

    def value(self) -> Json:
        """The level, who drives it, and the direction in words."""
        words = {"NONE": "not in use", "IN": "the guest reads it", "OUT": "the guest drives it"}
        return {**super().value(), "direction": words[self.line.direction.name]}
