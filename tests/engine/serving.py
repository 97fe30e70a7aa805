"""A worker in a thread of its own, for tests."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.engine.pair import Pair
from vhost_user.engine.device.request import Request
from vhost_user.engine.device.vring import Vring
from vhost_user.engine.device.worker import Worker

PATIENCE = 20.0
"""Seconds until a test gives up; nothing here takes a second."""


def echo(request: Request) -> None:
    request.write(request.read())


def serve(*vrings: Vring) -> Callable[[int, int], None]:
    def dispatch(event: int, _events: int) -> None:
        vrings[event].process(echo)

    return dispatch


@contextmanager
def running(
    *pairs: Pair,
    dispatch: Callable[[int, int], object] | None = None,
    poll_microseconds: int = 0,
    first: int = 16,
    crowded: bool = False,
) -> Iterator[Worker]:
    """A worker in a thread of its own, which must end when told to."""
    vrings = [pair.vring for pair in pairs]
    worker = Worker(vrings, first_listener_id=first, poll_microseconds=poll_microseconds, crowded=crowded)
    problems: list[BaseException] = []

    def run() -> None:
        try:
            worker.run(dispatch or serve(*vrings))
        except BaseException as error:  # noqa: BLE001 (reported below)
            problems.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        for vring in vrings:
            worker.update(vring)
        yield worker
    finally:
        worker.stop()
        thread.join(PATIENCE)
        alive = thread.is_alive()
        for vring in vrings:
            worker.remove(vring)
        worker.close()
        assert not alive
        assert problems == []


def round_trip(pair: Pair, kick: bool = True, pipe: int | None = None) -> None:
    """A request and its answer; the device is told by eventfd, by a pipe, or not at all."""
    token = pair.add([b"ping"], [4])
    if pipe is not None:
        os.write(pipe, b"12345678")
    elif kick:
        pair.queue.kick()
    assert pair.queue.wait(PATIENCE), pair.queue.describe()
    assert pair.queue.poll() == (token, 4)


def complete_one(pair: Pair) -> int:
    """One request through the ring; how often the device signalled."""
    pair.serve([b"x"]).complete()
    assert pair.queue.poll() is not None
    return pair.queue.call_count()
