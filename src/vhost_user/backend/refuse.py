"""``Refuse``: an answer that says no."""

from __future__ import annotations

import os


class Refuse(OSError):  # noqa: N818  # reads as what it does
    """Raise it out of a handler to refuse one request, with the status of the device type for that error.

    ``Refuse(errno.EROFS)`` or ``Refuse(errno.EINVAL, "no such line")``. Unlike any other exception it is an
    expected answer: no traceback, no error in the log, and no test of the pytest plugin fails for it.
    ``Device.fail`` gets it and writes what the device type has for ``errno``.
    """

    def __init__(self, errno: int, reason: str | None = None) -> None:
        super().__init__(errno, os.strerror(errno) if reason is None else reason)
