"""Threads for the blocking calls of coroutines (``asyncio.to_thread``), which do not keep the process."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, TypeVar

Result = TypeVar("Result")
Call = tuple[Future[Any], Callable[..., Any], tuple[Any, ...], dict[str, Any]]

MAX_THREADS = 32


class CallThreads(ThreadPoolExecutor):
    """A thread pool whose threads are daemon threads.

    The interpreter waits at its exit for those of a plain ThreadPoolExecutor, for ever if a call never
    returns. It is derived from that because asyncio takes nothing else.
    """

    def __init__(self, name: str) -> None:
        most = min(MAX_THREADS, (os.cpu_count() or 1) + 4)
        super().__init__(most, thread_name_prefix=name)
        self._name = name
        self._most = most
        self._lock = threading.Lock()
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._started: list[threading.Thread] = []
        self._free = 0
        """Threads that wait for a call, less the calls that wait for a thread."""
        self._ended = False
        self._running: dict[threading.Thread, Callable[..., Any]] = {}

    def submit(self, function: Callable[..., Result], /, *arguments: Any, **keywords: Any) -> Future[Result]:
        """Call it in one of the threads. Raises RuntimeError after ``shutdown``."""
        future: Future[Result] = Future()
        with self._lock:
            if self._ended:
                raise RuntimeError(f"{self._name}: the device is closed, it calls nothing any more")
            self._calls.put((future, function, arguments, keywords))
            self._free -= 1
            if self._free < 0 and len(self._started) < self._most:
                thread = threading.Thread(
                    target=self._work, name=f"{self._name}-{len(self._started)}", daemon=True
                )
                self._started.append(thread)
                self._free += 1
                thread.start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and end the threads as they become free; those that do not are left alone."""
        with self._lock:
            if not self._ended:
                self._ended = True
                if cancel_futures:
                    while not self._calls.empty():
                        call = self._calls.get()
                        if call is not None:
                            call[0].cancel()
                self._calls.put(None)
        if wait:
            for thread in self._started:
                thread.join()

    def unfinished(self, until: float) -> list[str]:
        """After ``shutdown``: the calls that have not returned at the monotonic time ``until``, by name."""
        for thread in self._started:
            thread.join(max(0.0, until - time.monotonic()))
        return [name_of(function) for function in list(self._running.values())]

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            future, function, arguments, keywords = call
            del call
            if future.set_running_or_notify_cancel():
                self._running[threading.current_thread()] = function
                try:
                    future.set_result(function(*arguments, **keywords))
                except BaseException as error:  # noqa: BLE001  # it is who waits for the call that gets it
                    future.set_exception(error)
                del self._running[threading.current_thread()]
            # Nothing of a call is kept until the next.
            del future, function, arguments, keywords
            with self._lock:
                self._free += 1
        # For the others.
        self._calls.put(None)


def name_of(function: object) -> str:
    """What is called, in words: ``asyncio.to_thread`` wraps it twice."""
    while isinstance(function, functools.partial):
        first = function.args[0] if function.args else None
        function = first if callable(first) else function.func
    return str(getattr(function, "__qualname__", None) or function)
