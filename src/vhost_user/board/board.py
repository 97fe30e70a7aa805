"""``Board``: which devices there are, by name, and what the page shows of each."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from vhost_user.backend.backend import VhostUserBackend
from vhost_user.backend.device import Device
from vhost_user.board.control import Control, Json, Text

_PANELS = "vhost_user.board.panels"


class BoardError(ValueError):
    """A file makes no board; the text says what is missing."""


class Panel:
    """A device, and what the page shows of it: ``Panel(lights, Led(lights.line("red"), colour="red"))``.

    Without controls there are those that its device brings (``board_controls()``), else those of its type: a
    file ``vhost_user/board/panels/TYPE.py``. Raises BoardError for two controls with one label.
    """

    def __init__(self, device: VhostUserBackend, *controls: Control, title: str = "") -> None:
        self.device = device
        self.title = title
        shown = controls or tuple(default_controls(device))
        self.controls = {control.label: control for control in (Text("Driver", self._driver), *shown)}
        """What is shown, by label."""
        if len(self.controls) <= len(shown):
            labels = [control.label for control in shown]
            twice = next(label for label in labels if label == "Driver" or labels.count(label) > 1)
            raise BoardError(f"{type(device).__name__}: two controls of one panel have the label {twice!r}")

    def _driver(self) -> str:
        if not isinstance(self.device, Device):
            return "not known"
        return "at work" if self.device.driver_features else "none"


def default_controls(device: VhostUserBackend) -> list[Control]:
    """What is shown of a device that nobody has said more of; nothing for a type that has no panel."""
    own = getattr(device, "board_controls", None)
    if callable(own):
        return list(own())
    kind = device.device_type if isinstance(device, Device) else ""
    if not kind.isidentifier() or importlib.util.find_spec(f"{_PANELS}.{kind}") is None:
        return []
    found: Any = importlib.import_module(f"{_PANELS}.{kind}")
    return list(found.controls(device))


class Board:
    """Devices by name, each as it is or in a ``Panel``: ``Board("A lamp", lamp=Gpio("lamp"))``.

    The names are those of the sockets. Raises BoardError for a board without devices, a device that it has
    twice, and a name that is not one of Python's; TypeError for what is not a device.
    """

    def __init__(self, title: str = "", /, **parts: VhostUserBackend | Panel) -> None:
        self.title = title
        self.panels: dict[str, Panel] = {}
        """By the names of the devices."""
        for name, part in parts.items():
            if isinstance(part, type) or not isinstance(part, VhostUserBackend | Panel):
                raise TypeError(f"{name} is {part!r}, which is not a device and not a Panel")
            if not name.isidentifier():
                raise BoardError(f"{name!r} becomes the name of a socket: letters, digits and _ only")
            panel = part if isinstance(part, Panel) else Panel(part)
            if any(panel.device is other.device for other in self.panels.values()):
                raise BoardError(f"{name}: this device is on the board already")
            self.panels[name] = panel
        if not self.panels:
            raise BoardError("a board has devices: Board(lights=Gpio('red', 'green'))")

    @property
    def devices(self) -> Mapping[str, VhostUserBackend]:
        """The devices by name."""
        return {name: panel.device for name, panel in self.panels.items()}

    def controls(self) -> Iterator[tuple[str, Control]]:
        """All controls, each with the name by which pages speak of it: ``lights/red``."""
        for name, panel in self.panels.items():
            for label, control in panel.controls.items():
                yield f"{name}/{label}", control

    def describe(self) -> Json:
        """What a page needs to draw the board."""
        return {
            "title": self.title or "A board",
            "panels": [
                {
                    "name": name,
                    "title": panel.title or name,
                    "device": getattr(panel.device, "device_type", "") or type(panel.device).__name__,
                    "controls": [
                        {"id": f"{name}/{label}", "kind": control.kind, "label": label, **control.describe()}
                        for label, control in panel.controls.items()
                    ],
                }
                for name, panel in self.panels.items()
            ],
        }


def board_of(module: ModuleType) -> Board:
    """The board of a module: the ``Board`` that is in it, or one of all devices that are, by their names.

    Raises BoardError for a module with neither, or with two boards.
    """
    found = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    boards = {id(value): (name, value) for name, value in found.items() if isinstance(value, Board)}
    if len(boards) > 1:
        raise BoardError(
            f"there are several boards: {', '.join(name for name, _ in boards.values())}; leave one"
        )
    for _, board in boards.values():
        return board
    devices: dict[str, VhostUserBackend] = {}
    for name, value in found.items():
        if isinstance(value, VhostUserBackend) and all(value is not other for other in devices.values()):
            devices[name] = value
    if not devices:
        raise BoardError(_what_is_missing(module, found))
    title = (inspect.getdoc(module) or "").partition("\n")[0].strip().rstrip(".")
    return Board(title or module.__name__, **devices)


def _what_is_missing(module: ModuleType, found: Mapping[str, object]) -> str:
    classes = [
        name
        for name, value in found.items()
        if isinstance(value, type)
        and issubclass(value, VhostUserBackend)
        and value.__module__ == module.__name__
    ]
    hint = f"; make one of the class it has: {classes[0].lower()} = {classes[0]}()" if classes else ""
    example = "lights = Gpio('red', 'green')"
    return f"there is no device: write it at the top level of the file, such as {example}{hint}"
