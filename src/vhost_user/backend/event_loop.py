"""An asyncio loop in a thread of its own, for devices whose ``handle`` is a coroutine."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from vhost_user.backend.call_threads import CallThreads
from vhost_user.backend.memory_faults import let_memory_faults_through

log = logging.getLogger("vhost_user.device")

CLOSE_PATIENCE = 1.0
"""Seconds that ``close`` gives cancelled tasks, and after them calls in threads, to end."""


class EventLoopThread:
    """Runs ``loop`` until ``close``, whatever its tasks raise.

    Nothing in it keeps the process from ending: its threads are daemon threads, and what does not end when it
    is cancelled is left alone, with a warning that names it.
    """

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._name = name
        self._calls = CallThreads(f"{name}-call")
        self.loop.set_default_executor(self._calls)
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        let_memory_faults_through()
        asyncio.set_event_loop(self.loop)
        while not self._closing:
            try:
                self.loop.run_forever()
            except BaseException:  # SystemExit of a task comes out here, and would take all the others along
                log.exception("%s: a task raised this out of the loop, which goes on", self._name)
        try:
            self.loop.run_until_complete(self._finish())
        except BaseException:
            log.exception("%s: the loop could not be ended in order", self._name)
        finally:
            self.loop.close()

    def _stop(self) -> None:
        """In the loop, so that nothing which stops it is left for ``_finish`` to come across."""
        self._closing = True
        self.loop.stop()

    async def _finish(self) -> None:
        here = asyncio.current_task()
        self._warn(await _cancel([task for task in asyncio.all_tasks() if task is not here], CLOSE_PATIENCE))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.loop.shutdown_asyncgens(), CLOSE_PATIENCE)

    def cancel(self, tasks: Iterable[asyncio.Task[None]], patience: float) -> None:
        """Cancel these tasks of the loop and wait, at most ``patience`` seconds, until they are gone.

        Warns of those that go on. Not from the loop itself.
        """
        # Those of this moment: when the loop is held up, a later session may have some before they get to it.
        future = asyncio.run_coroutine_threadsafe(_cancel(list(tasks), patience), self.loop)
        try:
            self._warn(future.result(1.5 * patience))
        except TimeoutError:
            self._warn_of_standstill()

    def close(self) -> None:
        """Cancel what runs, end the loop and its thread.

        Takes a few seconds at most: what does not end by then is left alone, with a warning.
        """
        with contextlib.suppress(RuntimeError):  # it is closed already
            self.loop.call_soon_threadsafe(self._stop)
        # As long as _finish may take, and a little.
        self._thread.join(3 * CLOSE_PATIENCE)
        if self._thread.is_alive():
            self._warn_of_standstill()
        self._calls.shutdown(wait=False, cancel_futures=True)
        left = self._calls.unfinished(time.monotonic() + CLOSE_PATIENCE)
        if left:
            log.warning("%s: %s did not return from a thread and is left alone", self._name, _listed(left))

    def _warn(self, tasks: Iterable[asyncio.Task[object]]) -> None:
        left = [_task_name(task) for task in tasks]
        if left:
            log.warning(
                "%s: %s did not end when it was cancelled and is left alone", self._name, _listed(left)
            )

    def _warn_of_standstill(self) -> None:
        """The loop itself does not get on: a coroutine calls something that blocks."""
        frame = sys._current_frames().get(self._thread.ident or 0)  # noqa: SLF001  # there is no other way
        place = "somewhere"
        while frame is not None:
            code = frame.f_code
            if code.co_flags & inspect.CO_COROUTINE:
                place = f"in {code.co_qualname} ({code.co_filename}, line {frame.f_lineno})"
                break
            frame = frame.f_back
        log.warning("%s: the loop is held up %s and left alone; nothing may block there", self._name, place)


async def _cancel(tasks: Sequence[asyncio.Task[Any]], patience: float) -> list[asyncio.Task[Any]]:
    """Cancel the tasks; those that have not ended after ``patience`` seconds."""
    for task in tasks:
        task.cancel()
    if not tasks:
        return []
    done, pending = await asyncio.wait(tasks, timeout=patience)
    for task in done:
        if not task.cancelled():
            task.exception()  # asyncio would log it when the task is forgotten
    return list(pending)


def _task_name(task: asyncio.Task[object]) -> str:
    name = task.get_name()
    return str(getattr(task.get_coro(), "__qualname__", name)) if name.startswith("Task-") else name


def _listed(names: list[str]) -> str:
    return ", ".join(
        name if count == 1 else f"{name} ({count} times)" for name, count in Counter(names).items()
    )
