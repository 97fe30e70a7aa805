"""``Control``: one thing that a page shows of a device, and lets somebody move."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

Json: TypeAlias = Any
"""What json can write: numbers, text, None, and lists and dictionaries of them."""


class Control:
    """What a page shows, by a label that is unique in its panel.

    ``kind`` names the file of the page that draws it, ``page/controls/KIND.js``. All methods are called in
    the thread of the page's server, and must not block: one that does holds up all pages, though no device.
    """

    kind: ClassVar[str] = "text"

    def __init__(self, label: str) -> None:
        self.label = label

    def describe(self) -> dict[str, Json]:
        """What the page needs to draw it: what does not change."""
        return {}

    def value(self) -> Json:
        """What it shows now."""
        return None

    def news(self, seen: Any) -> tuple[Json, Any] | None:
        """What a page is to be told that was told up to ``seen`` (None: nothing yet), and what it knows then.

        None when there is nothing new. Whatever happened in between is one piece of news, so that a page that
        is slow gets less, and not later.
        """
        value = self.value()
        return None if seen == [value] else (value, [value])

    def act(self, value: Json, who: object) -> None:
        """The page of ``who`` moves it. Raises ValueError, in words for that person, when it cannot be."""
        del value, who
        raise ValueError(f"{self.label} cannot be moved from here")

    def left(self, who: object) -> None:
        """The page of ``who`` is closed: let go of what it held."""


class Text(Control):
    """A word, or several lines: ``Text("Driver", lambda: "at work")``."""

    kind = "text"

    def __init__(self, label: str, get: Callable[[], str]) -> None:
        super().__init__(label)
        self._get = get

    def value(self) -> Json:
        """What ``get`` gives."""
        return self._get()


class Slider(Control):
    """A number between two others: ``Slider("Temperature", sensor.is_at, -40, 125, start=20, unit="°C")``.

    ``set`` is called with what the slider is moved to, and with ``start`` at once, if that is given. ``get``
    tells where it is; without it, it is where it was moved last. ``set`` must not block.
    """

    kind = "slider"

    def __init__(  # all but the first four by name
        self,
        label: str,
        set: Callable[[float], object],  # noqa: A002  # the counterpart of get
        low: float,
        high: float,
        *,
        step: float = 1,
        start: float | None = None,
        get: Callable[[], float] | None = None,
        unit: str = "",
    ) -> None:
        super().__init__(label)
        if not low < high:
            raise ValueError(f"{label}: a slider from {low} to {high} cannot be moved")
        if not 0 < step <= high - low:
            raise ValueError(f"{label}: a slider from {low} to {high} has no steps of {step}")
        self._set, self._get = set, get
        self._low, self._high, self._step, self._unit = low, high, step, unit
        self._last = low
        if start is not None:
            self.act(start, None)

    def describe(self) -> dict[str, Json]:
        """Its ends, its steps, its unit."""
        return {"low": self._low, "high": self._high, "step": self._step, "unit": self._unit}

    def value(self) -> Json:
        """Where it is."""
        return self._last if self._get is None else self._get()

    def act(self, value: Json, who: object) -> None:
        """Move it there. Raises ValueError for what is not between its ends."""
        del who
        if type(value) not in {int, float} or not self._low <= value <= self._high:
            raise ValueError(f"{self.label}: {value!r} is not a number from {self._low} to {self._high}")
        self._set(value)
        self._last = value
