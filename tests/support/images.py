"""Images of disks, and who has them locked."""

from __future__ import annotations

from pathlib import Path

from vhost_user.devices import FileStorage


def is_free(image: Path) -> bool:
    """Nobody has the image locked."""
    other = FileStorage(image)
    try:
        return other.obstacle() is None
    finally:
        other.close()
