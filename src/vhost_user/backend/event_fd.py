"""What stands for a file descriptor in the trait."""

from __future__ import annotations

from typing import Protocol


class HasFileno(Protocol):
    """Anything with a file descriptor: a socket, a file, an event object."""

    def fileno(self) -> int:
        """The file descriptor."""


EventFd = int | HasFileno
"""An eventfd (or another file) as a number or as an object with ``fileno()``."""
