"""Text of the command line as a value of the type that a parameter is annotated with."""

from __future__ import annotations

import ast
import collections.abc
import enum
import os
import re
import types
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, NewType, TypeVar, Union, cast, get_args, get_origin

_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")
_COLLECTIONS: dict[object, Callable[[list[Any]], Any]] = {
    list: list,
    set: set,
    frozenset: frozenset,
    collections.abc.Sequence: list,
    collections.abc.MutableSequence: list,
    collections.abc.Iterable: list,
    collections.abc.Collection: list,
    collections.abc.Set: set,
}
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_UNIONS = (Union, types.UnionType)


class ConversionError(Exception):
    """The text is not a value of that type; the message completes "… is 'text': "."""


def guess(text: str) -> object:
    """For what has no annotation: true, false and the literals of Python; all else is text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def describe(annotation: Any) -> str:
    """The type in the words of its source: ``int``, ``list[str]``, ``int | None``, ``'fair' | 'loaded'``."""
    annotation = _plain(annotation)
    if annotation in (None, type(None)):
        return "none"
    if get_origin(annotation) is Literal:
        return " | ".join(map(repr, get_args(annotation)))
    if get_origin(annotation) in _UNIONS:
        return " | ".join(map(describe, get_args(annotation)))
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return " | ".join(annotation.__members__)
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__name__
    return re.sub(r"\b(?:[A-Za-z_]\w*\.)+(?=[A-Za-z_])", "", str(annotation))


def takes_several(annotation: Any) -> bool:
    """Whether a value is made of parts, so that the option may be given once for each."""
    annotation = _plain(annotation)
    if get_origin(annotation) in _UNIONS:
        return any(takes_several(part) for part in get_args(annotation))
    kind = get_origin(annotation) or annotation
    return kind is tuple or kind in _MAPPINGS or _hashable_in(kind, _COLLECTIONS)


def convert(text: str, annotation: Any) -> Any:
    """The value. Raises ConversionError with what can be written instead."""
    annotation = _plain(annotation)
    if annotation is Any or annotation is object:
        return guess(text)
    origin = get_origin(annotation)
    if origin in _UNIONS:
        return _union(text, annotation)
    if origin is Literal:
        return _one_of(text, {_written(choice): choice for choice in get_args(annotation)})
    kind = origin or annotation
    if kind is tuple:
        return _tuple(text, get_args(annotation))
    if kind in _MAPPINGS:
        return _mapping(text, get_args(annotation))
    if _hashable_in(kind, _COLLECTIONS):
        part = (get_args(annotation) or (Any,))[0]
        return _COLLECTIONS[kind]([convert(each, part) for each in _parts(text)])
    if isinstance(kind, type):
        if issubclass(kind, enum.Enum):
            return _member(text, kind)
        for known, conversion in _SCALARS.items():
            if kind is known or (known is PurePath and issubclass(kind, PurePath)):
                return cast("Any", kind)(text) if known is PurePath else conversion(text)
    raise ConversionError(f"{describe(annotation)} cannot be written on a command line")


def _plain(annotation: Any) -> Any:
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif isinstance(annotation, NewType):
            annotation = annotation.__supertype__
        elif isinstance(annotation, TypeVar):
            annotation = annotation.__bound__ or Any
        elif type(annotation).__name__ == "TypeAliasType":  # `type X = …`, of Python 3.12
            annotation = annotation.__value__
        else:
            return annotation


def _hashable_in(kind: object, known: dict[object, Any]) -> bool:
    try:
        return kind in known
    except TypeError:
        return False


def _number(kind: type[int | float], words: str) -> Callable[[str], int | float]:
    def conversion(text: str) -> int | float:
        try:
            return int(text, 0) if kind is int and not text.lstrip("+-").isdecimal() else kind(text)
        except ValueError:
            raise ConversionError(f"give {words}") from None

    return conversion


def _truth(text: str) -> bool:
    if text.lower() in _TRUE + _FALSE:
        return text.lower() in _TRUE
    raise ConversionError("give true or false")


def _nothing(text: str) -> None:
    if text.lower() != "none":
        raise ConversionError("give none")


_SCALARS: dict[type, Callable[[str], Any]] = {
    bool: _truth,
    int: _number(int, "a whole number, such as 20 or 0x14"),
    float: _number(float, "a number, such as 0.5"),
    str: str,
    bytes: str.encode,
    bytearray: lambda text: bytearray(text.encode()),
    type(None): _nothing,
    PurePath: Path,
    os.PathLike: Path,
}


def _written(choice: object) -> str:
    if isinstance(choice, enum.Enum):
        return choice.name
    return str(choice).lower() if choice is None or isinstance(choice, bool) else str(choice)


def _one_of(text: str, choices: dict[str, Any]) -> Any:
    if text in choices:
        return choices[text]
    raise ConversionError(f"give one of {', '.join(choices)}")


def _member(text: str, kind: type[enum.Enum]) -> enum.Enum:
    names = {name.lower(): member for name, member in kind.__members__.items()}
    if issubclass(kind, enum.Flag):
        parts = [part.strip().lower() for part in re.split(r"[|,]", text)]
        if all(part in names for part in parts):
            result: Any = names[parts[0]]
            for part in parts[1:]:
                result |= names[part]
            return result  # type: ignore[no-any-return]
    if text.lower() in names:
        return names[text.lower()]
    for member in kind:
        if str(member.value) == text:
            return member
    raise ConversionError(f"give one of {', '.join(kind.__members__)}")


def _union(text: str, annotation: Any) -> Any:
    # Text takes anything, so it comes last; a none that is allowed comes first.
    members = sorted(
        map(_plain, get_args(annotation)),
        key=lambda member: (member is not type(None), member is bytes, member is str, member is Any),
    )
    hints = []
    for member in members:
        try:
            return convert(text, member)
        except ConversionError as error:
            if "cannot be written" not in str(error):
                hints.append(str(error).removeprefix("give "))
    if not hints:
        raise ConversionError(f"{describe(annotation)} cannot be written on a command line")
    raise ConversionError(f"give {', or '.join(reversed(hints))}")


def _parts(text: str) -> list[str]:
    """The parts of a list: separated by commas, or written as in Python."""
    text = text.strip()
    if text[:1] in ("[", "(", "{"):
        try:
            literal = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            raise ConversionError("give its parts separated by commas, such as a,b") from None
        if isinstance(literal, (list, tuple, set)):
            return [part if isinstance(part, str) else str(part) for part in literal]
    return [part.strip() for part in text.split(",")] if text else []


def _tuple(text: str, kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    parts = _parts(text)
    if not kinds or kinds[1:] == (...,):
        return tuple(convert(part, kinds[0] if kinds else Any) for part in parts)
    if len(parts) != len(kinds):
        raise ConversionError(f"give {len(kinds)} parts separated by commas")
    return tuple(convert(part, kind) for part, kind in zip(parts, kinds, strict=True))


def _mapping(text: str, kinds: tuple[Any, ...]) -> dict[Any, Any]:
    key_kind, value_kind = kinds or (Any, Any)
    if text.strip()[:1] == "{":
        try:
            literal = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError):
            literal = None
        if isinstance(literal, dict):
            return {
                convert(str(key), key_kind): convert(str(value), value_kind) for key, value in literal.items()
            }
    result = {}
    for part in _parts(text):
        key, separator, value = part.partition(":")
        if not separator:
            raise ConversionError("give pairs separated by commas, such as a:1,b:2")
        result[convert(key.strip(), key_kind)] = convert(value.strip(), value_kind)
    return result
