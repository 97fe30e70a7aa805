"""Threads that use one thing at once, for tests: how many, how often, and from the same moment on."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

THREADS = 3
HAS_GIL: bool = getattr(sys, "_is_gil_enabled", lambda: True)()
ROUNDS = 5 if HAS_GIL else 40
TURNS = 500 if HAS_GIL else 40_000
"""Of what takes a microsecond: with fewer a thread is through before another one has begun."""


def together(*bodies: Callable[[], object]) -> None:
    """Run each in a thread of its own, from the same moment on; the first exception of one is raised here."""
    gate = threading.Barrier(len(bodies))
    problems: list[BaseException] = []

    def run(body: Callable[[], object]) -> None:
        try:
            gate.wait(30)
            body()
        except BaseException as error:  # noqa: BLE001 (raised below)
            problems.append(error)

    threads = [threading.Thread(target=run, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
        assert not thread.is_alive()
    if problems:
        raise problems[0]


@contextmanager
def meanwhile(body: Callable[[], object]) -> Iterator[None]:
    """Repeat ``body`` in a thread of its own while the block runs."""
    stop = threading.Event()
    problems: list[BaseException] = []

    def run() -> None:
        try:
            while not stop.is_set():
                body()
        except BaseException as error:  # noqa: BLE001 (raised below)
            problems.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(90)
    assert not thread.is_alive()
    if problems:
        raise problems[0]
