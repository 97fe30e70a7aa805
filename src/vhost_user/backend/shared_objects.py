"""Objects that a device shares with others by UUID: dmabufs, mostly (SHARED_OBJECT, C100, C103)."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

from vhost_user.backend.backchannel import BackChannelError
from vhost_user.protocol.errors import RequestRefused

if TYPE_CHECKING:
    from vhost_user.backend.backchannel import BackChannel
    from vhost_user.backend.backend import EventFd

MAX_OBJECTS = 1024
"""At a time; each is an open file."""


class SharedObjects:
    """The objects of a device that others may import; declare it as ``shared_objects`` of the class.

    The declaration is a template: each device gets a twin of its own. Objects live until they are removed or
    the device is closed: the next front-end is told of them too. What cannot be told now, because no
    front-end is there or all rings are stopped (C076), is told when a ring runs.

    Any thread may call the methods. ``lookup`` waits for the front-end's answer, so not what is called in the
    control thread (``started``, ``reset`` …).
    """

    def __init__(self) -> None:
        self._channel: Callable[[], BackChannel | None] = lambda: None
        self._later: Callable[[Callable[[], None]], object] = lambda _tell: None
        self._lock = threading.Lock()
        self._objects: dict[uuid.UUID, int] = {}
        """Our own descriptors."""
        self._untold: dict[uuid.UUID, bool] = {}
        """What the front-end does not know yet: added (True) or removed, in this order."""

    def copy(
        self, channel: Callable[[], BackChannel | None], later: Callable[[Callable[[], None]], object]
    ) -> SharedObjects:
        """A twin for one device: ``channel`` gives its back channel, ``later`` runs something elsewhere."""
        twin = SharedObjects()
        twin._channel, twin._later = channel, later
        return twin

    def __len__(self) -> int:
        return len(self._objects)

    def __contains__(self, identifier: object) -> bool:
        return identifier in self._objects

    def add(self, fd: EventFd, identifier: uuid.UUID | None = None) -> uuid.UUID:
        """Export what ``fd`` is, by a new UUID if none is given; that is returned.

        A duplicate is kept, ``fd`` stays the caller's. ValueError for an identifier that is in use, and when
        there are too many; RequestRefused when the front-end refuses it.
        """
        identifier = uuid.uuid4() if identifier is None else identifier
        with self._lock:
            if identifier in self._objects:
                raise ValueError(f"object {identifier} is shared already")
            if len(self._objects) >= MAX_OBJECTS:
                raise ValueError(f"{MAX_OBJECTS} objects are shared already: remove some")
            # Before it is told: the front-end may ask for it at once.
            self._objects[identifier] = os.dup(fd if isinstance(fd, int) else fd.fileno())
            self._untold[identifier] = True
        try:
            self.tell()
        except RequestRefused:
            self._forget(identifier)
            raise
        return identifier

    def remove(self, identifier: uuid.UUID) -> None:
        """Take an object back; whoever imported it keeps what they have. ValueError for none of ours."""
        if not self._forget(identifier):
            raise ValueError(f"object {identifier} is not shared here")
        with self._lock:
            # One that nobody was told of needs no second word.
            if self._untold.pop(identifier, False):
                return
            self._untold[identifier] = False
        self.tell()

    def lookup(self, identifier: uuid.UUID) -> int:
        """A descriptor, yours to close, of an object that another device exports (C100).

        RequestRefused when there is none, BackChannelError when the front-end cannot be asked.
        """
        if (channel := self._channel()) is None:
            raise BackChannelError("there is no front-end with a back channel")
        return channel.shared_object_lookup(identifier)

    # The framework's part

    def duplicate(self, identifier: uuid.UUID) -> int | None:
        """For GET_SHARED_OBJECT: a descriptor to send and close; None for an object that is not ours."""
        with self._lock:
            fd = self._objects.get(identifier)
            return None if fd is None else os.dup(fd)

    def tell(self) -> None:
        """Tell the front-end what it does not know, as far as it can be told now.

        RequestRefused when it refuses one.
        """
        while True:
            with self._lock:
                identifier, added = next(iter(self._untold.items()), (None, False))
            channel = self._channel()
            if identifier is None or channel is None:
                return
            try:
                if added:
                    channel.shared_object_add(identifier)
                else:
                    channel.shared_object_remove(identifier)
            except BackChannelError as error:
                if error.rule == "C102":  # this is the control thread
                    self._later(self.tell)
                return
            except RequestRefused:
                self._told(identifier, added)
                raise
            self._told(identifier, added)

    def ring_started(self) -> None:
        """A ring runs: the front-end may be told. Called in the control thread."""
        if self._untold:
            self._later(self.tell)

    def session_ended(self) -> None:
        """The next front-end knows nothing."""
        with self._lock:
            self._untold = dict.fromkeys(self._objects, True)

    def close(self) -> None:
        """The device is closed."""
        with self._lock:
            objects, self._objects = self._objects, {}
            self._untold.clear()
        for fd in objects.values():
            os.close(fd)

    def _told(self, identifier: uuid.UUID, added: bool) -> None:
        with self._lock:
            if self._untold.get(identifier) is added:
                del self._untold[identifier]

    def _forget(self, identifier: uuid.UUID) -> bool:
        with self._lock:
            fd = self._objects.pop(identifier, -1)
        if fd >= 0:
            os.close(fd)
        return fd >= 0
