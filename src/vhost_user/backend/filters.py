"""Filters: what stands between the driver and a device's handler, for every request.

    @Blk.filter                                    # for every disk
    async def flaky(request, next):
        await asyncio.sleep(0.005)
        await next(request)

    disk.add_filter(count)                         # for this one

A filter calls ``next(request)``, before or after something else, or not at all: then the request is answered
with what the filter wrote. Those that were added first see a request first.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from vhost_user.engine.device.batch import Batch

if TYPE_CHECKING:
    from vhost_user.engine.device.request import Request

Next: TypeAlias = Callable[["Request"], Any]
"""What comes after a filter: call it with the request, and await what it gives where the filter is async."""
Filter: TypeAlias = Callable[["Request", Next], object]
"""A function, or an async one, of a request and what comes next."""
FilterFunction = TypeVar("FilterFunction", bound="Callable[..., object]")

KEPT = object()
"""What a passage gives when the handler holds its request, and completes it some other time."""


def checked(function: Any) -> Any:
    """A filter, if it can be one. TypeError says what is wrong."""
    if not callable(function):
        raise TypeError(f"{function!r} is not a filter: give a function of a request and the next handler")
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        raise TypeError(
            f"{getattr(function, '__qualname__', function)} is not a filter: it must take a request and the "
            "next handler, as in `def f(request, next): next(request)`"
        ) from None
    except ValueError:
        pass  # a callable that does not tell its signature
    return function


class Filtered:
    """A handler behind filters. ``mistake`` tells in words what is wrong with a value that a handler gave."""

    def __init__(
        self,
        filters: Sequence[Filter],
        handle: Callable[[Any], object],
        mistake: Callable[[object, int], str],
        *,
        batches: bool,
    ) -> None:
        self.filters = tuple(filters)
        self.handle = handle
        self.mistake = mistake
        self.batches = batches
        self.is_async = any(map(_is_async, (*filters, handle)))
        """Requests pass on the loop: a filter is a coroutine, or the handler is."""
        names = [getattr(function, "__qualname__", repr(function)) for function in (*filters, handle)]
        self.__qualname__ = " → ".join(names)

    def __call__(self, request: Request) -> object:
        """Let a request pass where nothing is async."""
        return _Passage(self).step(0, request)

    def on_the_loop(self) -> Callable[[Request], Awaitable[object]]:
        """What lets requests pass on the loop.

        The framework holds a request meanwhile, and completes it then, unless this gives KEPT.
        """

        async def carry(request: Request) -> object:
            passage = _Passage(self)
            outcome = passage.step(0, request)
            if inspect.isawaitable(outcome):
                outcome = await outcome
            return KEPT if outcome is None and passage.kept else outcome

        carry.__qualname__ = self.__qualname__  # for the warning that one does not end
        return carry


class _Passage:
    """One request on its way."""

    __slots__ = ("filtered", "kept")

    def __init__(self, filtered: Filtered) -> None:
        self.filtered = filtered
        self.kept = False
        """A plain handler held the request, beyond the hold that the framework has."""

    def step(self, position: int, request: Request) -> object:
        """Go on with the filter at this position, or with the handler: None, or what is to be awaited."""
        if position == len(self.filtered.filters):
            return self.handle(request)
        function = self.filtered.filters[position]
        if _is_async(function):
            return function(request, lambda request: self.awaited(position + 1, request))
        pending: list[Awaitable[object]] = []

        def follow(request: Request) -> object:
            outcome = self.step(position + 1, request)
            if inspect.isawaitable(outcome):
                pending.append(outcome)
            return outcome

        try:
            outcome = function(request, follow)
        except BaseException:
            _drop(pending)
            raise
        if outcome is None and pending:
            # A plain filter cannot await what comes after it: that is done for it.
            return pending[0] if len(pending) == 1 else _one_by_one(pending)
        return outcome

    async def awaited(self, position: int, request: Request) -> object:
        """What an async filter gets to await, whatever comes next."""
        outcome = self.step(position, request)
        return await outcome if inspect.isawaitable(outcome) else outcome

    def handle(self, request: Request) -> object:
        """At the end of the way: the device's own handler."""
        filtered = self.filtered
        held = request.holds
        if filtered.batches:
            batch = Batch([request])
            outcome = filtered.handle(batch)
        else:
            outcome = filtered.handle(request)
        if inspect.isawaitable(outcome):
            return self.ending(outcome, request)
        if outcome is not None:
            raise TypeError(filtered.mistake(outcome, request.queue))
        self.kept = request.holds > held
        _raise_error_of(request)
        return None

    async def ending(self, outcome: Awaitable[object], request: Request) -> None:
        """The same for a coroutine."""
        returned = await outcome
        if returned is not None:
            raise TypeError(self.filtered.mistake(returned, request.queue))
        _raise_error_of(request)


def _raise_error_of(request: Request) -> None:
    """What a call for a batch left with the request is an exception for whoever filters it."""
    if not request.completed and request.error is not None:
        raise request.error


def _is_async(function: object) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004  # an object whose call is async
    )


async def _one_by_one(pending: Sequence[Awaitable[object]]) -> None:
    for each in pending:
        await each


def _drop(pending: Sequence[Awaitable[object]]) -> None:
    """Spare the author a second complaint, "was never awaited"."""
    for each in pending:
        if inspect.iscoroutine(each):
            each.close()
