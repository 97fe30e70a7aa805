"""What a page shows and moves, without a page: lines, sliders, registers, terminals; what is told."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from tests.support.front_end import until
from vhost_user.board import (
    Board,
    Button,
    Led,
    Memory,
    Panel,
    Pin,
    Registers,
    Slider,
    Switch,
    Terminal,
    TerminalView,
    Text,
)
from vhost_user.board.terminal import HISTORY, ROOM
from vhost_user.board.viewer import Viewer
from vhost_user.devices import Console, Eeprom, Gpio, I2cModel, Line, Register
from vhost_user.frontend import ConsoleDriver, GpioDriver
from vhost_user.spec.gpio import GpioDirection
from vhost_user.testing.virtio import Virtio


class Sensor(I2cModel):
    temperature = Register(0x01, size=2, signed=True)
    limit = Register(0x00, writable=True)


def asked(viewer: Viewer, control: str, value: Any) -> str | None:
    return viewer.act(json.dumps({"control": control, "value": value}))


def test_an_led_is_lit_by_its_level(virtio: Virtio) -> None:
    lines = Gpio("plain", "inverted")
    plain, inverted = Led(lines.line(0)), Led(lines.line(1), "low is lit", colour="red", active=0)
    gpio = virtio.attach(lines).drive(GpioDriver)
    assert (plain.value(), inverted.value()) == (False, True)
    for number in range(2):
        gpio.set_value(number, 1)
        gpio.set_direction(number, GpioDirection.OUT)
    assert (plain.value(), inverted.value()) == (True, False)
    assert inverted.describe() == {"colour": "red"}
    with pytest.raises(ValueError, match="no LED in 'mauve', but in red, "):
        Led(lines.line(0), colour="mauve")
    with pytest.raises(ValueError, match="by the level 0 or 1, not by 2"):
        Led(lines.line(0), active=2)
    with pytest.raises(ValueError, match="plain cannot be moved from here"):
        plain.act(1, "me")


def test_a_switch_is_what_the_guest_reads(virtio: Virtio) -> None:
    lines = Gpio("a", "b")
    switch, pin = Switch(lines.line("a")), Pin(lines.line("b"))
    gpio = virtio.attach(lines).drive(GpioDriver)
    switch.act(1, "me")
    pin.act(1, "me")
    assert (gpio.value(0), gpio.value(1)) == (1, 1)
    assert pin.value() == {"level": 1, "driven": False, "direction": "not in use"}
    gpio.set_direction(1, GpioDirection.OUT)
    assert pin.value() == {"level": 0, "driven": True, "direction": "the guest drives it"}
    gpio.set_direction(1, GpioDirection.IN)
    assert pin.value() == {"level": 1, "driven": False, "direction": "the guest reads it"}
    for nonsense in (2, True, "1", None, [1]):
        with pytest.raises(ValueError, match="a level is 0 or 1"):
            switch.act(nonsense, "me")


def test_a_button_is_pressed_while_anybody_holds_it() -> None:
    line = Line("button", rest=1)
    button = Button(line)
    levels = []
    for who, value in (("a", 1), ("a", 1), ("b", 1), ("a", 0), ("c", 0), ("b", 0), ("b", 0)):
        button.act(value, who)
        levels.append(line.level)
    assert levels == [0, 0, 0, 0, 0, 1, 1]
    button.act(1, "a")
    assert button.value() == {"pressed": True, "driven": False}
    button.left("a")
    assert not button.value()["pressed"]
    with pytest.raises(ValueError, match="press with 1"):
        button.act(2, "a")


def test_a_slider_has_ends_and_a_place() -> None:
    moved: list[float] = []
    slider = Slider("Speed", moved.append, -10, 10, step=0.5, unit="m/s")
    assert slider.value() == -10
    slider.act(2.5, "me")
    assert (slider.value(), moved) == (2.5, [2.5])
    for nonsense in (11, -10.5, "1", None, True, float("nan"), [1]):
        with pytest.raises(ValueError, match="not a number from -10 to 10"):
            slider.act(nonsense, "me")
    assert Slider("Start", moved.append, 0, 1, start=1).value() == 1
    assert moved == [2.5, 1]
    assert Slider("Elsewhere", moved.append, 0, 1, get=lambda: 0.25, step=0.25).value() == 0.25
    for low, high, step in ((1, 1, 1), (2, 1, 1), (0, 1, 2), (0, 1, 0)):
        with pytest.raises(ValueError, match="a slider from"):
            Slider("Wrong", moved.append, low, high, step=step)


def test_registers_are_shown_and_set() -> None:
    sensor = Sensor()
    table = Registers(sensor)
    assert [register["name"] for register in table.describe()["registers"]] == ["limit", "temperature"]
    table.act(["temperature", -300], "me")  # the guest may not, the hardware may
    table.act(["limit", 255], "me")
    assert (table.value(), sensor.temperature, sensor.limit) == ([255, -300], -300, 255)
    for nonsense in (["limit", 256], ["limit", -1], ["temperature", 40_000]):
        with pytest.raises(ValueError, match="does not fit"):
            table.act(nonsense, "me")
    odd: tuple[object, ...] = (
        ["contents", 1],
        ["limit", True],
        ["limit", "1"],
        ["limit"],
        "limit",
        None,
        ["limit", 1, 2],
    )
    for each in odd:
        with pytest.raises(ValueError, match="is not a register and a number"):
            table.act(each, "me")
    assert Memory(Eeprom(b"hello")).value().splitlines()[0] == "00: 68 65 6c 6c 6f" + 11 * " ff"


@pytest.fixture
def terminal(virtio: Virtio) -> tuple[TerminalView, ConsoleDriver]:
    console = Console()
    panel = Panel(console)
    view = panel.controls["port 0"]
    assert isinstance(view, TerminalView)
    return view, virtio.attach(console).drive(ConsoleDriver)


def test_a_terminal_talks_both_ways(terminal: tuple[TerminalView, ConsoleDriver]) -> None:
    view, guest = terminal
    guest.write("grüß Gott\n".encode())
    until(lambda: view.terminal.written == 12)
    assert view.value()["text"] == "grüß Gott\n"
    view.act({"keys": "ls ü\r"}, "me")
    assert guest.read_until(b"\r") == "ls ü\r".encode()
    view.act({"size": [100, 37]}, "me")
    until(lambda: view.value()["size"] == [100, 37])
    until(lambda: (guest.read_configuration().cols, guest.config.rows) == (100, 37))
    for nonsense in ({"size": [1, 20]}, {"size": [80, 501]}, {"size": [80]}, {"keys": 3}, "ls", None):
        with pytest.raises(ValueError, match="neither keys nor a size"):
            view.act(nonsense, "me")


def test_what_is_typed_and_not_read_has_a_bound(virtio: Virtio) -> None:
    console = Console()
    view = Panel(console).controls["port 0"]
    with pytest.raises(ValueError, match="not served"):
        view.act({"keys": "x"}, "me")
    with pytest.raises(ValueError, match="not served"):
        view.act({"size": [80, 25]}, "me")
    device = virtio.attach(console)
    until(lambda: console.ports[0].connected)
    view.act({"keys": "x" * ROOM}, "me")  # there is no driver
    with pytest.raises(ValueError, match="the guest does not read its console"):
        view.act({"keys": "y"}, "me")
    guest = device.drive(ConsoleDriver)
    assert guest.read(ROOM) == b"x" * ROOM
    assert isinstance(view, TerminalView)
    until(lambda: view.terminal._waiting == 0)
    view.act({"keys": "z"}, "me")
    assert guest.read(1) == b"z"


def test_a_page_that_is_slow_gets_what_is_left() -> None:
    terminal = Terminal()
    for number in range(5):
        terminal.write(bytes([number]) * HISTORY)
    data, end, lost = terminal.since(10)
    assert (data, end, lost) == (b"\4" * HISTORY, 5 * HISTORY, 4 * HISTORY - 10)
    assert terminal.since(end) == (b"", end, 0)
    terminal.write(b"!")
    assert terminal.since(end) == (b"!", end + 1, 0)
    assert len(terminal.since(0)[0]) == HISTORY
    assert len(terminal._history) <= 3 * HISTORY


def test_a_viewer_is_told_the_last_of_many_changes() -> None:
    sensor = Sensor()
    board = Board(pins=Gpio("lamp"), bus=Panel(Gpio("x"), Registers(sensor)))
    viewer, other = Viewer(board), Viewer(board)
    assert viewer.news().keys() == {name for name, _ in board.controls()}
    assert viewer.news() == {}
    for value in range(1000):
        sensor.temperature = value
    assert viewer.news() == {"bus/Sensor": [0, 999]}
    assert viewer.news() == {}
    assert other.news()["bus/Sensor"] == [0, 999]


def test_what_a_page_sends_is_looked_at() -> None:
    board = Board(pins=Gpio("lamp"))
    viewer = Viewer(board)
    assert asked(viewer, "pins/lamp", 1) is None
    for nonsense, words in (
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        (b"\xff", "not JSON"),
        ("[]", 'send {"control"'),
        ("{}", 'send {"control"'),
        ('{"control": "pins/lamp"}', "no value came"),
        ('{"control": "pins/gone", "value": 1}', "no control 'pins/gone'"),
        ('{"control": ["pins/lamp"], "value": 1}', "no control"),
        ('{"control": "pins/Driver", "value": 1}', "cannot be moved"),
        ('{"control": "pins/lamp", "value": NaN}', "0 or 1"),
    ):
        why = viewer.act(nonsense)
        assert why is not None
        assert words in why
    assert viewer.news()["pins/lamp"]["level"] == 1


def test_the_code_of_a_board_may_fail(caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: object) -> Any:
        raise RuntimeError("no hardware")

    gpio = Gpio("lamp")
    board = Board(
        pins=Panel(
            gpio,
            Text("Broken", fail),
            Text("Odd", lambda: float("nan")),  # type: ignore[arg-type,return-value]  # on purpose
            Slider("Stuck", fail, 0, 1),
            Led(gpio.line("lamp")),
        )
    )
    viewer = Viewer(board)
    with caplog.at_level(logging.ERROR):
        assert viewer.news().keys() == {"pins/Driver", "pins/Stuck", "pins/lamp"}
        assert viewer.values() == {"pins/Driver": "none", "pins/Stuck": 0, "pins/lamp": False}
        assert asked(viewer, "pins/Stuck", 1) == "pins/Stuck: RuntimeError: no hardware"
    assert {record.getMessage() for record in caplog.records} == {
        "pins/Broken cannot be shown: no hardware",
        "pins/Odd cannot be shown: Out of range float values are not JSON compliant",
        "pins/Stuck cannot be moved: no hardware",
    }


def test_who_leaves_lets_go_of_what_they_held() -> None:
    line = Line("button", rest=1)
    board = Board(pins=Panel(Gpio(line), Button(line), Switch(line, "other")))
    viewer, other = Viewer(board), Viewer(board)
    for each in (viewer, other):
        assert asked(each, "pins/button", 1) is None
    viewer.close()
    assert line.level == 0
    other.close()
    assert line.level == 1
