"""Who serves a back-end: one daemon at a time.

The queues, the memory and the state of a device object are those of one guest. Served to a second one, its
answers to the first would appear in the rings of the second.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vhost_user.backend.backend import ServedBy, VhostUserBackend

_daemons: weakref.WeakValueDictionary[int, ServedBy] = weakref.WeakValueDictionary()
"""The open daemon of each back-end, by its id: a daemon keeps its back-end, so the id stays that one's."""
_lock = threading.Lock()


def take(backend: VhostUserBackend, daemon: ServedBy) -> None:
    """The back-end is ``daemon``'s from now on. Raises ValueError if an open daemon has it."""
    with _lock:
        other = _daemons.get(id(backend))
        if other is not None:
            raise ValueError(
                f"{daemon.name}: this {type(backend).__name__} is served by daemon {other.name!r} already, "
                "and two guests cannot share one device object: make another, or close that daemon first"
            )
        _daemons[id(backend)] = daemon


def is_taken(backend: VhostUserBackend) -> bool:
    """Whether an open daemon has it."""
    with _lock:
        return id(backend) in _daemons


def leave(backend: VhostUserBackend, daemon: ServedBy) -> None:
    """The daemon is done with it, if it had it."""
    with _lock:
        if _daemons.get(id(backend)) is daemon:
            del _daemons[id(backend)]
