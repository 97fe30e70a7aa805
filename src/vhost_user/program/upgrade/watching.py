"""What ``--reload`` looks at: the code of the device."""

from __future__ import annotations

import sys
from pathlib import Path

from vhost_user.backend.backend import VhostUserBackend

OURS = Path(__file__).parents[2]


def _files(device: VhostUserBackend) -> list[Path]:
    """The file of the device's class, and of every module that lies in the same folder or below it."""
    module = sys.modules.get(type(device).__module__)
    own = getattr(module, "__file__", None)
    if own is None:
        return []
    folder = Path(own).resolve().parent
    found = {Path(own).resolve()}
    for each in list(sys.modules.values()):
        name = getattr(each, "__file__", None)
        if name is not None and Path(name).suffix == ".py":
            path = Path(name).resolve()
            if folder in path.parents and (OURS not in path.parents or OURS in folder.parents):
                found.add(path)
    return sorted(found)


class Watch:
    """Whether files of a device have changed since this was last asked."""

    def __init__(self, device: VhostUserBackend) -> None:
        self._device = device
        self._seen = self._state()

    def _state(self) -> dict[Path, tuple[int, int]]:
        state = {}
        for path in _files(self._device):
            try:
                status = path.stat()
            except OSError:
                continue  # an editor is about to put another in its place
            state[path] = (status.st_mtime_ns, status.st_size)
        return state

    def changed(self) -> str | None:
        """The name of a file that is different now; None if none is."""
        before, self._seen = self._seen, self._state()
        for path, status in self._seen.items():
            if path in before and before[path] != status:
                return path.name
        return None
