"""Lines of this machine's chips. No kernel here has one: a stand-in for the library gpiod takes its place."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any, ClassVar

import gpiod  # type: ignore[import-untyped,unused-ignore]
import pytest

from vhost_user.device_types import OptionError, find
from vhost_user.devices import Gpio, gpio_chip
from vhost_user.devices.gpio_chip import ChipLine
from vhost_user.devices.library import MissingLibraryError
from vhost_user.frontend import DeviceError, GpioDriver
from vhost_user.spec.gpio import GpioDirection, GpioIrqType
from vhost_user.testing.virtio import Virtio

NAMES = ["", "button", "led"]
Value, Direction, Edge = gpiod.line.Value, gpiod.line.Direction, gpiod.line.Edge
Kind = gpiod.EdgeEvent.Type


class Wires:
    """A chip as gpiod 2 shows it; all that is real of it are the types of the library."""

    line = gpiod.line
    LineSettings = gpiod.LineSettings
    EdgeEvent = gpiod.EdgeEvent
    requests: ClassVar[dict[int, Request]] = {}
    levels: ClassVar[dict[int, Any]] = {}

    @staticmethod
    def request_lines(path: str, config: dict[int, Any], *, consumer: str) -> Request:
        assert (path, consumer) == ("/dev/gpiochip0", "vhost-user-gpio")
        ((offset, settings),) = config.items()
        if offset in Wires.requests:
            raise OSError(16, "Device or resource busy")
        return Request(offset, settings)

    class Chip:
        def __init__(self, path: str) -> None:
            if path != "/dev/gpiochip0":
                raise FileNotFoundError(2, "No such file or directory", path)

        def __enter__(self) -> Wires.Chip:
            return self

        def __exit__(self, *_exc: object) -> None:
            pass

        def get_info(self) -> Any:
            return SimpleNamespace(num_lines=len(NAMES))

        def line_offset_from_id(self, which: int | str) -> int:
            if isinstance(which, str):
                return NAMES.index(which)
            return range(len(NAMES)).index(which)

        def get_line_info(self, offset: int) -> Any:
            return SimpleNamespace(name=NAMES[offset])


class Request:
    def __init__(self, offset: int, settings: Any) -> None:
        self.offset = offset
        self.fd, self.kernel = os.pipe()
        self.events: list[Any] = []
        Wires.requests[offset] = self
        self.reconfigure_lines({offset: settings})

    def reconfigure_lines(self, config: dict[int, Any]) -> None:
        self.settings = config[self.offset]
        if self.settings.direction is Direction.OUTPUT:
            Wires.levels[self.offset] = self.settings.output_value

    def set_value(self, offset: int, value: Any) -> None:
        assert self.settings.direction is Direction.OUTPUT
        Wires.levels[offset] = value

    def get_value(self, offset: int) -> Any:
        return Wires.levels.get(offset, Value.INACTIVE)

    def wait_edge_events(self, timeout: float) -> bool:
        assert timeout == 0
        return bool(self.events)

    def read_edge_events(self) -> list[Any]:
        events, self.events = self.events, []
        os.read(self.fd, 100)
        return events

    def pulse(self) -> None:
        """Both edges before anybody looks."""
        self.events += [SimpleNamespace(event_type=kind) for kind in (Kind.RISING_EDGE, Kind.FALLING_EDGE)]
        os.write(self.kernel, b"!")

    def change(self, level: int) -> None:
        Wires.levels[self.offset] = (Value.INACTIVE, Value.ACTIVE)[level]
        self.events.append(SimpleNamespace(event_type=(Kind.FALLING_EDGE, Kind.RISING_EDGE)[level]))
        os.write(self.kernel, b"!")

    def release(self) -> None:
        os.close(self.fd)
        os.close(self.kernel)
        del Wires.requests[self.offset]


@pytest.fixture(autouse=True)
def chip(monkeypatch: pytest.MonkeyPatch) -> type[Wires]:
    monkeypatch.setattr(gpio_chip, "library", lambda _module, extra: Wires if extra == "gpio" else None)
    Wires.requests.clear()
    Wires.levels.clear()
    return Wires


def edges() -> Any:
    return Wires.requests[1].settings.edge_detection


def test_outputs_are_driven_and_released(virtio: Virtio) -> None:
    board = Gpio(ChipLine("0", "led"))
    gpio = virtio.attach(board).drive(GpioDriver)
    assert gpio.names() == ["led"]
    assert not Wires.requests  # nobody uses it
    gpio.set_value(0, 1)
    gpio.set_direction(0, GpioDirection.OUT)
    assert Wires.levels[2] == Value.ACTIVE
    gpio.set_value(0, 0)
    assert Wires.levels[2] == Value.INACTIVE
    assert board.line("led").level == 0
    gpio.set_direction(0, GpioDirection.NONE)
    assert not Wires.requests


def test_edges_interrupt_however_short_they_are(virtio: Virtio) -> None:
    gpio = virtio.attach(Gpio(ChipLine("gpiochip0", 1))).drive(GpioDriver)
    gpio.set_direction(0, GpioDirection.IN)
    assert edges() == Edge.NONE
    gpio.set_irq_type(0, GpioIrqType.EDGE_RISING)
    assert edges() == Edge.BOTH
    for _ in range(3):
        gpio.arm(0)
        Wires.requests[1].pulse()
        assert gpio.wait_irq(0)
        assert gpio.value(0) == 0
    gpio.set_irq_type(0, GpioIrqType.NONE)
    assert edges() == Edge.NONE
    gpio.set_irq_type(0, GpioIrqType.LEVEL_HIGH)
    gpio.arm(0)
    Wires.requests[1].change(1)
    assert gpio.wait_irq(0)
    assert gpio.wait_irq(0)
    assert gpio.value(0) == 1


def test_what_the_kernel_refuses_is_the_guests_error(
    virtio: Virtio, caplog: pytest.LogCaptureFixture
) -> None:
    gpio = virtio.attach(Gpio(ChipLine("0", "led"), ChipLine("0", "led", name="again"))).drive(GpioDriver)
    gpio.set_direction(0, GpioDirection.OUT)
    with pytest.raises(DeviceError, match="SET_DIRECTION of line 1"):
        gpio.set_direction(1, GpioDirection.OUT)
    assert gpio.direction(1) is GpioDirection.NONE
    assert "Device or resource busy" in caplog.text


def test_C134_everything_is_released_with_the_session(virtio: Virtio) -> None:
    attached = virtio.attach(Gpio(ChipLine("0", 1), ChipLine("0", 2)))
    for _ in range(2):
        gpio = attached.drive(GpioDriver)
        gpio.set_direction(0, GpioDirection.IN)
        gpio.set_irq_type(0, GpioIrqType.EDGE_BOTH)
        gpio.set_direction(1, GpioDirection.OUT)
        assert set(Wires.requests) == {1, 2}
        gpio.frontend.reset_device(need_reply=True)
        assert not Wires.requests
        attached.disconnect()


def test_the_options_name_chips_and_lines() -> None:
    board = find("gpio").make({"lines": "lamp=gpiochip0:2,spare,key=0:button"})
    assert [line.name for line in board.lines] == ["lamp", "spare", "key"]
    assert [type(line).__name__ for line in board.lines] == ["ChipLine", "Line", "ChipLine"]
    assert [line.name for line in find("gpio").make({"chip": "gpiochip0"}).lines] == NAMES
    assert len(find("gpio").make({"count": 3}).lines) == 3
    assert len(find("gpio").make({}).lines) == 8
    with pytest.raises(OptionError, match="NAME=CHIP:LINE"):
        find("gpio").make({"lines": "lamp=gpiochip0"})
    with pytest.raises(ValueError, match="/dev/gpiochip0 has no line 'bell'"):
        ChipLine("0", "bell")
    with pytest.raises(FileNotFoundError):
        ChipLine("7", 0)


def test_without_the_library_the_command_that_brings_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setitem(__import__("sys").modules, "gpiod", None)
    with pytest.raises(MissingLibraryError, match=r"pip install 'vhost-user\[gpio\]'"):
        ChipLine("0", 0)
