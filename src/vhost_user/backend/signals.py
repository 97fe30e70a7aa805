"""Signals that end what is served."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stopped_by(
    numbers: Iterable[signal.Signals], stop: Callable[[], object], *, unless_handled: bool = False
) -> Iterator[list[int]]:
    """While this lasts, these signals call ``stop``; the list has those that came.

    Outside of the main thread signals are left alone, with ``unless_handled`` those that the program has a
    handler for, or ignores, as well.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return

    def handler(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        stop()

    before = {}
    for number in numbers:
        if not unless_handled or signal.getsignal(number) == signal.SIG_DFL:
            before[number] = signal.signal(number, handler)
    try:
        yield came
    finally:
        for number, old in before.items():
            signal.signal(number, old if old is not None else signal.SIG_DFL)
