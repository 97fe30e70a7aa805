"""What is a board: the devices of a file, or what it says of them; and what is shown of each."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest

from tests.support.devices import Echo
from vhost_user import Device, Request
from vhost_user.board import (
    Board,
    BoardError,
    Button,
    Control,
    Led,
    Memory,
    Panel,
    Pin,
    Registers,
    Slider,
    Switch,
    TerminalView,
    Text,
    board_of,
)
from vhost_user.devices import Console, Eeprom, Gpio, I2c, I2cModel, Line, Port, Register


class Sensor(I2cModel):
    temperature = Register(0x01, size=2, signed=True)
    limit = Register(0x00, writable=True)


def module(doc: str = "", **names: Any) -> ModuleType:
    made = ModuleType("lamp", doc)
    vars(made).update(names)
    return made


def shown(panel: Panel) -> list[tuple[type, str]]:
    return [(type(control), label) for label, control in panel.controls.items()]


def test_the_devices_of_a_file_are_its_board() -> None:
    pins, log = Gpio("lamp"), Console()
    board = board_of(
        module("A lamp.\n\nMore of it.", pins=pins, log=log, _hidden=Echo(), again=pins, other=3)
    )
    assert dict(board.devices) == {"pins": pins, "log": log}
    assert board.title == "A lamp"
    assert board_of(module(pins=Gpio("lamp"))).title == "lamp"


def test_a_board_in_the_file_goes_first() -> None:
    pins = Gpio("lamp")
    board = Board("Mine", pins=pins)
    assert board_of(module(pins=pins, log=Console(), board=board, same=board)) is board
    with pytest.raises(BoardError, match="several boards: one, two"):
        board_of(module(one=board, two=Board(pins=Gpio("x"))))


def test_a_file_without_a_device_says_what_is_missing() -> None:
    with pytest.raises(BoardError, match="no device: write it at the top level"):
        board_of(module())
    own = type("Dice", (Echo,), {"__module__": "lamp"})
    with pytest.raises(BoardError, match=r"dice = Dice\(\)"):
        board_of(module(Dice=own, Gpio=Gpio))


def test_what_makes_no_board_is_refused() -> None:
    pins = Gpio("lamp")
    with pytest.raises(BoardError, match="a board has devices"):
        Board("nothing")
    with pytest.raises(BoardError, match="on the board already"):
        Board(pins=pins, again=Panel(pins))
    with pytest.raises(TypeError, match="not a device"):
        Board(pins=Gpio)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(TypeError, match="not a device"):
        Board(pins=3)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(BoardError, match="becomes the name of a socket"):
        Board(**{"../pins": pins})
    with pytest.raises(BoardError, match="two controls of one panel have the label 'lamp'"):
        Panel(pins, Led(pins.line("lamp")), Switch(pins.line("lamp")))
    with pytest.raises(BoardError, match="'Driver'"):
        Panel(pins, Led(pins.line("lamp"), "Driver"))


def test_every_type_has_its_panel() -> None:
    gpio = Gpio("lamp", Line("button", rest=1), "")
    assert shown(Panel(gpio)) == [
        (Text, "Driver"),
        (Pin, "lamp"),
        (Pin, "button"),
        (Button, "button, pressed"),
        (Pin, "line 2"),
    ]

    class Adapter:
        def transfer(self, address: int, messages: object) -> list[bytes]:
            raise OSError(address, messages)

    bus = I2c({0x48: Sensor(), 0x50: Eeprom(b"hello"), 0x60: Adapter()})
    assert shown(Panel(bus)) == [
        (Text, "Driver"),
        (Registers, "0x48 Sensor"),
        (Memory, "0x50 Eeprom"),
        (Text, "0x60 Adapter"),
    ]
    console = Console(Port(), Port("pty", name="other"), max_ports=3)
    assert shown(Panel(console)) == [(Text, "Driver"), (TerminalView, "port 0"), (Text, "other")]
    assert "PtyEnd" in Panel(console).controls["other"].value()
    for port in console.ports.values():
        port.end.close()
    assert shown(Panel(Echo())) == [(Text, "Driver")]


def test_a_device_of_ones_own_says_what_is_shown_of_it() -> None:
    class Lamp(Echo):
        brightness = 3.0

        def board_controls(self) -> list[Control]:
            return [Slider("Brightness", lambda to: setattr(self, "brightness", to), 0, 10, get=self.now)]

        def now(self) -> float:
            return self.brightness

    class Stranger(Device, type="gpio"):
        """A device of this type that is not ours, and has no lines."""

        def handle(self, request: Request) -> None:
            request.fill(0)

    lamp = Lamp()
    assert shown(Panel(lamp)) == [(Text, "Driver"), (Slider, "Brightness")]
    Panel(lamp).controls["Brightness"].act(4, "me")
    assert lamp.brightness == 4
    assert shown(Panel(Stranger())) == [(Text, "Driver")]


def test_it_describes_itself_to_a_page() -> None:
    gpio = Gpio("lamp")
    board = Board("Mine", pins=Panel(gpio, Led(gpio.line("lamp"), colour="red"), title="The lamp"))
    (panel,) = board.describe()["panels"]
    assert (panel["name"], panel["title"], panel["device"]) == ("pins", "The lamp", "gpio")
    assert panel["controls"] == [
        {"id": "pins/Driver", "kind": "text", "label": "Driver"},
        {"id": "pins/lamp", "kind": "led", "label": "lamp", "colour": "red"},
    ]
    assert [name for name, _ in board.controls()] == ["pins/Driver", "pins/lamp"]


def test_the_web_library_is_loaded_for_a_page_only() -> None:
    program = "import sys, vhost_user.board, vhost_user.board.server, vhost_user.board.serving; "
    program += "sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
