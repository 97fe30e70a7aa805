"""A program around a device: ``serve`` and what it is made of.

Parse the command line, open what needs rights, confine the process, start the threads, wait for the end.
Nothing is loaded before a name is used: ``--help`` needs the options alone.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vhost_user.program.confine import Confine, Opened, unconfined
    from vhost_user.program.errors import ServeError
    from vhost_user.program.options import ServeOptions
    from vhost_user.program.serving import run, serve

__all__ = ["Confine", "Opened", "ServeError", "ServeOptions", "run", "serve", "unconfined"]

if not TYPE_CHECKING:  # a checker would take any name at all for one of this module
    _PLACES = {
        "Confine": "confine",
        "Opened": "confine",
        "ServeError": "errors",
        "ServeOptions": "options",
        "run": "serving",
        "serve": "serving",
        "unconfined": "confine",
    }

    def __getattr__(name: str) -> object:
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value = getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
        return value
