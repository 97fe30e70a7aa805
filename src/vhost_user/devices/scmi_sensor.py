"""``Sensor``: what an SCMI device measures, as a model whose value a program sets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from vhost_user.spec.scmi import NAME_SIZE, SensorUnit, five_bits

MOST_AXES = 63
MOST_TRIP_POINTS = 16
_LIMIT = 1 << 63
Value = float | Sequence[float]


class Sensor:
    """A sensor: ``Sensor("cpu", SensorUnit.CELSIUS, value=21.5)``; ``sensor.value = 80.0`` at any time.

    The guest reads whole numbers of 10 ** ``exponent`` units. With ``axes`` (``"XYZ"``) there is a value for
    each. ``limits`` are the smallest and largest value, ``resolution`` a step between them. Override
    ``readings`` for a sensor that measures; OSError out of it is HARDWARE_ERROR. If nobody tells of its
    changes it is ``polled``: read again and again while the guest wants to hear of them.

    Raises ValueError for names and numbers that SCMI has no room for.
    """

    polled = False

    def __init__(
        self,
        name: str,
        unit: SensorUnit = SensorUnit.CELSIUS,
        *,
        value: Value = 0.0,
        exponent: int = -3,
        axes: Iterable[str] = (),
        trip_points: int = 4,
        limits: tuple[float, float] | None = None,
        resolution: float = 0.0,
    ) -> None:
        self.name, self.unit, self.exponent = name, unit, exponent
        self.axes = tuple(axes)
        for text in (name, *(f"_{axis}" for axis in self.axes)):
            if not text.isascii() or "\0" in text or len(text) >= NAME_SIZE:
                raise ValueError(f"a name has up to {NAME_SIZE - 1} ASCII characters, not {text!r}")
        five_bits(exponent)
        self._scale: int = 10 ** abs(exponent)
        if len(self.axes) > MOST_AXES or not 0 <= trip_points <= MOST_TRIP_POINTS:
            raise ValueError(
                f"{len(self.axes)} axes and {trip_points} trip points: there are up to {MOST_AXES} and "
                f"{MOST_TRIP_POINTS}"
            )
        self.trip_points = 0 if self.axes else trip_points
        """How many there are; none for a sensor with axes."""
        self.limits = None if limits is None else (self._whole(limits[0]), self._whole(limits[1]))
        self.resolution = min(self._whole(resolution), (1 << 27) - 1)
        self._listeners: list[Callable[[Sensor], object]] = []
        self.shown = self._all(value)
        """What was assigned last, as the guest reads it."""

    @property
    def axis_names(self) -> list[str]:
        """``bump_X`` for axis X of bump: what Linux knows an axis by."""
        return [f"{self.name[: NAME_SIZE - 2 - len(axis)]}_{axis}" for axis in self.axes]

    @property
    def value(self) -> Value:
        """What it shows, in units; with axes one for each."""
        numbers = [self._units(number) for number in self.readings()]
        return tuple(numbers) if self.axes else numbers[0]

    @value.setter
    def value(self, value: Value) -> None:
        self.shown = self._all(value)
        for listener in self._listeners:
            listener(self)

    def readings(self) -> tuple[int, ...]:
        """What the guest reads: a number for each axis, or one."""
        return self.shown

    def on_change(self, function: Callable[[Sensor], object]) -> None:
        """Call ``function`` after each assignment, in the thread that made it."""
        self._listeners.append(function)

    def _all(self, value: Value) -> tuple[int, ...]:
        values = [value] * max(1, len(self.axes)) if isinstance(value, int | float) else list(value)
        if len(values) != max(1, len(self.axes)):
            raise ValueError(f"{self.name} shows {max(1, len(self.axes))} values, not {len(values)}")
        return tuple(self._whole(each) for each in values)

    def _whole(self, value: float) -> int:
        number = round(value * self._scale if self.exponent < 0 else value / self._scale)
        if not -_LIMIT <= number < _LIMIT:
            raise ValueError(f"{self.name}: {value} does not fit into 64 bits of 10^{self.exponent}")
        return number

    def _units(self, number: int) -> float:
        return number / self._scale if self.exponent < 0 else float(number * self._scale)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"
