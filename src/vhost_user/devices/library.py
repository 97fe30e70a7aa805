"""The library of a device's field: imported when it is used, named with what brings it when it is missing."""

from __future__ import annotations

import importlib
from typing import Any

from vhost_user.spec.errors import VhostUserError


class MissingLibraryError(VhostUserError, ValueError):
    """A library is not installed; the text has the command that brings it."""


def library(module: str, *, extra: str) -> Any:
    """Import ``module``, which the extra ``extra`` of this package brings.

    Raises MissingLibraryError when it is not installed, or needs something that is not.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:  # OSError: the shared library behind it, such as PortAudio
        raise MissingLibraryError(
            f"{module} cannot be imported ({error}). It comes with: pip install 'vhost-user[{extra}]'"
        ) from error
