"""How requests get to a device: one by one, in batches, or as coroutines on a loop of the device's own."""

from __future__ import annotations

import contextlib
import errno
import functools
import inspect
import logging
import reprlib
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from vhost_user.backend.config_space import ConfigSpace
from vhost_user.backend.filters import KEPT, Filter, Filtered, FilterFunction, checked
from vhost_user.backend.refuse import Refuse
from vhost_user.engine.device.request import Request
from vhost_user.protocol.limited_log import LimitedLog

if TYPE_CHECKING:
    import asyncio

    from vhost_user.backend.backend import ServedBy
    from vhost_user.backend.event_loop import EventLoopThread
    from vhost_user.engine.device.batch import Batch
    from vhost_user.engine.device.vring import Vring

log = logging.getLogger("vhost_user.device")

CANCEL_PATIENCE = 1.0
"""Seconds that cancelled coroutines have to end when a session ends."""


class RequestHandling(ConfigSpace):
    """The part of a device that carries requests out: what it overrides, and who calls that."""

    batch_size: int = 16
    """The most requests that ``handle_batch`` gets at once, 1 to 64.

    A driver that keeps 32 requests going is at work on 16 of them while the device is at the others; larger
    batches pay where a call for many is what they are for (``sendmmsg``), or the driver keeps more going.
    """

    # What a device overrides

    def handle(self, request: Request) -> object:
        """Carry one request out. May be ``async def``, or return a coroutine.

        Returning completes the request with what was written, unless ``request.hold()`` was called: then
        somebody calls ``request.complete()`` later, from any thread. A coroutine holds its request until it
        ends. Return nothing: a value goes nowhere, so it fails the request. An exception is logged and goes
        to ``fail``; the device goes on.
        """
        raise NotImplementedError(f"{type(self).__name__} must define handle(request)")

    def handle_batch(self, requests: Batch) -> object:
        """Override instead of ``handle`` to get the requests that are there at once, up to ``batch_size``.

        ``requests`` is a list that has the operations of a request for all of them (see :class:`Batch`).
        May be ``async def``. Completed as for ``handle``; an exception counts for every request that is not
        completed or held.
        """
        raise NotImplementedError(f"{type(self).__name__} must define handle_batch(requests)")

    def fail(self, request: Request, exception: BaseException) -> None:
        """Give back a request that failed, the way this device type reports errors.

        Default: with nothing written.
        """
        del exception
        request.complete(0)

    def interrupted(self, request: Request) -> bool | None:
        """``request`` was under way when the back-end was killed; called where ``rerun`` is False.

        Return True to have it handled after all, from the beginning. Default: it fails, with
        ``Refuse(errno.EINTR)``.
        """
        self.fail(request, Refuse(errno.EINTR, "the back-end ended while this request was carried out"))
        return None

    def queue_event(self, vring: Vring) -> object:
        """A queue has work or began to run. Default: its requests go to ``handle``.

        Override for queues whose buffers wait for something to happen (a receive queue); ``vring.index``
        tells which. Called in the worker, which does not wait for a coroutine.
        """
        return self._process(vring)

    # Filters

    class_filters: ClassVar[tuple[Filter, ...]] = ()
    """Those of the class itself; those of its bases come before."""

    @classmethod
    def filter(cls, function: FilterFunction) -> FilterFunction:
        """Decorate a filter for all devices of this class: it sees each of their requests before the handler.

        ``async def f(request, next)`` awaits ``next(request)``, ``def f(request, next)`` calls it; what the
        handler raises comes out of it. Filters stack, and the one that was added first is the outermost.
        With an async one, requests are carried out on ``loop``, a plain handler too. A compiled fast path is
        off while there is a filter. Requests that a device takes from a vring by itself, and the buffers of
        a ``BufferQueue``, pass none. Counts for daemons that are made afterwards. Raises TypeError for what
        cannot be a filter.
        """
        cls.class_filters = (*vars(cls).get("class_filters", ()), checked(function))
        return function

    def add_filter(self, function: Filter) -> None:
        """Add a filter for this device alone, behind those of its class (see ``filter``).

        RuntimeError once there is a daemon: requests may be under way on another path.
        """
        if self._daemon is not None:
            raise RuntimeError(
                f"this {type(self).__name__} is served already: add filters before the daemon is made"
            )
        self._filters = (*self._filters, checked(function))

    @property
    def filters(self) -> tuple[Filter, ...]:
        """All filters of this device, the outermost first."""
        found: list[Filter] = []
        for kind in reversed(type(self).__mro__):
            found += vars(kind).get("class_filters", ())
        return (*found, *self._filters)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The device's asyncio loop; it has a thread of its own, which starts at the first use.

        Coroutines of requests end with their session. Tasks that you start on the loop go on until ``close``.
        """
        thread = self._loop_thread
        if thread is None:
            from vhost_user.backend.event_loop import (  # noqa: PLC0415  # asyncio is a third of the start-up
                EventLoopThread,
            )

            with self._loop_lock:
                thread = self._loop_thread
                if thread is None:
                    thread = self._loop_thread = EventLoopThread(f"{type(self).__name__}-asyncio")
        return thread.loop

    # The rest is the framework's

    _daemon: ServedBy | None
    _loop_thread: EventLoopThread | None
    _loop_lock: threading.Lock
    """Two threads that are the first to use the loop get the same one."""
    _tasks: dict[asyncio.Task[None], int]
    """Coroutines of requests of this session, with their queues; the loop's other users have others."""
    _log: LimitedLog
    _filters: tuple[Filter, ...]
    _process: Callable[[Vring], object]
    """What brings requests to ``handle``, or whatever the class has instead."""

    def _prepare_handling(self) -> None:
        self._daemon = None
        self._loop_thread = None
        self._loop_lock = threading.Lock()
        self._tasks = {}
        self._filters = ()
        self._log = LimitedLog(log)

    def _choose_handling(self, vrings: Sequence[Vring], *, handles_events: bool) -> None:
        """Choose how requests get to this device. TypeError when they cannot, or nobody would wait for it."""
        kind = type(self)
        for name in ("fail", "queue_event", "reset"):
            if inspect.iscoroutinefunction(getattr(self, name)):
                raise TypeError(f"{kind.__name__}.{name} is an async function: {PLAIN}")
        if self._overridden("handle_batch"):
            self._process = self._processing(self.handle_batch, batches=True)
        elif self._overridden("handle"):
            self._process = self._processing(self.handle)
        elif not self._overridden("queue_event") and not handles_events:
            raise TypeError(
                f"class {kind.__name__} defines neither handle(request) nor handle_batch(requests) "
                "nor queue_event(vring)"
            )
        for vring in vrings:
            vring.set_outcome(self._handler_returned)

    def _overridden(self, name: str) -> bool:
        """By the class, or by an attribute of the object (a functools.partial, say)."""
        return getattr(type(self), name) is not getattr(RequestHandling, name) or name in vars(self)

    def _processing(
        self, handle: Callable[[Any], object], *, batches: bool = False
    ) -> Callable[[Vring], object]:
        """What brings the requests of a queue to this handler."""
        failed = self._failed
        if filters := self.filters:
            filtered = Filtered(filters, handle, self._mistake, batches=batches)
            if not filtered.is_async:
                return lambda vring: vring.process(filtered, failed)
            handle, batches = filtered.on_the_loop(), False
        if batches:
            return lambda vring: vring.process_batch(handle, failed, size=self.batch_size)
        if inspect.iscoroutinefunction(handle):
            # The coroutines are made on their loop: a batch costs one call to get there.
            hand_over = functools.partial(self._hand_over, handle)
            return lambda vring: vring.process_batch(hand_over, failed)
        return lambda vring: vring.process(handle, failed)

    def _plain(self, name: str, outcome: object) -> None:
        """TypeError if a method that nobody awaits returned a coroutine, as a decorator can make it do."""
        if inspect.isawaitable(outcome):
            _close(outcome)
            raise TypeError(f"{type(self).__name__}.{name} returned a coroutine: {PLAIN}")

    # Coroutines

    def _handler_returned(self, target: Request | Batch, outcome: object) -> None:
        """A handler returned something: a coroutine is awaited on the loop, anything else is a mistake."""
        if not inspect.isawaitable(outcome):
            first = target if isinstance(target, Request) else next(iter(target), None)
            raise TypeError(self._mistake(outcome, -1 if first is None else first.queue))
        requests = [target] if isinstance(target, Request) else list(target)
        for request in requests:
            request.hold()
        try:
            self.loop.call_soon_threadsafe(self._start_coroutine, requests, outcome)
        except RuntimeError:  # the loop is closed
            _close(outcome)
            raise

    def _hand_over(self, handle: Callable[[Any], Awaitable[object]], requests: Batch) -> None:
        for request in requests:
            request.hold()
        self.loop.call_soon_threadsafe(self._start_coroutines, handle, list(requests))

    def _start_coroutines(self, handle: Callable[[Any], Awaitable[object]], requests: list[Request]) -> None:
        name = getattr(handle, "__qualname__", "handle")  # for the warning that one does not end
        for request in requests:
            if request.alive:
                self._start_task(
                    self._carry_out([request], functools.partial(handle, request)), name, request
                )

    def _start_coroutine(self, requests: list[Request], outcome: Awaitable[object]) -> None:
        if any(request.alive for request in requests):
            name = getattr(outcome, "__qualname__", "a coroutine of handle")
            self._start_task(self._carry_out(requests, lambda: outcome), name, requests[0])
        else:  # their session ended before the loop came to them
            _close(outcome)

    def _start_task(self, coroutine: Coroutine[Any, Any, None], name: str, request: Request) -> None:
        task = self.loop.create_task(coroutine, name=name)
        self._tasks[task] = request.queue
        task.add_done_callback(self._forget_task)

    def _forget_task(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)

    async def _carry_out(self, requests: list[Request], begin: Callable[[], Awaitable[object]]) -> None:
        """Await what the handler returns; the requests end with it."""
        import asyncio  # noqa: PLC0415  # loaded already where there are coroutines; see loop

        try:
            returned = await begin()
            if returned is KEPT:
                return
            if returned is not None:
                raise TypeError(self._mistake(returned, requests[0].queue))  # noqa: TRY301  # as if it came out of it
            for request in requests:
                if not request.completed:
                    if request.error is not None:
                        self._failed_apart(request, request.error)
                    else:
                        request.complete()
        except asyncio.CancelledError as cancelled:
            for request in requests:
                if not request.completed:
                    with contextlib.suppress(Exception):
                        self.fail(request, cancelled)
            raise
        except BaseException as error:  # noqa: BLE001  # SystemExit too: it belongs to these requests
            for request in requests:
                self._failed_apart(request, error)
        finally:
            if self._daemon is not None:
                self._daemon.check_memory()

    def _cancel_coroutines(self) -> None:
        if self._loop_thread is not None:
            self._loop_thread.cancel(list(self._tasks), CANCEL_PATIENCE)

    def _cancel_requests(self, queue: int) -> None:
        """Cancel the coroutines of one queue: each sees that as an exception, and its request fails."""
        if self._loop_thread is not None:
            self._loop_thread.loop.call_soon_threadsafe(self._cancel_tasks, queue)

    def _cancel_tasks(self, queue: int) -> None:
        for task, of_queue in list(self._tasks.items()):
            if of_queue == queue:
                task.cancel()

    # Failures

    def _mistake(self, outcome: object, queue: int) -> str:
        who = f"{type(self).__name__}: the handler of queue {queue}"
        if inspect.isgenerator(outcome) or inspect.isasyncgen(outcome):
            return f"{who} contains a yield, so that calling it does nothing: use `async def` and `await`"
        return (
            f"{who} returned {reprlib.repr(outcome)}, which goes nowhere: give the guest bytes with "
            "request.write(…), and return nothing"
        )

    def _failed(self, request: Request, exception: BaseException) -> None:
        if isinstance(exception, Refuse):  # an answer, not a fault
            log.debug(
                "%s: a request of queue %d (head %d) is refused: %s",
                type(self).__name__, request.queue, request.head, exception,
            )  # fmt: skip
        else:
            self._log.log(
                logging.ERROR,
                "%s: a request of queue %d (head %d) failed: %s",
                type(self).__name__, request.queue, request.head, exception,
                exception=exception,
            )  # fmt: skip
        if not request.completed:
            outcome: object = self.fail(request, exception)  # type: ignore[func-returns-value]  # it may be a coroutine
            self._plain("fail", outcome)

    def _failed_apart(self, request: Request, exception: BaseException) -> None:
        """The same where no worker stands by to complete what ``fail`` leaves."""
        try:
            self._failed(request, exception)
        except Exception as error:  # noqa: BLE001  # a mistake in fail() is not to leave the guest waiting
            self._log.log(
                logging.ERROR, "%s: fail() raised for queue %d, head %d: %s",
                type(self).__name__, request.queue, request.head, error, exception=error,
            )  # fmt: skip
            if not request.completed:
                request.complete(0)


PLAIN = (
    "nobody awaits it, so make it a plain function; asyncio.run_coroutine_threadsafe(…, self.loop) starts a "
    "coroutine from there"
)
"""What to do about a coroutine where none is awaited."""


def _close(outcome: object) -> None:
    """Spare the author a second complaint, "was never awaited"."""
    if inspect.iscoroutine(outcome):
        outcome.close()
