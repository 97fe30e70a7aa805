"""Notifications as messages (INBAND_NOTIFICATIONS, C133): doorbells that this process rings itself.

A ring for which the front-end gave no kick or call descriptor gets eventfds of our own in their place, so
that neither worker nor vring know the difference, and the path of a request is the same. VRING_KICK rings
the one.
A thread waits for the other, and for that of errors, and sends VRING_CALL and VRING_ERR. What is rung while
the message before waits for its answer is one message more, however often it was rung: a front-end that is
slow, or never answers, delays nobody but itself.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from vhost_user.protocol.errors import VhostUserError
from vhost_user.protocol.limited_log import LimitedLog
from vhost_user.spec.requests import BackendRequest
from vhost_user.spec.structs import VringState

if TYPE_CHECKING:
    from vhost_user.backend.backchannel import BackChannel

CALL, ERROR = BackendRequest.VRING_CALL, BackendRequest.VRING_ERR


class InBand:
    """The doorbells of one session, by queue. Used by its control thread, but for ``_run``.

    ``channel`` gives the back channel of the moment.
    """

    def __init__(self, name: str, channel: Callable[[], BackChannel | None], report: LimitedLog) -> None:
        self._name = name
        self._channel = channel
        self._report = report
        self._kicks: dict[int, int] = {}
        self._bells: dict[int, tuple[BackendRequest, int]] = {}
        """What is to be sent for which queue when this descriptor was rung. Guarded by the lock."""
        self._lock = threading.Lock()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._ended = False
        self._thread: threading.Thread | None = None

    def kick_fd(self, queue: int) -> int:
        """A kick descriptor for this queue, the vring's to close."""
        self.forget_kick(queue)
        self._kicks[queue] = fd = _eventfd()
        return os.dup(fd)

    def kick(self, queue: int) -> bool:
        """Ring it; False where the queue has none."""
        fd = self._kicks.get(queue, -1)
        if fd >= 0:
            # Full after 2^64 - 2 of them that nobody took: then there is no need either.
            with contextlib.suppress(BlockingIOError):
                os.eventfd_write(fd, 1)
        return fd >= 0

    def forget_kick(self, queue: int) -> None:
        """The front-end gave a descriptor, or the ring stopped."""
        fd = self._kicks.pop(queue, -1)
        if fd >= 0:
            os.close(fd)

    def bell_fd(self, queue: int, message: BackendRequest) -> int:
        """A call or error descriptor for this queue, the vring's to close: ringing it sends ``message``."""
        self.forget_bell(queue, message)
        fd = _eventfd()
        with self._lock:
            self._bells[fd] = (message, queue)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"{self._name}-in-band", daemon=True)
            self._thread.start()
        os.eventfd_write(self._wake, 1)
        return os.dup(fd)

    def forget_bell(self, queue: int, message: BackendRequest) -> None:
        """The front-end gave a descriptor, or the ring stopped: what was rung and not sent is not sent."""
        with self._lock:
            for fd in [fd for fd, meaning in self._bells.items() if meaning == (message, queue)]:
                del self._bells[fd]
                # The thread takes none that is not in the table, and reads with the lock held.
                os.close(fd)

    def forget(self, queue: int) -> None:
        """All of this queue."""
        self.forget_kick(queue)
        self.forget_bell(queue, CALL)
        self.forget_bell(queue, ERROR)

    def close(self) -> None:
        """End the thread and close everything; the back channel is closed already."""
        self._ended = True
        os.eventfd_write(self._wake, 1)
        if self._thread is not None:
            self._thread.join()
        for queue in list(self._kicks):
            self.forget_kick(queue)
        for message, queue in list(self._bells.values()):
            self.forget_bell(queue, message)
        os.close(self._wake)

    # In its thread

    def _run(self) -> None:
        while not self._ended:
            poll = select.poll()
            poll.register(self._wake, select.POLLIN)
            with self._lock:
                for fd in self._bells:
                    poll.register(fd, select.POLLIN)
            # One of them may be closed now, and its number another file's: what is ready is looked up again.
            ready = [fd for fd, _ in poll.poll()]
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake)
            for message, queue in self._rung(ready):
                # This ring may have stopped while the message before waited for its answer (C053).
                if self._wanted(message, queue):
                    self._send(message, queue)

    def _rung(self, ready: list[int]) -> list[tuple[BackendRequest, int]]:
        rung = []
        with self._lock:
            for fd in ready:
                if fd in self._bells:
                    with contextlib.suppress(BlockingIOError):
                        os.eventfd_read(fd)
                        rung.append(self._bells[fd])
        return rung

    def _wanted(self, message: BackendRequest, queue: int) -> bool:
        with self._lock:
            return (message, queue) in self._bells.values()

    def _send(self, message: BackendRequest, queue: int) -> None:
        channel = self._channel()
        problem = "there is no back channel"
        if channel is not None:
            try:
                channel.request(message, VringState(queue))
            except VhostUserError as error:
                if error.rule == "C076":  # the rings have stopped meanwhile
                    return
                problem = str(error)
            else:
                return
        if not self._ended:
            self._report.warning(
                "%s: queue %d: %s cannot be told: %s", self._name, queue, message.name, problem
            )


def _eventfd() -> int:
    return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
