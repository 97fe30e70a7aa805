"""What happens to a device besides requests: file descriptors that are ready, and timers."""

from __future__ import annotations

import inspect
import logging
import select
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vhost_user.backend.device_queues import DeviceQueues
from vhost_user.backend.handling import PLAIN
from vhost_user.backend.listeners import BufferListener, Listening
from vhost_user.backend.timers import Timer, Timers

if TYPE_CHECKING:
    from vhost_user.backend.backend import EventFd, ServedBy
    from vhost_user.backend.buffer_queue import BufferQueue


class DeviceEvents(DeviceQueues):
    """Listeners and timers; both arrive in a worker."""

    def listen(
        self,
        fd: EventFd,
        callback: Callable[[int], object],
        *,
        events: int = select.EPOLLIN,
        worker: int = 0,
        into: BufferQueue | None = None,
    ) -> None:
        """Call ``callback(epoll events)`` in worker ``worker`` whenever ``fd`` is ready (level triggered).

        ``fd`` is a number or an object with ``fileno()``. With ``into`` it is called only while that queue
        has a buffer: what comes meanwhile waits where it is, and whoever sends it notices. Any thread may
        call this, from ``setup`` on.

        Raises ValueError when ``fd`` is listened to already, OSError when it cannot be waited for, TypeError
        for an async callback, which nobody would await, RuntimeError before there is a daemon.
        """
        if inspect.iscoroutinefunction(callback):
            raise TypeError(f"{type(self).__name__}.listen: the callback is an async function: {PLAIN}")
        with self._events_lock:
            self._listen(_number(fd), callback, events, worker, into)

    def unlisten(self, fd: EventFd) -> None:
        """End ``listen``; do it before closing ``fd``. ValueError if it is not listened to."""
        number = _number(fd)
        with self._events_lock:
            listening = self._listeners.pop(number, None)
            if listening is None:
                raise ValueError(f"file descriptor {number} is not listened to")
            self._callbacks.pop(listening.identifier, None)
            listening.end()

    def call_later(self, seconds: float, callback: Callable[..., object], *arguments: Any) -> Timer:
        """Call ``callback(*arguments)`` in worker 0 in so many seconds; ``cancel()`` what it returns.

        From any thread, from ``setup`` until the daemon is closed; it does not end with a session. An
        exception is logged. Raises ValueError for a time that is negative or not finite, TypeError for an
        async callback, RuntimeError before there is a daemon.
        """
        return self._add_timer("call_later", seconds, callback, arguments, again=False)

    def every(self, seconds: float, callback: Callable[..., object], *arguments: Any) -> Timer:
        """Call ``callback(*arguments)`` in worker 0 every so many seconds; ``cancel()`` what it returns.

        A beat that is missed is left out, and those after it keep the time. Otherwise as ``call_later``.
        """
        return self._add_timer("every", seconds, callback, arguments, again=True)

    # The framework's part

    _listeners: dict[int, Listening]
    """By file descriptor."""
    _callbacks: dict[int, Callable[[int], object]]
    """By identifier."""
    _last_listener: int
    _timers: Timers | None
    _events_lock: threading.Lock

    def _prepare_events(self) -> None:
        self._listeners = {}
        self._callbacks = {}
        self._last_listener = 0
        self._timers = None
        self._events_lock = threading.Lock()

    def _attached(self) -> ServedBy:
        if self._daemon is None:
            raise RuntimeError(f"no daemon was made for this {type(self).__name__} yet")
        return self._daemon

    def _listen(
        self,
        fd: int,
        callback: Callable[[int], object],
        events: int = select.EPOLLIN,
        worker: int = 0,
        into: BufferQueue | None = None,
    ) -> None:
        """``listen``, with the lock held."""
        handler = self._attached().get_epoll_handlers()[worker]
        if fd in self._listeners:
            raise ValueError(f"file descriptor {fd} is listened to already")
        self._last_listener += 1
        identifier = self.queues + self._last_listener
        if into is None:
            listening = Listening(handler, fd, events, identifier, callback)
        else:
            listening = BufferListener(handler, fd, events, identifier, callback, into)
        self._callbacks[identifier] = listening.ready
        try:
            listening.begin()
        except BaseException:
            del self._callbacks[identifier]
            raise
        self._listeners[fd] = listening

    def _add_timer(
        self,
        name: str,
        seconds: float,
        callback: Callable[..., object],
        arguments: tuple[Any, ...],
        *,
        again: bool,
    ) -> Timer:
        if inspect.iscoroutinefunction(callback):
            raise TypeError(f"{type(self).__name__}.{name}: the callback is an async function: {PLAIN}")
        self._attached()
        with self._events_lock:
            timers = self._timers
            if timers is None:
                timers = Timers(self._call_timer)
                try:
                    self._listen(timers.fileno(), self._timer_expired)
                except BaseException:
                    timers.close()
                    raise
                self._timers = timers
        return timers.add(seconds, callback, arguments, again=again)

    def _timer_expired(self, _events: int) -> None:
        if (timers := self._timers) is not None:
            timers.expired()

    def _call_timer(self, callback: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        try:
            self._plain("a timer's callback", callback(*arguments))
        except BaseException as error:  # noqa: BLE001  # SystemExit too: no callback ends a worker
            self._log.log(
                logging.ERROR,
                "%s: %s, called by a timer, failed: %s",
                type(self).__name__, getattr(callback, "__qualname__", callback), error,
                exception=error,
            )  # fmt: skip

    def _workers_ended(self) -> None:
        """Nobody waits for a descriptor any more; ``unlisten`` may still give each of them up."""
        with self._events_lock:
            listeners = list(self._listeners.values())
        for listening in listeners:
            listening.forget()

    def _end_events(self) -> None:
        """The daemon ended, and its workers: nobody waits for anything any more."""
        with self._events_lock:
            listeners = list(self._listeners.values())
            self._listeners.clear()
            self._callbacks.clear()
            timers, self._timers = self._timers, None
        for listening in listeners:
            listening.forget()
        if timers is not None:
            timers.close()


def _number(fd: EventFd) -> int:
    return fd if isinstance(fd, int) else fd.fileno()
