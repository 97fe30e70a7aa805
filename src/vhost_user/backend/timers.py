"""Timers of a device: one timerfd, and a heap of what is due when."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import math
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

_SHORTEST = 1e-9
"""Seconds: a timerfd that is set to 0 is off."""


class Timer:
    """One call that is due, or one that comes again and again; ``cancel`` ends it."""

    __slots__ = ("_timers", "arguments", "callback", "due", "interval")

    def __init__(
        self,
        timers: Timers,
        due: float,
        callback: Callable[..., object],
        arguments: tuple[Any, ...],
        interval: float | None,
    ) -> None:
        self._timers: Timers | None = timers
        self.due = due
        self.callback = callback
        self.arguments = arguments
        self.interval = interval

    @property
    def active(self) -> bool:
        """It is still going to call."""
        return self._timers is not None

    def cancel(self) -> None:
        """Do not call any more; from any thread, any number of times. A call that runs already goes on."""
        timers, self._timers = self._timers, None
        if timers is not None:
            timers.forget(self)

    def end(self) -> None:
        """It has called for the last time."""
        self._timers = None

    def __repr__(self) -> str:
        what = getattr(self.callback, "__qualname__", repr(self.callback))
        if not self.active:
            return f"<Timer {what}, over>"
        every = "" if self.interval is None else f", every {self.interval:g} s"
        return f"<Timer {what} in {max(0.0, self.due - time.monotonic()):.3g} s{every}>"


class Timers:
    """The timers of one device. Any thread may add and cancel them; ``expired`` calls what is due.

    ``call`` is given a callback and its arguments; it must not raise.
    """

    def __init__(self, call: Callable[[Callable[..., object], tuple[Any, ...]], object]) -> None:
        self._call = call
        # Under the lock nothing waits: the heap, and one system call that arms the timerfd.
        self._lock = threading.Lock()
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._fd = _timer_fd()

    def fileno(self) -> int:
        """The timerfd: ready when something is due."""
        return self._fd

    def add(
        self,
        seconds: float,
        callback: Callable[..., object],
        arguments: tuple[Any, ...] = (),
        *,
        again: bool = False,
    ) -> Timer:
        """Call it in so many seconds, or with ``again`` every so many. ValueError for a time there is not."""
        if not (math.isfinite(seconds) and (seconds > 0 if again else seconds >= 0)):
            raise ValueError(f"{seconds} seconds: give a {'positive ' if again else ''}number of seconds")
        due = time.monotonic() + seconds
        timer = Timer(self, due, callback, arguments, seconds if again else None)
        with self._lock:
            if self._fd < 0:
                raise RuntimeError("the daemon is closed: nothing calls a timer any more")
            self._push(timer)
            self._arm()
        return timer

    def forget(self, timer: Timer) -> None:
        """It was cancelled: nothing keeps its callback any longer."""
        with self._lock:
            left = [entry for entry in self._heap if entry[2] is not timer]
            if len(left) != len(self._heap):
                heapq.heapify(left)
                self._heap = left
                self._arm()

    def expired(self) -> None:
        """Call what is due now; what a callback adds has its turn the next time."""
        with self._lock:
            if self._fd < 0:
                return
            with contextlib.suppress(BlockingIOError):  # it was set anew meanwhile
                os.read(self._fd, 8)
            now = time.monotonic()
            due = []
            while self._heap and self._heap[0][0] <= now:
                due.append(heapq.heappop(self._heap)[2])
        for timer in due:
            if not timer.active:
                continue
            if timer.interval is None:
                timer.end()
            self._call(timer.callback, timer.arguments)
        with self._lock:
            if self._fd < 0:
                return
            now = time.monotonic()
            for timer in due:
                if timer.active and timer.interval is not None:
                    # Those that were missed are left out, and the beat is kept.
                    missed = max(0, math.floor((now - timer.due) / timer.interval))
                    timer.due += (missed + 1) * timer.interval
                    self._push(timer)
            self._arm()

    def close(self) -> None:
        """Call nothing any more."""
        with self._lock:
            fd, self._fd = self._fd, -1
            timers = [entry[2] for entry in self._heap]
            self._heap.clear()
            for timer in timers:
                timer.end()
            if fd >= 0:
                os.close(fd)

    def _push(self, timer: Timer) -> None:
        heapq.heappush(self._heap, (timer.due, next(self._order), timer))

    def _arm(self) -> None:
        """Set the timerfd to what is due first. Called with the lock held."""
        if self._fd >= 0:
            wait = max(_SHORTEST, self._heap[0][0] - time.monotonic()) if self._heap else 0.0
            _set_timer(self._fd, wait)


if sys.version_info >= (3, 13):

    def _timer_fd() -> int:
        return os.timerfd_create(time.CLOCK_MONOTONIC, flags=os.TFD_NONBLOCK | os.TFD_CLOEXEC)

    def _set_timer(fd: int, seconds: float) -> None:
        os.timerfd_settime(fd, initial=seconds)

else:
    import ctypes
    import functools

    class _TimeSpec(ctypes.Structure):
        _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))

    class _TimerSpec(ctypes.Structure):
        _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))

    @functools.cache
    def _library() -> ctypes.CDLL:
        return ctypes.CDLL(None, use_errno=True)

    def _checked(answer: int) -> int:
        if answer < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"a timer: {os.strerror(number)}")
        return answer

    def _timer_fd() -> int:
        # TFD_NONBLOCK and TFD_CLOEXEC are these two on Linux.
        return _checked(
            _library().timerfd_create(int(time.CLOCK_MONOTONIC), int(os.O_NONBLOCK | os.O_CLOEXEC))
        )

    def _set_timer(fd: int, seconds: float) -> None:
        whole = int(seconds)
        part = round((seconds - whole) * 1e9)
        if seconds and not (whole or part):
            part = 1
        value = _TimerSpec(_TimeSpec(0, 0), _TimeSpec(whole + part // 10**9, part % 10**9))
        _checked(_library().timerfd_settime(fd, 0, ctypes.byref(value), None))
