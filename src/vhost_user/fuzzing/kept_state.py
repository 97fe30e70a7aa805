"""The state of a device as a session has it: saved by the back-end, changed, and given back (C127)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import time
from collections.abc import Sequence
from typing import Any, Final

LARGEST: Final = 1 << 20
"""Bytes of a state that are kept: as many as a pipe holds."""
PATIENCE: Final = 0.5
"""Seconds that a back-end has for saving."""

Edit = tuple[str, int, str]
"""What is done, the place (counted round the length), and bytes in hex:

``set``, ``insert``, ``cut``, ``whole``.
"""


class KeptState:
    """One state; empty until a back-end has saved one."""

    def __init__(self) -> None:
        self.data = b""
        self._saving = -1

    def begin(self) -> int:
        """The end of a pipe that a back-end is to save into, the caller's."""
        self.close()
        self._saving, theirs = os.pipe2(os.O_CLOEXEC)
        return theirs

    def edit(self, edits: Sequence[Edit]) -> None:
        """Take what was saved, and change it."""
        if self._saving >= 0:
            self.data = self._read()
            self.close()
        state = bytearray(self.data)
        for kind, place, content in edits:
            at, new = place % (len(state) + 1), bytes.fromhex(content)
            match kind:
                case "set":
                    state[at : at + len(new)] = new
                case "insert":
                    state[at:at] = new
                case "cut":
                    del state[at:]
                case _:
                    state[:] = new
        self.data = bytes(state[:LARGEST])

    def _read(self) -> bytes:
        until = time.monotonic() + PATIENCE
        data = bytearray()
        while len(data) < LARGEST and (left := until - time.monotonic()) > 0:
            if not select.select([self._saving], [], [], left)[0]:
                break
            piece = os.read(self._saving, LARGEST)
            if not piece:
                break
            data += piece
        return bytes(data)

    def give(self) -> int:
        """The end of a pipe that has the state in it, the caller's."""
        theirs, ours = os.pipe2(os.O_CLOEXEC)
        with contextlib.suppress(OSError):  # as much as fits
            fcntl.fcntl(ours, fcntl.F_SETPIPE_SZ, LARGEST)
        os.set_blocking(ours, False)
        with contextlib.suppress(BlockingIOError):
            os.write(ours, self.data)
        os.close(ours)
        return theirs

    def close(self) -> None:
        """Forget the pipe that is saved into."""
        if self._saving >= 0:
            os.close(self._saving)
            self._saving = -1


def edit(*edits: Edit) -> dict[str, Any]:
    """A step that takes the state that was saved, and changes it."""
    return {"op": "edit", "edits": [list(each) for each in edits]}
