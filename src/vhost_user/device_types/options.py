"""The options of a device: fields of a dataclass, each with what a command line and its help must know."""

from __future__ import annotations

import dataclasses
import enum
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from vhost_user.device_types.errors import OptionError

_KEY = "vhost_user option"
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
BYTES = "bytes"
"""The unit whose numbers may be written as 64K or 1G."""

OptionsT = TypeVar("OptionsT")


@dataclass(frozen=True, kw_only=True)
class _Details:
    help: str
    metavar: str | None
    unit: str
    minimum: int | None
    maximum: int | None
    exclusive: str
    shown_default: str | None


def option(
    default: Any = dataclasses.MISSING,
    *,
    help: str,  # noqa: A002  # as argparse calls it
    metavar: str | None = None,
    unit: str = "",
    minimum: int | None = None,
    maximum: int | None = None,
    exclusive: str = "",
    shown_default: str | None = None,
) -> Any:
    """A field of a dataclass that is an option of a device.

    The annotation says what is given: ``int``, ``float``, ``str``, ``bool``, an enum or a ``Literal``,
    each with ``| None`` if it can be left out; a ``tuple[str, ...]`` can be given again and again. A ``bool``
    that is False is switched on by ``--name``, one that is True off by ``--no-name``. Numbers whose ``unit``
    is ``"bytes"`` may be written as ``64K`` or ``1G``; other units are shown in the help. ``minimum`` and
    ``maximum`` bound a number. Of the options that have the same word for ``exclusive`` one can be given. The
    help shows the default; ``shown_default`` is another text for it.
    """
    details = _Details(
        help=help,
        metavar=metavar,
        unit=unit,
        minimum=minimum,
        maximum=maximum,
        exclusive=exclusive,
        shown_default=shown_default,
    )
    return dataclasses.field(default=default, metadata={_KEY: details})


@dataclass(frozen=True)
class Option:
    """One option as ``options_of`` finds it."""

    name: str
    kind: Any
    """``int``, ``float``, ``str``, ``bool``, or an enum."""
    choices: tuple[Any, ...]
    """All values, for an enum and a ``Literal``; empty for others."""
    default: Any
    required: bool
    details: _Details
    repeatable: bool = False
    """It can be given again and again; its value is a tuple."""

    @property
    def flag(self) -> str:
        """What is written on a command line."""
        name = self.name.replace("_", "-")
        return f"--no-{name}" if self.kind is bool and self.default is True else f"--{name}"

    @property
    def metavar(self) -> str:
        """The word for its value in the help."""
        if self.details.metavar is not None:
            return self.details.metavar
        if self.choices:
            return "{" + ",".join(_word(choice) for choice in self.choices) + "}"
        return "SIZE" if self.details.unit == BYTES else "N" if self.kind in (int, float) else "TEXT"

    @property
    def help(self) -> str:
        """The help text with unit and default."""
        parts = []
        if self.details.unit and self.details.unit != BYTES:
            parts.append(f"in {self.details.unit}")
        if self.details.shown_default is not None:
            parts.append(f"default {self.details.shown_default}")
        elif self.required:
            parts.append("required")
        elif self.repeatable:
            parts.append("may be given several times")
        elif self.default is not None and self.kind is not bool:
            parts.append(f"default {_word(self.default)}")
        return f"{self.details.help} ({', '.join(parts)})" if parts else self.details.help

    def parse(self, text: str) -> Any:
        """The value that was written. OptionError says what can be written."""
        if self.choices:
            return self.checked(next((each for each in self.choices if text == _word(each)), text))
        if self.kind is str:
            return text
        return self.checked(_number(text, self.kind, self.details))

    def checked(self, value: Any) -> Any:
        """``value`` if it is a choice and lies within the bounds. Raises OptionError."""
        if self.choices and value is not None and value not in self.choices:
            raise OptionError(f"{value!r} is not one of {', '.join(map(_word, self.choices))}")
        low, high = self.details.minimum, self.details.maximum
        if value is None or isinstance(value, bool) or not isinstance(value, int | float):
            return value
        if (low is not None and value < low) or (high is not None and value > high):
            raise OptionError(f"{str(value)!r} is not {_wanted(self.kind, self.details)}")
        return value


def _word(value: Any) -> str:
    return value.name.lower() if isinstance(value, enum.Enum) else str(value)


def _wanted(kind: Any, details: _Details) -> str:
    low, high = details.minimum, details.maximum
    what = "a whole number" if kind is int else "a number"
    if low is not None and high is not None:
        return f"{what} from {low} to {high}"
    if low is not None:
        return f"{what} above {low - 1}" if kind is int else f"{what} of at least {low}"
    return f"{what} up to {high}" if high is not None else what


def _number(text: str, kind: Any, details: _Details) -> Any:
    if details.unit == BYTES and kind is int:
        return size(text)
    if kind is float:
        try:
            return float(text)
        except ValueError:
            pass
    elif re.fullmatch(r"-?[0-9]+", text.strip()):
        return int(text)
    raise OptionError(f"{text!r} is not {_wanted(kind, details)}")


def size(text: str) -> int:
    """A size in bytes: ``512``, ``64K``, ``1G``; units are powers of 1024. Raises OptionError."""
    match = re.fullmatch(r"([0-9]+)([kmgt]?)(?:i?b)?", text.strip().lower())
    if not match:
        raise OptionError(f"{text!r} is not a size; write a number of bytes or something like 64M or 1G")
    return int(match[1]) * _UNITS[match[2]]


def options_of(kind: type[Any]) -> tuple[Option, ...]:
    """The options that a dataclass declares, in its order. Raises TypeError for what no option can be."""
    if not dataclasses.is_dataclass(kind):
        raise TypeError(f"{kind.__name__} is not a dataclass: write @dataclass above it")
    hints = get_type_hints(kind)
    found = []
    for field in dataclasses.fields(kind):
        details = field.metadata.get(_KEY)
        if details is None:
            raise TypeError(
                f"{kind.__name__}.{field.name} is not an option: "
                f"write {field.name}: … = option({field.default!r}, help=…)"
            )
        repeatable = get_origin(hints[field.name]) is tuple
        hint = get_args(hints[field.name])[0] if repeatable else hints[field.name]
        chosen, choices = _kind(kind, field.name, hint)
        required = field.default is dataclasses.MISSING
        found.append(
            Option(
                field.name,
                chosen,
                choices,
                None if required else field.default,
                required,
                details,
                repeatable,
            )
        )
    return tuple(found)


def _kind(owner: type[Any], name: str, hint: Any) -> tuple[Any, tuple[Any, ...]]:
    if get_origin(hint) in (Union, types.UnionType):
        parts = [part for part in get_args(hint) if part is not type(None)]
        hint = parts[0] if len(parts) == 1 else hint
    if get_origin(hint) is Literal:
        return str, get_args(hint)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint, tuple(hint)
    if hint in (int, float, str, bool):
        return hint, ()
    raise TypeError(
        f"{owner.__name__}.{name}: {hint} cannot be written on a command line; "
        "take int, float, str, bool, an enum or a Literal"
    )


def check_exclusive(options: Sequence[Option], given: Mapping[str, Any]) -> None:
    """OptionError if two of ``given`` exclude each other."""
    chosen: dict[str, Option] = {}
    for each in options:
        group = each.details.exclusive
        if not group or given.get(each.name, each.default) == each.default:
            continue
        if group in chosen:
            raise OptionError(f"{each.flag} and {chosen[group].flag} exclude each other")
        chosen[group] = each


def made(kind: type[OptionsT], given: Mapping[str, Any]) -> OptionsT:
    """An object of the dataclass. OptionError for options that it has not, out of bounds, or too many."""
    options = options_of(kind)
    known = {each.name: each for each in options}
    for name, value in given.items():
        if name not in known:
            raise OptionError(f"there is no option {name!r}; there are {', '.join(known)}")
        try:
            for each in value if known[name].repeatable else (value,):
                known[name].checked(each)
        except OptionError as error:
            raise OptionError(f"{name}: {error}") from None
    for each in options:
        if each.required and each.name not in given:
            raise OptionError(f"the option {each.name!r} is missing: {each.details.help}")
    check_exclusive(options, given)
    return kind(**given)
