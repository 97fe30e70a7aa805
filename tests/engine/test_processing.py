"""The batch loop: process and process_batch; held, dropped and recycled requests; V037, H49, H82."""

from __future__ import annotations

import gc
import os
import threading
import weakref

import pytest

from tests.engine.pair import WRITE, D, MakePair, fill_ring
from vhost_user.engine.device.header import Header
from vhost_user.engine.device.request import Request
from vhost_user.engine.device.vring import Vring
from vhost_user.engine.errors import RequestError
from vhost_user.engine.memory.mapping import live_mappings


def test_every_request_is_handled_and_completed_once(make_pair: MakePair) -> None:
    pair = make_pair(512)
    tokens = fill_ring(pair, 200)
    seen = []

    def handler(request: Request) -> None:
        seen.append(request.read())
        request.write(b"answer")

    assert pair.vring.process(handler) == 200
    assert seen == [b"%04d" % number for number in range(200)]
    assert pair.queue.poll_many() == [(token, 6) for token in tokens]
    assert pair.vring.process(handler) == 0
    assert pair.vring.statistics()["requests"] == 200


def test_process_batch_hands_out_batches(make_pair: MakePair) -> None:
    pair = make_pair(512)
    fill_ring(pair, 150)
    batches: list[int] = []

    def handler(requests: list[Request]) -> None:
        batches.append(len(requests))
        for request in requests:
            request.write(request.read() * 2)

    assert pair.vring.process_batch(handler) == 150
    assert sum(batches) == 150
    assert len(batches) < 10
    assert all(length == 8 for _, length in pair.queue.poll_many())


def test_process_batch_calls_nobody_for_an_empty_ring(make_pair: MakePair) -> None:
    pair = make_pair()
    assert pair.vring.process_batch(lambda _requests: pytest.fail("called")) == 0


@pytest.mark.parametrize("budget", [0, 1, 10, 64, 65])
def test_H82_the_budget_bounds_one_turn(make_pair: MakePair, budget: int) -> None:
    pair = make_pair(256)
    fill_ring(pair, 100)
    assert pair.vring.process(lambda _request: None, None, budget) == min(budget, 100)
    assert pair.vring.process_batch(lambda _requests: None, None, budget) == min(
        budget, 100 - min(budget, 100)
    )


def test_H82_a_guest_that_refills_the_ring_does_not_keep_the_worker(make_pair: MakePair) -> None:
    pair = make_pair(8)

    def handler(request: Request) -> None:
        request.complete()
        pair.queue.poll_many()
        pair.add([b"more"])

    pair.add([b"first"])
    assert pair.vring.process(handler, None, 300) == 300


def test_a_held_request_is_completed_later(make_pair: MakePair) -> None:
    pair = make_pair()
    token = pair.add([b"x"], [4])
    held: list[Request] = []

    def handler(request: Request) -> None:
        request.hold()
        held.append(request)

    pair.vring.process(handler)
    assert pair.vring.in_flight == 1
    assert pair.queue.poll() is None
    held[0].write(b"late")
    held[0].complete()
    assert pair.queue.poll() == (token, 4)


def test_held_requests_stay_what_they_were(make_pair: MakePair) -> None:
    """Requests are recycled, but never one that somebody still refers to."""
    pair = make_pair(64)
    held: list[Request] = []
    remembered: list[Request] = []

    def handler(request: Request) -> None:
        if request.read(4) in (b"0003", b"0007"):
            request.hold()
            held.append(request)
        elif len(remembered) < 20:
            remembered.append(request)

    for _ in range(10):
        tokens = fill_ring(pair, 12)
        pair.vring.process(handler)
        used = dict(pair.queue.poll_many())
        assert len(used) == 10
        for request in held:
            assert (request.readable_total, request.writable, request.alive) == (4, 8, True)
            request.write(b"done")
            request.complete()
        assert len(pair.queue.poll_many()) == 2
        assert set(tokens) >= set(used)
        held.clear()
    assert all(request.completed for request in remembered)
    for request in remembered:
        with pytest.raises(RequestError):
            request.read()
    assert len({id(request) for request in remembered}) == 20


def test_recycled_requests_come_as_new(make_pair: MakePair) -> None:
    pair = make_pair()
    identities: set[int] = set()

    def handler(request: Request) -> None:
        identities.add(id(request))
        assert (request.user_data, request.written, request.held, request.completed) == (
            None,
            0,
            False,
            False,
        )
        assert request.writable == 8
        request.user_data = "mine"
        request.hold() if len(identities) > 1000 else None
        request.skip_writable(1)
        request.write_last(b"x")

    for _ in range(200):
        fill_ring(pair, 1)
        pair.vring.process(handler)
        assert pair.queue.poll() is not None
    assert len(identities) < 10  # else nothing is recycled and this test says nothing


def test_H49_a_request_held_and_dropped_goes_back(make_pair: MakePair) -> None:
    pair = make_pair()
    tokens = fill_ring(pair, 3)
    pair.vring.process(lambda request: request.hold())
    gc.collect()
    assert sorted(pair.queue.poll_many()) == [(token, 0) for token in sorted(tokens)]
    assert pair.vring.in_flight == 0
    assert pair.vring.statistics()["dropped"] == 3


def test_one_thread_at_a_time_processes(make_pair: MakePair) -> None:
    pair = make_pair()
    fill_ring(pair, 2)
    taken: list[int] = []
    thread_took: list[int] = []

    def handler(_request: Request) -> None:
        taken.append(pair.vring.process(handler))
        thread = threading.Thread(target=lambda: thread_took.append(pair.vring.process(handler)))
        thread.start()
        thread.join()

    assert pair.vring.process(handler) == 2
    assert taken == [0, 0]
    assert thread_took == [0, 0]


def test_pop_inside_of_process_takes_the_following_one(make_pair: MakePair) -> None:
    pair = make_pair(8)
    tokens = fill_ring(pair, 1)
    popped: list[bytes] = []

    def handler(_request: Request) -> None:
        tokens.append(pair.add([b"next"]))
        request = pair.take()
        popped.append(request.read())
        request.complete()

    assert pair.vring.process(handler) == 1
    assert popped == [b"next"]
    assert sorted(token for token, _ in pair.queue.poll_many()) == sorted(tokens)
    assert pair.vring.in_flight == 0


def test_the_header_follows_the_queue(make_pair: MakePair) -> None:
    pair = make_pair()
    pair.vring.set_header(Header("<HH"))
    seen: list[object] = []
    for layout in ("<HH", "<I", None):
        pair.vring.set_header(None if layout is None else Header(layout))
        fill_ring(pair, 1)
        pair.vring.process(
            lambda request: seen.append(request.header), lambda _request, error: seen.append(error)
        )
    assert seen[:2] == [(0x3030, 0x3030), (0x30303030,)]
    assert isinstance(seen[2], RequestError)


def test_V037_a_ring_that_breaks_in_a_batch_hands_out_what_came_before(make_pair: MakePair) -> None:
    pair = make_pair()
    pair.offer(D(*pair.buffer(b"good")), head=0)
    pair.offer(D(*pair.buffer(1), WRITE), D(*pair.buffer(1)), head=1)
    seen: list[bytes] = []
    assert pair.vring.process(lambda request: seen.append(request.read())) == 1
    assert seen == [b"good"]
    assert [error.rule for error in pair.errors] == ["V006"]
    assert pair.vring.broken is pair.errors[0]
    assert pair.queue.call_count() >= 1


def test_V037_a_broken_ring_is_logged_when_nobody_listens(
    make_pair: MakePair, caplog: pytest.LogCaptureFixture
) -> None:
    pair = make_pair()
    pair.vring.reset()
    from vhost_user.engine.device.vring import Vring

    other = make_pair(start=False)
    vring = Vring(5, 256)
    vring.set_features(packed=other.packed, event_idx=False, in_order=False)
    vring.set_size(8)
    vring.set_memory(other.guest)
    vring.set_addresses(
        descriptor=other.queue.descriptor_address,
        driver=other.queue.driver_address,
        device=other.queue.device_address,
    )
    vring.set_base(other.queue.base)
    vring.start()
    vring.set_enabled(True)
    other.offer(D(*other.buffer(1), WRITE), D(*other.buffer(1)))
    assert vring.process(lambda _request: None) == 0
    vring.reset()
    assert "queue 5" in caplog.text
    assert "V006" in caplog.text


@pytest.mark.parametrize("state", ["stopped", "disabled", "suspended", "unmapped"])
def test_C049_C061_a_ring_that_does_not_run_hands_out_nothing(make_pair: MakePair, state: str) -> None:
    pair = make_pair()
    fill_ring(pair, 1)
    if state == "stopped":
        pair.vring.stop()
    elif state == "disabled":
        pair.vring.set_enabled(False)
    elif state == "suspended":
        pair.vring.set_suspended(True)
    else:
        pair.vring.set_memory(None)
    assert not pair.runs()
    assert pair.vring.pop() is None
    assert pair.vring.process(lambda _request: pytest.fail("called")) == 0
    if state == "stopped":
        pair.vring.start()
    pair.vring.set_enabled(True)
    pair.vring.set_suspended(False)
    pair.vring.set_memory(pair.guest)
    assert pair.runs()
    assert pair.vring.process(lambda _request: None) == 1


def test_a_vring_in_a_cycle_with_its_held_requests_is_collected(make_pair: MakePair) -> None:
    """The garbage collector may take the vring apart before the requests that go back to it."""
    mappings = live_mappings()

    class Device:
        def __init__(self) -> None:
            self.pair = make_pair(start=False, on_broken=self.on_broken)
            self.pending: list[Request] = []

        def on_broken(self, *_: object) -> None:
            pass

    for _ in range(5):
        device = Device()
        pair = device.pair
        pair.start()
        for _ in range(3):
            request = pair.serve([b"x"], [4])
            request.hold()
            device.pending.append(request)
            request.user_data = device
        del request
        gone = weakref.ref(device)
        # The pair itself is kept by the fixture: cut it off, so that only the cycle is left.
        vring = pair.vring
        del pair.vring
        pair.__dict__["vring"] = make_pair(start=False).vring
        del device, pair, vring
        gc.collect()
        assert gone() is None
    assert live_mappings() >= mappings


@pytest.mark.parametrize("place", ["on_missing", "set_outcome", "set_interrupted"])
def test_a_vring_and_what_it_was_given_end_together(place: str) -> None:
    """The callback refers to its vring through nothing else that the garbage collector could take apart."""
    vring = Vring(0, 16)
    # A weak reference would tell only that the collector has found them.
    call = os.eventfd(0)
    vring.set_call(call)
    callback = (vring,).index  # of a tuple, which the collector does not take apart; never called
    if place == "on_missing":
        vring.translation.on_missing = callback
    elif place == "set_outcome":
        vring.set_outcome(callback)
    else:
        vring.recovery.set_interrupted(callback)
    del vring, callback
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(call)
