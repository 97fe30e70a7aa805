"""Devices that the user wrote.

``module:Class`` or ``path/file.py:Class``, looked up from the current directory.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TypeGuard

from vhost_user.backend import VhostUserBackend
from vhost_user.cli.constructor import Constructor
from vhost_user.cli.failure import CommandError, UsageError
from vhost_user.device_types import names

_PACKAGE = str(Path(__file__).parents[1])


def parse_options(pairs: Iterable[str]) -> dict[str, list[str]]:
    """``key=value`` pairs by their keys, as text: only the constructor knows of which types they are."""
    options: dict[str, list[str]] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key.isidentifier():
            raise UsageError(
                f"--option {pair}: write it as --option key=value, the key being an argument of the class"
            )
        options.setdefault(key, []).append(text)
    return options


def load_device(name: str, options: Mapping[str, list[str]]) -> VhostUserBackend:
    """Import the class that ``name`` means and make a device of it.

    Raises CommandError naming what is missing.
    """
    found = find_device(name)
    if isinstance(found, VhostUserBackend):
        if options:
            raise UsageError(f"{name} is a ready device, not a class, so --option has nothing to act on")
        return found
    return constructed(found, name, options)


def constructed(
    kind: type[VhostUserBackend], name: str, options: Mapping[str, list[str]]
) -> VhostUserBackend:
    """A device of the class, with the arguments that ``options`` give. Raises CommandError."""
    try:
        positional, keywords = Constructor(kind).bind(options)
    except UsageError as error:
        raise UsageError(f"{name} cannot be made: {error}") from None
    try:
        device = kind(*positional, **keywords)
    except Exception as error:
        raise CommandError(f"{name} cannot be made: {in_words(error)}") from error
    assert isinstance(device, VhostUserBackend)
    return device


def arguments_help(name: str) -> str:
    """The arguments of the class that ``name`` means, for ``--help``; why they cannot be shown, if so."""
    try:
        found = find_device(name)
    except CommandError as error:
        return f"The arguments of the class cannot be shown: {error}"
    if isinstance(found, VhostUserBackend):
        return f"{name} is a ready device and takes no arguments."
    return Constructor(found).help()


def find_device(name: str) -> VhostUserBackend | type[VhostUserBackend]:
    """The class, or the ready device, that ``name`` means. Raises CommandError naming what is missing."""
    place, colon, class_name = name.rpartition(":")
    if not colon or not place or not class_name:
        raise UsageError(
            f"{name!r} is not a device: use {', '.join(names())}, module:Class or path/file.py:Class, "
            "such as dice:Dice"
        )
    module = load_module(place)
    found = getattr(module, class_name, None)
    if found is None:
        devices = [
            key
            for key, value in vars(module).items()
            if _is_device(value) and value.__module__ == module.__name__
        ]
        hint = f"it has {', '.join(devices)}" if devices else "it has no device class at all"
        raise CommandError(f"module {place!r} has no {class_name!r}; {hint}")
    if isinstance(found, VhostUserBackend):
        return found
    if not _is_device(found):
        raise CommandError(f"{name} is not a device: derive the class from vhost_user.Device")
    return found


def find_function(name: str) -> Callable[..., object]:
    """The function that ``module:name`` or ``path/file.py:name`` means.

    Raises CommandError naming what is missing.
    """
    place, colon, function_name = name.rpartition(":")
    if not colon or not place or not function_name:
        raise UsageError(f"{name!r} does not name a function: use module:name or path/file.py:name")
    module = load_module(place)
    found = getattr(module, function_name, None)
    if found is None:
        functions = [
            key
            for key, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == module.__name__
        ]
        hint = f"it has {', '.join(functions)}" if functions else "it has no function at all"
        raise CommandError(f"module {place!r} has no {function_name!r}; {hint}")
    if not callable(found):
        raise CommandError(f"{name} is {type(found).__name__}, not a function")
    return found  # type: ignore[no-any-return]  # as checked


def _is_device(value: object) -> TypeGuard[type[VhostUserBackend]]:
    return isinstance(value, type) and issubclass(value, VhostUserBackend)


def in_words(error: BaseException) -> str:
    """The exception and the line of the user's code that raised it."""
    place = ""
    if isinstance(error, SyntaxError):
        place = f" ({error.filename}, line {error.lineno})"
    else:
        frames = traceback.extract_tb(error.__traceback__)
        # Where the package itself found the mistake is of no use to its author.
        own = [frame for frame in frames if not frame.filename.startswith((_PACKAGE, "<frozen"))]
        if frames:
            frame = (own or frames)[-1]
            place = f" ({frame.filename}, line {frame.lineno})"
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {text}{place}"


def load_module(place: str) -> ModuleType:
    """Import what ``path/file.py`` or ``module`` means. Raises CommandError naming what is missing."""
    return _load_file(place) if place.endswith(".py") else _load_module(place)


def _load_module(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise CommandError(
                f"there is no module {name!r} in {here} or in this Python; "
                "go to the directory of the file, or name it as path/file.py:Class"
            ) from error
        raise CommandError(
            f"module {name!r} cannot be loaded: it needs the module {error.name!r}, which is not installed"
        ) from error
    except Exception as error:
        raise CommandError(f"module {name!r} cannot be loaded: {in_words(error)}") from error


def _load_file(name: str) -> ModuleType:
    path = Path(name).resolve()
    if not path.is_file():
        raise CommandError(f"there is no file {path}")
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise CommandError(f"{path} cannot be loaded: {in_words(error)}") from error
    return module
