"""What this process has open, for tests that nothing is left."""

from __future__ import annotations

from pathlib import Path


def open_fds() -> list[str]:
    """The open descriptors, each with what it leads to; without the one of this listing."""
    names = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = str(link.readlink())
        except OSError:
            continue  # the one of this listing, closed by now
        if not target.startswith("/proc/"):
            names.append(f"{link.name} {target}")
    return sorted(names)
