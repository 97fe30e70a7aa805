"""The SCMI platform, described."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vhost_user.device_types import DeviceType, HarmlessRequest, OptionError, option
from vhost_user.spec.scmi import ScmiFeature, ScmiHeader, ScmiMessage, ScmiProtocolId, SensorUnit

if TYPE_CHECKING:
    from vhost_user.devices.scmi import Scmi
    from vhost_user.devices.scmi_sensor import Sensor

_DEVICE_BITS = (1 << 24) - 1
_ANSWER = 12


@dataclass(frozen=True)
class ScmiOptions:
    """The options of ``vhost-user serve scmi``."""

    device: tuple[str, ...] = option(
        (), help="a sensor, in the words below", metavar="KIND[,PROPERTY=VALUE…]"
    )


def _build(options: ScmiOptions) -> Scmi:
    from vhost_user.devices.scmi import Scmi  # noqa: PLC0415  # a description is read without the device

    return Scmi(*map(_sensor, options.device))


def _sensor(words: str) -> Sensor:
    kind, *properties = words.split(",")
    given: dict[str, str] = {}
    for each in properties:
        name, equals, value = each.partition("=")
        if not equals or name in given:
            raise OptionError(f"--device: {each!r} is not PROPERTY=VALUE, or there are two of them")
        given[name] = value
    if kind not in _KINDS:
        raise OptionError(f"--device: {kind!r} is not one of {', '.join(_KINDS)}")
    needed, others = _KINDS[kind]
    if missing := [name for name in needed if not given.get(name)]:
        raise OptionError(f"--device={words}: a sensor of kind {kind} has {', '.join(missing)}, too")
    if unknown := set(given) - {*needed, *others}:
        raise OptionError(
            f"--device={words}: a sensor of kind {kind} has no {', '.join(sorted(unknown))}; "
            f"there are {', '.join((*needed, *others))}"
        )
    return _fake(given) if kind == "fake" else _of_this_machine(kind, given)


_KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "fake": ((), ("name", "unit", "value", "axes", "exponent")),
    "file": (("path",), ("name", "unit", "exponent")),
    "hwmon": (("path", "channel"), ("name",)),
    "iio": (("path", "channel"), ("name",)),
}
"""What each kind of sensor needs, and what it may have."""


def _fake(given: dict[str, str]) -> Sensor:
    from vhost_user.devices.scmi_sensor import Sensor  # noqa: PLC0415  # as above

    return Sensor(
        given.get("name", "fake"),
        _unit(given.get("unit", "celsius")),
        value=_number(given, "value", 0.0),
        exponent=int(_number(given, "exponent", -3)),
        axes=given.get("axes", ""),
    )


def _of_this_machine(kind: str, given: dict[str, str]) -> Sensor:
    from pathlib import Path  # noqa: PLC0415  # as above

    from vhost_user.devices.scmi_host import (  # noqa: PLC0415  # as above
        FileSensor,
        hwmon_sensor,
        iio_sensor,
        number_in,
    )

    if kind == "file":
        path = Path(given["path"])
        number_in(path)
        unit = _unit(given.get("unit", "celsius"))
        return FileSensor(
            given.get("name", path.name), unit, [path], exponent=int(_number(given, "exponent", -3))
        )
    make = hwmon_sensor if kind == "hwmon" else iio_sensor
    return make(given["path"], given["channel"], given.get("name"))


def _unit(word: str) -> SensorUnit:
    try:
        return SensorUnit[word.upper().replace("-", "_")]
    except KeyError:
        known = ", ".join(unit.name.lower().replace("_", "-") for unit in SensorUnit)
        raise OptionError(f"--device: unit {word!r} is not one of {known}") from None


def _number(given: dict[str, str], name: str, otherwise: float) -> float:
    try:
        return float(given.get(name, otherwise))
    except ValueError:
        raise OptionError(f"--device: {name}={given[name]} is not a number") from None


def _wrong(data: bytes, length: int) -> str | None:
    header = ScmiHeader(ScmiMessage.PROTOCOL_VERSION, ScmiProtocolId.BASE).pack()
    if length != _ANSWER or data[:8] != header + bytes(4) or not any(data[8:_ANSWER]):
        return f"the version of the base protocol is answered by {length} bytes, {data[:_ANSWER].hex()}"
    return None


DEVICE_TYPE = DeviceType(
    name="scmi",
    title="SCMI: sensors, of this machine or models",
    device="vhost_user.devices.scmi:Scmi",
    options=ScmiOptions,
    build=_build,
    examples=(
        "--socket-path=/tmp/scmi.sock --device=fake,name=cpu,value=40",
        "--socket-path=/tmp/scmi.sock --device=hwmon,path=/sys/class/hwmon/hwmon0,channel=temp1",
        "--socket-path=/tmp/scmi.sock --device=iio,path=/sys/bus/iio/devices/iio:device0,channel=in_accel",
        "--socket-path=/tmp/scmi.sock --device=fake,name=cpu --device=file,path=/tmp/water,name=water",
    ),
    notes="""A sensor is one of
  fake[,name=NAME][,unit=UNIT][,value=V][,axes=XYZ][,exponent=N]   a model
  file,path=FILE[,name=NAME][,unit=UNIT][,exponent=N]     the number in a file, whoever writes it
  hwmon,path=FOLDER,channel=temp1[,name=NAME]             of /sys/class/hwmon
  iio,path=FOLDER,channel=in_accel[,name=NAME]            of /sys/bus/iio/devices""",
    # QEMU's own device, vhost-user-scmi-pci, is in its Arm emulators alone; the generic one is everywhere.
    other_vmms={
        "Cloud Hypervisor 52": "--memory size=1G,shared=on "
        "--generic-vhost-user socket={socket},device_type=32,queue_sizes=[256,256]",
        "User Mode Linux": "virtio_uml.device={socket}:32",
    },
    queues=2,
    harmless=HarmlessRequest(
        readable=ScmiHeader(ScmiMessage.PROTOCOL_VERSION, ScmiProtocolId.BASE).pack,
        writable=lambda: _ANSWER,
        wrong=_wrong,
    ),
    resembles=lambda features, queues: (
        features & _DEVICE_BITS == ScmiFeature.P2A_CHANNELS and queues == 2  # as gpio and rtc
    ),
)
