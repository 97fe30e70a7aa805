"""The commands that a control socket knows. Other parts of a program add theirs."""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

KINDS: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}
"""What an argument may be, as JSON has it."""


class CommandFailed(Exception):  # noqa: N818  # it is an answer
    """The command was not carried out; the text is for whoever gave it."""


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a command, out of its function's signature."""

    name: str
    kind: type | None
    """None for one that may be anything."""
    required: bool

    def check(self, command: str, value: object) -> None:
        """Raise CommandFailed for a value of the wrong kind. A bool is not a number; null is no value."""
        if self.kind is None or (value is None and not self.required):
            return
        fits = (
            isinstance(value, bool)
            if self.kind is bool
            else isinstance(value, (int, float) if self.kind is float else self.kind)
            and not isinstance(value, bool)
        )
        if not fits:
            raise CommandFailed(f"{command}: {self.name} is {KINDS[self.kind]}, not {reprlib.repr(value)}")


@dataclass(frozen=True, slots=True)
class Command:
    """A command: a function whose parameters are its arguments, and whose result goes back as JSON.

    A ``long`` one has a thread of its own, one at a time; the others run in the thread of the control socket,
    one after the other, and must neither wait nor call into the device.
    """

    name: str
    function: Callable[..., object]
    summary: str
    long: bool = False
    arguments: tuple[Argument, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        object.__setattr__(self, "arguments", tuple(_arguments(self.name, self.function)))

    def carry_out(self, given: Mapping[str, Any]) -> object:
        """What the function returns. Raises CommandFailed for arguments that it does not take."""
        known = {argument.name: argument for argument in self.arguments}
        for name, value in given.items():
            if name not in known:
                takes = ", ".join(known) or "nothing"
                raise CommandFailed(f"{self.name} has no argument {name!r}; it takes {takes}")
            known[name].check(self.name, value)
        missing = [
            argument.name for argument in self.arguments if argument.required and argument.name not in given
        ]
        if missing:
            raise CommandFailed(f"{self.name} needs {', '.join(missing)}")
        return self.function(**given)


def _arguments(command: str, function: Callable[..., object]) -> Iterator[Argument]:
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}:
            raise TypeError(f"command {command}: {parameter} cannot be given by name")
        yield Argument(parameter.name, _kind(parameter.annotation), parameter.default is parameter.empty)


def _kind(annotation: object) -> type | None:
    """What ``int``, ``int | None`` or ``list[str]`` asks for, written as a string or not."""
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    words = {word.strip().partition("[")[0] for word in text.split("|")}
    return next((kind for kind in KINDS if kind.__name__ in words), None)


class Commands:
    """The commands of one program, by name. Add them before the socket is served."""

    def __init__(self) -> None:
        self._commands: dict[str, Command] = {}
        self.add("help", self._help, "the commands there are, and what they take")

    def add(self, name: str, function: Callable[..., object], summary: str, *, long: bool = False) -> Command:
        """Add a command. ValueError when there is one of that name."""
        if name in self._commands:
            raise ValueError(f"there is a command {name!r} already")
        self._commands[name] = command = Command(name, function, summary, long)
        return command

    def __getitem__(self, name: str) -> Command:
        """Raises CommandFailed when there is none of that name."""
        try:
            return self._commands[name]
        except KeyError:
            raise CommandFailed(
                f"there is no command {name!r}; there are {', '.join(self._commands)}"
            ) from None

    def __iter__(self) -> Iterator[Command]:
        return iter(self._commands.values())

    def _help(self) -> dict[str, Any]:
        return {
            command.name: {
                "summary": command.summary,
                "arguments": {
                    argument.name: {
                        "kind": "anything" if argument.kind is None else KINDS[argument.kind],
                        "required": argument.required,
                    }
                    for argument in command.arguments
                },
            }
            for command in self
        }
