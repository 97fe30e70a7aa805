"""File descriptors that a worker waits for, always or only while a queue has a buffer."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from vhost_user.engine.device.worker import Worker

log = logging.getLogger("vhost_user.device")


class Listening:
    """One file descriptor that a worker waits for."""

    def __init__(  # they are what epoll is told
        self,
        worker: Worker,
        fd: int,
        events: int,
        identifier: int,
        callback: Callable[[int], object],
    ) -> None:
        self.fd = fd
        self.identifier = identifier
        self._worker = worker
        self._events = events
        self._callback = callback
        self._waited_for = False

    def begin(self) -> None:
        """Wait for it. Raises OSError when the kernel cannot."""
        self._register()

    def ready(self, events: int) -> object:
        """It is ready; what the callback returned."""
        return self._callback(events)

    def end(self) -> None:
        """Wait for it no longer."""
        self._unregister()

    def forget(self) -> None:
        """The workers are gone."""
        self._waited_for = False

    def _register(self) -> None:
        if not self._waited_for:
            self._worker.register_listener(self.fd, self._events, self.identifier)
            self._waited_for = True

    def _unregister(self) -> None:
        if self._waited_for:
            self._waited_for = False
            self._worker.unregister_listener(self.fd, self._events, self.identifier)


class Buffers(Protocol):
    """What a listener needs of the queue that it waits for; ``BufferQueue`` is one."""

    @property
    def has_buffer(self) -> bool:
        """Whether one can be taken."""

    def add_source(self, source: BufferListener) -> None:
        """Pause and resume this listener as buffers come and go."""

    def remove_source(self, source: BufferListener) -> None:
        """Leave it alone."""

    def check_sources(self) -> None:
        """Pause them if the last buffer is gone."""


class BufferListener(Listening):
    """One that is waited for only while a queue has a buffer.

    While it has none the descriptor is out of the poll set: with an event mask of 0 the kernel would still
    report that the other side hung up, again and again. ``pause`` and ``resume`` are called with the queue's
    lock held, which orders them with buffers that come and go.
    """

    def __init__(  # noqa: PLR0917  # as above
        self,
        worker: Worker,
        fd: int,
        events: int,
        identifier: int,
        callback: Callable[[int], object],
        queue: Buffers,
    ) -> None:
        super().__init__(worker, fd, events, identifier, callback)
        self._queue = queue
        self._over = False

    def begin(self) -> None:
        """Wait for it if there is a buffer, otherwise once there is."""
        # What epoll cannot wait for is refused now, whether there is a buffer or not.
        self._register()
        self._unregister()
        self._queue.add_source(self)

    def ready(self, events: int) -> object:
        """It is ready, and there is a buffer, unless somebody has taken the last one meanwhile."""
        outcome = self._callback(events) if self._queue.has_buffer else None
        self._queue.check_sources()
        return outcome

    def end(self) -> None:
        """Wait for it no longer, whatever the queue has."""
        self._over = True
        self._queue.remove_source(self)
        self._unregister()

    def forget(self) -> None:
        """The workers are gone."""
        self._over = True
        self._waited_for = False
        self._queue.remove_source(self)

    def pause(self) -> None:
        """There is no buffer."""
        # Its owner may have closed the descriptor, which is out of the poll set then.
        with contextlib.suppress(OSError):
            self._unregister()

    def resume(self) -> None:
        """There is one."""
        if self._over:
            return
        try:
            self._register()
        except OSError as error:
            self._over = True
            # Its owner closed it: a traceback would say nothing.
            message = "%s: file descriptor %d cannot be listened to any more: %s"
            log.log(logging.ERROR, message, self._queue, self.fd, error)
