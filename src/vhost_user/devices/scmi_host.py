"""Sensors of this machine, by the files in which Linux shows them: IIO, hwmon, or any file with a number."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path

from vhost_user.devices.scmi_sensor import Sensor
from vhost_user.spec.scmi import NAME_SIZE, SensorUnit

_LONGEST = 64
"""Characters of a number in a file."""
_RANGE = 1 << 63

HWMON: dict[str, tuple[SensorUnit, int]] = {
    "curr": (SensorUnit.AMPERE, -3),
    "energy": (SensorUnit.JOULE, -6),
    "fan": (SensorUnit.RPM, 0),
    "freq": (SensorUnit.HERTZ, 0),
    "humidity": (SensorUnit.PERCENT, -3),
    "in": (SensorUnit.VOLT, -3),
    "power": (SensorUnit.WATT, -6),
    "temp": (SensorUnit.CELSIUS, -3),
}
"""Units of hwmon's channels, and the exponent of what is in their files."""
IIO: dict[str, tuple[SensorUnit, int]] = {
    "accel": (SensorUnit.METER_PER_SECOND_SQUARED, 0),
    "angl": (SensorUnit.RADIAN, 0),
    "anglvel": (SensorUnit.RADIAN_PER_SECOND, 0),
    "capacitance": (SensorUnit.FARAD, -9),
    "concentration": (SensorUnit.PERCENT, 0),
    "current": (SensorUnit.AMPERE, -3),
    "distance": (SensorUnit.METER, 0),
    "electricalconductivity": (SensorUnit.SIEMENS, 0),
    "energy": (SensorUnit.JOULE, 0),
    "gravity": (SensorUnit.METER_PER_SECOND_SQUARED, 0),
    "humidityrelative": (SensorUnit.PERCENT, -3),
    "illuminance": (SensorUnit.LUX, 0),
    "magn": (SensorUnit.GAUSS, 0),
    "positionrelative": (SensorUnit.PERCENT, -3),
    "power": (SensorUnit.WATT, -3),
    "pressure": (SensorUnit.PASCAL, 3),
    "proximity": (SensorUnit.METER, 0),
    "resistance": (SensorUnit.OHM, 0),
    "temp": (SensorUnit.CELSIUS, -3),
    "voltage": (SensorUnit.VOLT, -3),
}
"""The same of IIO's."""


def number_in(path: Path) -> Decimal:
    """The number in a file. Raises OSError when there is none."""
    with path.open("rb") as file:
        text = file.read(_LONGEST)
    try:
        number = Decimal(text.decode("ascii").strip())
    except (InvalidOperation, UnicodeDecodeError):
        raise OSError(f"{path} has {text!r} in it, which is not a number") from None
    if not number.is_finite() or abs(number.adjusted()) > _LONGEST:
        raise OSError(f"{path} has {text!r} in it, which is not a measurement")
    return number


class FileSensor(Sensor):
    """A sensor whose values are in files, one for each axis: (number + ``offset``) * ``scale`` of the unit.

    It is read when the guest asks, and while it wants to hear of it. Raises ValueError as ``Sensor`` does.
    """

    polled = True

    def __init__(
        self,
        name: str,
        unit: SensorUnit,
        paths: Sequence[Path],
        *,
        exponent: int = -3,
        axes: Sequence[str] = (),
        scale: Decimal = Decimal(1),
        offset: Decimal = Decimal(0),
    ) -> None:
        super().__init__(name[: NAME_SIZE - 1], unit, exponent=exponent, axes=axes)
        self._paths, self._factor, self._offset = tuple(paths), scale, offset

    def readings(self) -> tuple[int, ...]:
        """Out of the files. Raises OSError when one cannot be read."""
        return tuple(self._reading(path) for path in self._paths)

    def _reading(self, path: Path) -> int:
        value = (number_in(path) + self._offset) * self._factor
        number = round(value.scaleb(-self.exponent))
        if not -_RANGE <= number < _RANGE:
            raise OSError(f"{path} shows {value}, which has no place in 64 bits")
        return number


def hwmon_sensor(path: str | Path, channel: str, name: str | None = None) -> FileSensor:
    """``hwmon_sensor("/sys/class/hwmon/hwmon0", "temp1")``. Raises OSError when it cannot be read."""
    folder = Path(path)
    kind = channel.rstrip("0123456789")
    unit, power = HWMON.get(kind, (SensorUnit.UNSPECIFIED, 0))
    file = folder / f"{channel}_input"
    number_in(file)
    label = folder / f"{channel}_label"
    name = name or (label.read_text("ascii", "replace").strip() if label.exists() else channel)
    return FileSensor(name, unit, [file], exponent=power, scale=Decimal(1).scaleb(power))


def iio_sensor(path: str | Path, channel: str, name: str | None = None) -> FileSensor:
    """``iio_sensor("/sys/bus/iio/devices/iio:device0", "in_accel")``, with its axes if it has such.

    Raises OSError when it cannot be read.
    """
    folder = Path(path)
    kind = channel.removeprefix("in_").removeprefix("out_").rstrip("0123456789")
    unit, power = IIO.get(kind, (SensorUnit.UNSPECIFIED, 0))
    axes = [axis for axis in "xyz" if (folder / f"{channel}_{axis}_raw").exists()]
    name = name or kind
    if not axes and (folder / f"{channel}_input").exists():
        file = folder / f"{channel}_input"
        places = number_in(file).as_tuple().exponent
        assert isinstance(places, int)  # the number is finite
        return FileSensor(
            name, unit, [file], exponent=_exponent(power + min(places, -3)), scale=Decimal(1).scaleb(power)
        )
    paths = [folder / f"{channel}_{axis}_raw" for axis in axes] or [folder / f"{channel}_raw"]
    for each in paths:
        number_in(each)
    scale = _attribute(folder, channel, axes, "scale", Decimal(1))
    offset = _attribute(folder, channel, axes, "offset", Decimal(0))
    places = min(0, int(scale.as_tuple().exponent)) + min(0, int(offset.as_tuple().exponent))
    return FileSensor(
        name,
        unit,
        paths,
        exponent=_exponent(power + places),
        axes=[axis.upper() for axis in axes],
        scale=scale.scaleb(power),
        offset=offset,
    )


def _attribute(folder: Path, channel: str, axes: Sequence[str], what: str, otherwise: Decimal) -> Decimal:
    """Of the channel, or of its first axis."""
    for prefix in (channel, *(f"{channel}_{axis}" for axis in axes[:1])):
        file = folder / f"{prefix}_{what}"
        if file.exists():
            return number_in(file)
    return otherwise


def _exponent(power: int) -> int:
    return max(-16, min(15, power))
