"""Waiting in coroutines, of any loop, for what another thread does."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable


class Waiting:
    """``tell`` after every change; ``until`` waits for the change that makes a condition true."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._futures: dict[asyncio.Future[None], asyncio.AbstractEventLoop] = {}

    def tell(self) -> None:
        """Something has changed; from any thread."""
        with self._lock:
            futures = dict(self._futures)
            self._futures.clear()
        for future, loop in futures.items():
            with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits in it
                loop.call_soon_threadsafe(_settle, future)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until ``condition()`` is true. It is called with a lock held, and must not wait."""
        loop = asyncio.get_running_loop()
        while True:
            with self._lock:
                if condition():
                    return
                future = loop.create_future()
                self._futures[future] = loop
            try:
                await future
            finally:
                with self._lock:
                    self._futures.pop(future, None)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
