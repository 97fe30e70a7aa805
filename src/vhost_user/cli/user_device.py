"""Devices that the user wrote.

``module:Class`` or ``path/file.py:Class``, looked up from the current directory.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from vhost_user.backend import VhostUserBackend
from vhost_user.cli.failure import CommandError, UsageError


def parse_options(pairs: Iterable[str]) -> dict[str, object]:
    """``key=value`` pairs as arguments of a constructor.

    Numbers, true and false are understood, all else is text.
    """
    import ast  # noqa: PLC0415 - needed for these devices only

    options: dict[str, object] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key.isidentifier():
            raise UsageError(
                f"--option {pair}: write it as --option key=value, the key being an argument of the class"
            )
        if text.lower() in ("true", "false"):
            options[key] = text.lower() == "true"
            continue
        try:
            options[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            options[key] = text
    return options


def load_device(name: str, options: dict[str, object]) -> VhostUserBackend:
    """Import the class that ``name`` means and make a device of it.

    Raises CommandError naming what is missing.
    """
    place, colon, class_name = name.rpartition(":")
    if not colon or not place or not class_name:
        raise UsageError(
            f"{name!r} is no device: use rng, blk, module:Class or path/file.py:Class, such as dice:Dice"
        )
    module = _load_file(place) if place.endswith(".py") else _load_module(place)
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
        if options:
            raise UsageError(f"{name} is a ready device, not a class, so --option has nothing to act on")
        return found
    if not _is_device(found):
        raise CommandError(f"{name} is no device: derive the class from vhost_user.Device")
    try:
        inspect.signature(found).bind(**options)
    except TypeError as error:
        parameters = ", ".join(inspect.signature(found).parameters) or "no arguments"
        raise UsageError(
            f"{name} cannot be made: {error}; it takes {parameters} (give them as --option key=value)"
        ) from None
    try:
        device = found(**options)
    except Exception as error:
        raise CommandError(f"{name} cannot be made: {_in_words(error)}") from error
    assert isinstance(device, VhostUserBackend)
    return device


def _is_device(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, VhostUserBackend)


def _in_words(error: BaseException) -> str:
    """The exception and the line of the user's code that raised it."""
    place = ""
    if isinstance(error, SyntaxError):
        place = f" ({error.filename}, line {error.lineno})"
    else:
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        if trace is not None:
            place = f" ({trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno})"
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {text}{place}"


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
        raise CommandError(f"module {name!r} cannot be loaded: {_in_words(error)}") from error


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
        raise CommandError(f"{path} cannot be loaded: {_in_words(error)}") from error
    return module
