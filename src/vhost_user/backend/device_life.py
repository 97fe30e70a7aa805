"""The life of a device: from ``setup`` through sessions with their tasks to ``shutdown``."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeVar

from vhost_user.backend.device_events import DeviceEvents
from vhost_user.backend.handling import CANCEL_PATIENCE, PLAIN
from vhost_user.protocol.listener import Listener

if TYPE_CHECKING:
    import asyncio

    from vhost_user.backend.daemon import VhostUserDaemon

Result = TypeVar("Result")


class DeviceLife(DeviceEvents):
    """What happens when. A device overrides what it needs; none of these methods needs ``super()``."""

    # What a device overrides

    def setup(self) -> None:
        """A daemon was made for this device: its workers and vrings exist, nothing runs yet.

        The place for ``listen``, ``every`` and ``background``. Called in the thread that makes the daemon.
        An exception keeps the daemon from being made: ValueError, with the text of what was raised.
        """

    def started(self) -> object:
        """The driver is ready: it said DRIVER_OK, or its first ring runs where it says no such thing (C131).

        May be ``async def``: then it runs on ``loop`` and is cancelled when the session ends, the driver
        resets the device, or another driver comes. A plain one is called in the control thread. Called again
        for the next driver: after a reset, and when the rings begin anew although nobody told of a reset, as
        with QEMU when the guest reboots. Not called when a VM was paused and goes on. An exception is logged.
        """

    def shutdown(self) -> None:
        """The daemon is closed: nothing calls the device any more. Called once, if ``setup`` was.

        Coroutines of ``background`` still run, and are cancelled afterwards. Called in the thread that closes
        the daemon. An exception is logged.
        """

    # What a device uses

    def spawn(self, coroutine: Coroutine[Any, Any, Result]) -> Future[Result]:
        """Start a task on ``loop`` that is cancelled when the session ends or another driver comes.

        From any thread. What it raises is logged, and is in the future that this gives as well; cancelling
        that cancels the task. Raises RuntimeError before there is a daemon.
        """
        return self._start(coroutine, self._session_tasks)

    def background(self, coroutine: Coroutine[Any, Any, Result]) -> Future[Result]:
        """Start a task on ``loop`` that outlives sessions: it is cancelled when the daemon is closed.

        Otherwise as ``spawn``.
        """
        return self._start(coroutine, None)

    def post(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Run ``function(*arguments)`` in worker 0, or on ``loop`` if it is async; from any thread.

        The future has what it returns or raises; an exception is logged as well. Raises RuntimeError before
        there is a daemon.
        """
        if inspect.iscoroutinefunction(function):
            return self.background(function(*arguments))
        future: Future[Any] = Future()

        def run() -> None:
            with self._life_lock:
                self._posted.discard(future)
            if not future.set_running_or_notify_cancel():
                return
            try:
                outcome = function(*arguments)
            except BaseException as error:
                future.set_exception(error)
                raise
            future.set_result(outcome)

        run.__qualname__ = getattr(function, "__qualname__", repr(function))
        with self._life_lock:
            self._posted.add(future)
        try:
            self.call_later(0, run)
        except BaseException:
            self._posted.discard(future)
            raise
        return future

    # For a REPL and notebooks

    def start(self, path: str | os.PathLike[str], *, mode: int | None = None) -> VhostUserDaemon:
        """Serve this device at ``path`` in threads of this process, and return at once; ``stop`` ends it.

        ``mode`` are the socket's permissions. Gives the daemon. Raises SocketError when the socket cannot be
        made, ValueError or TypeError when the device cannot be served, which may be because it is already.
        """
        from vhost_user.backend.daemon import VhostUserDaemon  # noqa: PLC0415  # most programs use serve()

        with ExitStack() as stack:
            listener = stack.enter_context(Listener.bind(path, mode=mode))
            daemon = VhostUserDaemon(type(self).__name__, self)
            stack.callback(daemon.close)  # before the listener, which it uses
            daemon.start(listener)
            self._serving = (os.fspath(path), stack.pop_all())
        return daemon

    def stop(self) -> None:
        """End what ``start`` began: the session, the workers, the daemon; the socket is removed."""
        serving, self._serving = self._serving, None
        if serving is not None:
            serving[1].close()

    def __repr__(self) -> str:
        daemon = self._daemon
        words = [str(getattr(self, "device_type", "") or "device")]
        if daemon is None:
            words.append("not served")
        else:
            place = f"served at {os.fsdecode(self._serving[0])}" if self._serving is not None else "served"
            words.append(f"{place}, {'a front-end is connected' if daemon.connected else 'nobody connected'}")
            if features := getattr(self, "driver_features", 0):
                words.append(f"features {features:#x}")
            for vring in daemon.vrings:
                role = self.declared_queues.get(vring.index)
                name = f"queue {vring.index}" + (f" ({role.name})" if role is not None else "")
                state = "runs" if vring.runnable else "stopped"
                flight = f", {vring.in_flight} in flight" if vring.in_flight else ""
                words.append(f"{name} {state}{flight}")
        return f"<{type(self).__name__} {'; '.join(words)}>"

    # The framework's part

    _session_tasks: set[asyncio.Task[Any]]
    """Tasks that end with the session."""
    _background_tasks: set[asyncio.Task[Any]]
    """Those that do not: asyncio itself keeps no hold of a task."""
    _session: int
    """Counts sessions and resets: a task that was meant for an earlier one is not begun."""
    _life_lock: threading.Lock
    _posted: set[Future[Any]]
    _set_up: bool
    _serving: tuple[str | bytes, ExitStack] | None

    def _prepare_life(self) -> None:
        self._session_tasks = set()
        self._background_tasks = set()
        self._session = 0
        self._life_lock = threading.Lock()
        self._posted = set()
        self._set_up = False
        self._serving = None

    def _check_life(self) -> None:
        for name in ("setup", "shutdown"):
            if inspect.iscoroutinefunction(getattr(self, name)):
                raise TypeError(f"{type(self).__name__}.{name} is an async function: {PLAIN}")

    def daemon_made(self) -> None:
        """``setup``. What it raises refuses the daemon, with the name of the method in words."""
        try:
            outcome: object = self.setup()  # type: ignore[func-returns-value]  # a decorated one may return a coroutine
            self._plain("setup", outcome)
        except Exception as error:
            self._end_life()
            raise ValueError(
                f"{type(self).__name__}.setup failed: {type(error).__name__}: {error}"
            ) from error
        self._set_up = True

    def driver_ready(self) -> None:
        """``started``; as a task of the session if it is a coroutine."""
        outcome = self.started()
        if inspect.iscoroutine(outcome):
            self.spawn(outcome)
        elif outcome is not None:
            self._plain("started", outcome)

    def driver_gone(self) -> None:
        """Tasks of the session are cancelled."""
        self._end_session_tasks()

    def _start(
        self, coroutine: Coroutine[Any, Any, Result], tasks: set[asyncio.Task[Any]] | None
    ) -> Future[Result]:
        if not inspect.iscoroutine(coroutine):
            raise TypeError(f"{coroutine!r} is not a coroutine: call the async function, as in spawn(run())")
        future: Future[Result] = Future()
        try:
            self._attached()
            self.loop.call_soon_threadsafe(self._begin_task, coroutine, tasks, self._session, future)
        except BaseException:
            coroutine.close()
            raise
        return future

    def _begin_task(
        self,
        coroutine: Coroutine[Any, Any, Any],
        tasks: set[asyncio.Task[Any]] | None,
        session: int,
        future: Future[Any],
    ) -> None:
        # The lock: a session that ends now cancels the task, or has counted on before.
        with self._life_lock:
            if tasks is not None and session != self._session:
                coroutine.close()
                future.cancel()
                return
            task = self.loop.create_task(coroutine, name=_name(coroutine))
            (self._background_tasks if tasks is None else tasks).add(task)
        task.add_done_callback(functools.partial(self._task_ended, future))
        future.add_done_callback(functools.partial(_cancel_with, task))

    def _task_ended(self, future: Future[Any], task: asyncio.Task[Any]) -> None:
        with self._life_lock:
            self._session_tasks.discard(task)
            self._background_tasks.discard(task)
        if task.cancelled():
            future.cancel()
        elif (error := task.exception()) is not None:
            self._log.log(
                logging.ERROR, "%s: the task %s failed: %s",
                type(self).__name__, task.get_name(), error, exception=error,
            )  # fmt: skip
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
        elif future.set_running_or_notify_cancel():
            future.set_result(task.result())

    def _end_session_tasks(self) -> None:
        """The session ended, or the driver reset the device."""
        with self._life_lock:
            self._session += 1
            tasks = list(self._session_tasks)
        if self._loop_thread is not None and tasks:
            self._loop_thread.cancel(tasks, CANCEL_PATIENCE)

    def _end_life(self) -> None:
        """The daemon ended for good, or could not be made."""
        if self._set_up:
            self._set_up = False
            self._workers_ended()
            try:
                outcome: object = self.shutdown()  # type: ignore[func-returns-value]  # as setup
                self._plain("shutdown", outcome)
            except BaseException as error:  # noqa: BLE001  # SystemExit too: the rest of the closing goes on
                self._log.log(
                    logging.ERROR, "%s.shutdown failed: %s", type(self).__name__, error, exception=error
                )
        if self._loop_thread is not None:
            self._loop_thread.close()
            self._loop_thread = None
        self._end_events()
        with self._life_lock:
            posted, self._posted = self._posted, set()
        for future in posted:
            future.cancel()
        self._daemon = None


def _cancel_with(task: asyncio.Task[Any], future: Future[Any]) -> None:
    """Whoever cancels the future means the task."""
    if future.cancelled() and not task.done():
        with contextlib.suppress(RuntimeError):  # the loop is closed: the task is over
            task.get_loop().call_soon_threadsafe(task.cancel)


def _name(coroutine: Coroutine[Any, Any, Any]) -> str:
    return str(getattr(coroutine, "__qualname__", None) or coroutine)
