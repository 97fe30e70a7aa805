"""Control and data plane at the same time, and several threads on one ring: C074, C134, H23, H51, V023."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import pytest

from tests.engine.pair import MakePair, Pair, device_region
from vhost_user.engine.device.request import Request
from vhost_user.engine.driver.memory import DriverRegion
from vhost_user.engine.errors import RequestError


@pytest.mark.parametrize("in_order", [False, True])
def test_C074_everything_may_change_while_requests_flow(make_pair: MakePair, in_order: bool) -> None:
    """One thread serves, one drives, this one changes everything all the time: nobody waits for ever."""
    pair = make_pair(64, in_order=in_order)
    spare = device_region(DriverRegion(4096, guest_address=1 << 40))
    more = pair.guest.with_region(spare)
    stop = threading.Event()
    problems: list[BaseException] = []
    counts = {"served": 0, "returned": 0, "sent": 0}

    def guarded(body: Callable[[], object]) -> threading.Thread:
        def run() -> None:
            try:
                while not stop.is_set():
                    body()
            except BaseException as error:  # noqa: BLE001 (reported by the test)
                problems.append(error)

        return threading.Thread(target=run)

    def handler(request: Request) -> None:
        request.write(request.read())
        if counts["served"] % 3 == 0:
            request.complete()
        counts["served"] += 1

    place = pair.buffer(64)

    def drive() -> None:
        while pair.queue.free_slots >= 2 and pair.queue.outstanding < 32:
            pair.queue.add([place], [place])
            counts["sent"] += 1
        pair.queue.publish()
        counts["returned"] += len(pair.queue.poll_many())

    threads = [guarded(lambda: pair.vring.process(handler)), guarded(drive)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 0.4
    turns = 0
    # On a busy machine the other two may keep the GIL to themselves for most of that.
    while (time.monotonic() < deadline or turns <= 10 or counts["sent"] <= 100) and not problems:
        pair.vring.set_memory(more if turns % 2 else pair.guest)
        if turns % 7 == 0:
            pair.vring.set_memory(None)
            pair.vring.set_memory(pair.guest)
        pair.vring.set_call(os.dup(pair.queue.call_fd))
        pair.vring.set_kick(os.dup(pair.queue.kick_fd))
        pair.set_addresses()
        pair.vring.set_enabled(turns % 5 != 0)
        pair.vring.base()
        pair.vring.statistics()
        turns += 1
    pair.vring.set_memory(pair.guest)
    pair.vring.set_enabled(True)
    stop.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert problems == []
    pair.vring.process(handler)
    counts["returned"] += len(pair.queue.poll_many())
    assert counts["returned"] == counts["sent"]
    assert (pair.vring.in_flight, pair.vring.broken) == (0, None)
    assert turns > 10
    assert counts["sent"] > 100


def test_C134_H23_H51_sessions_end_while_requests_flow(make_pair: MakePair) -> None:
    """Reset under a thread that processes: what it still handles gets C134, nothing else happens."""
    for _ in range(30):
        pair = make_pair(64)
        place = pair.buffer(64)
        for _ in range(30):
            pair.queue.add([place], [place])
        pair.queue.publish()
        begun = threading.Event()
        errors: list[BaseException] = []

        def handler(request: Request, begun: threading.Event = begun) -> None:
            begun.set()
            request.write(request.read())

        def on_error(_request: Request, error: BaseException, errors: list[BaseException] = errors) -> None:
            errors.append(error)

        def serve(pair: Pair = pair, on_error: Callable[..., None] = on_error) -> None:
            pair.vring.process(handler, on_error)

        thread = threading.Thread(target=serve)
        thread.start()
        begun.wait()
        pair.vring.reset()
        pair.guest.close()
        thread.join(30)
        assert not thread.is_alive()
        assert all(isinstance(error, RequestError) for error in errors)


def test_pop_from_several_threads_gives_each_request_to_one(make_pair: MakePair) -> None:
    pair = make_pair(256)
    place = pair.buffer(4)
    for _ in range(10):
        tokens = [pair.queue.add([place]) for _ in range(200)]
        pair.queue.publish()
        heads: list[int] = []
        barrier = threading.Barrier(4)

        def take(barrier: threading.Barrier = barrier, heads: list[int] = heads) -> None:
            barrier.wait()
            while (request := pair.vring.pop()) is not None:
                heads.append(request.head)
                request.complete()

        threads = [threading.Thread(target=take) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(heads) == 200
        assert sorted(token for token, _ in pair.queue.poll_many()) == sorted(tokens)
        assert pair.vring.in_flight == 0
