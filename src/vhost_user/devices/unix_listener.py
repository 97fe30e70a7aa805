"""A Unix socket that listens where one of a program that has ended may still be."""

from __future__ import annotations

import contextlib
import socket
import stat
from pathlib import Path


def unix_listener(path: str) -> socket.socket:
    """Listen at ``path``; a socket that is there is replaced. OSError, also for a file of another kind."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(Path(path).stat().st_mode):
            Path(path).unlink()
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(path)
        listener.listen(128)
    except BaseException:
        listener.close()
        raise
    return listener
