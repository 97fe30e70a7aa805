"""A ring through its life with requests in flight: C040, C041, C044, C053 to C055, C060, C134, H23, H51."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path

import pytest

from tests.engine.pair import MakePair, Pair, mapped
from vhost_user.engine.device.request import Request
from vhost_user.engine.device.vring import Vring, VringMutex, VringRwLock
from vhost_user.engine.driver.memory import DriverRegion
from vhost_user.engine.errors import RequestError
from vhost_user.engine.memory.guest_memory import GuestMemory
from vhost_user.engine.memory.mapping import live_mappings

BASE = 0x1000_0000


def two_regions(make_pair: MakePair) -> tuple[Pair, DriverRegion]:
    """The ring and the first buffers lie in the first region; the second is spare."""
    first = DriverRegion(1 << 20, guest_address=BASE)
    second = DriverRegion(1 << 20, guest_address=BASE + (1 << 20))
    return make_pair(regions=[first, second]), second


def test_C044_a_ring_pauses_while_its_memory_is_away(make_pair: MakePair) -> None:
    pair = make_pair()
    pair.add([b"x"])
    pair.vring.set_memory(GuestMemory())
    assert not pair.is_mapped()
    assert not pair.runs()
    assert pair.vring.started
    assert pair.vring.pop() is None
    pair.vring.set_memory(pair.guest)
    assert pair.is_mapped()
    assert pair.take().read() == b"x"


def test_C044_completions_wait_for_the_memory_and_are_seen_when_it_is_back(make_pair: MakePair) -> None:
    pair = make_pair()
    tokens = [pair.add([b"x"], [4]) for _ in range(3)]
    requests = [pair.take() for _ in range(3)]
    before = pair.memory.read(pair.queue.device_address, 4)
    pair.vring.set_memory(None)
    requests[2].complete(2)
    requests[0].complete(0)
    assert pair.vring.in_flight == 1
    assert pair.queue.poll() is None
    assert pair.memory.read(pair.queue.device_address, 4) == before
    pair.queue.call_count()
    pair.vring.set_memory(mapped(pair.memory))
    assert pair.queue.poll_many() == [(tokens[2], 2), (tokens[0], 0)]
    assert pair.queue.call_count() == 1
    requests[1].complete()
    assert pair.queue.poll() == (tokens[1], 0)


def test_C044_a_region_that_left_the_table_is_unmapped_though_the_ring_lay_in_it(make_pair: MakePair) -> None:
    pair = make_pair()
    mappings = live_mappings()
    pair.vring.set_memory(GuestMemory())
    pair.guest.close()
    gc.collect()
    assert live_mappings() == mappings - 1


@pytest.mark.parametrize("started", [True, False])
def test_C040_a_replaced_table_is_let_go_by_the_ring(make_pair: MakePair, started: bool) -> None:
    pair = make_pair()
    if not started:
        pair.vring.stop()
    mappings = live_mappings()
    for _ in range(10):
        pair.guest = mapped(pair.memory)
        pair.vring.set_memory(pair.guest)
    gc.collect()
    assert live_mappings() == mappings


def test_C040_requests_keep_the_table_they_came_from(make_pair: MakePair) -> None:
    pair, second = two_regions(make_pair)
    address = second.guest_address + 64
    pair.memory.write(address, b"spare")
    pair.queue.add([(address, 5)], [(address + 8, 4)])
    pair.queue.publish()
    request = pair.take()
    smaller = pair.guest.without_region(second.guest_address, second.user_address, second.size)
    pair.vring.set_memory(smaller)
    assert request.read() == b"spare"
    request.write(b"late")
    request.complete()
    assert pair.memory.read(address + 8, 4) == b"late"
    assert pair.queue.poll() is not None


def test_C041_addresses_may_change_while_started(make_pair: MakePair) -> None:
    pair = make_pair()
    pair.serve([b"x"], [4]).complete()
    assert pair.queue.poll() is not None
    # The same ring somewhere else: a copy of its three areas.
    moved = {}
    for name, address, size in (
        ("descriptor", pair.queue.descriptor_address, 16 * 8),
        ("driver", pair.queue.driver_address, 6 + 16),
        ("device", pair.queue.device_address, 6 + 64),
    ):
        moved[name] = pair.memory.allocate(size, 4096)
        pair.memory.write(moved[name], pair.memory.read(address, size))
    pair.vring.set_addresses(**moved)
    pair.add([b"old place"])
    assert pair.vring.pop() is None
    pair.set_addresses()
    assert pair.take().read() == b"old place"


def test_C053_a_stopped_ring_takes_nothing_and_may_still_complete(make_pair: MakePair) -> None:
    pair = make_pair()
    token = pair.add([b"1"], [4])
    request = pair.take()
    pair.vring.stop()
    pair.add([b"2"])
    assert pair.vring.pop() is None
    request.write(b"done")
    request.complete()
    assert pair.queue.poll() == (token, 4)
    pair.vring.stop()  # twice is fine
    pair.vring.start()
    assert pair.take().read() == b"2"


def test_C054_drain_waits_for_the_last_completion(make_pair: MakePair) -> None:
    pair = make_pair()
    requests = [pair.serve([b"x"]) for _ in range(3)]
    pair.vring.stop()
    assert not pair.vring.drain(0)
    assert not pair.vring.drain(0.01)
    completed = threading.Event()
    waiting = threading.Event()

    def complete() -> None:
        waiting.wait()
        for request in requests:
            request.complete()
        completed.set()

    thread = threading.Thread(target=complete)
    thread.start()
    waiting.set()
    assert pair.vring.drain(30)
    assert pair.vring.in_flight == 0
    thread.join()
    assert completed.is_set()
    assert len(pair.queue.poll_many()) == 3


@pytest.mark.parametrize("timeout", [float("inf"), 1e30, -1.0, float("-inf")])
def test_C054_any_timeout_is_a_timeout(make_pair: MakePair, timeout: float) -> None:
    pair = make_pair()
    assert pair.vring.drain(timeout)
    request = pair.serve([b"x"])
    if timeout < 0:
        assert not pair.vring.drain(timeout)
    request.complete()
    assert pair.vring.drain(timeout)


def test_C054_drain_of_a_ring_that_never_ran() -> None:
    assert Vring(0, 8).drain(0)


def test_C055_abandoned_requests_do_nothing_when_completed(make_pair: MakePair) -> None:
    pair = make_pair()
    pair.add([b"x"], [4])
    request = pair.take()
    pair.vring.stop()
    pair.vring.abandon()
    assert pair.vring.in_flight == 0
    assert pair.vring.drain(0)
    assert not request.alive
    with pytest.raises(RequestError, match="C134"):
        request.write(b"late")
    request.complete()
    assert pair.queue.poll() is None
    # The base is past what was fetched; the abandoned one is in the hands of the next back-end.
    assert pair.vring.base() & 0x7FFF == (2 if pair.packed else 1)


def test_C055_abandon_wakes_who_drains(make_pair: MakePair) -> None:
    pair = make_pair()
    request = pair.serve([b"x"])
    thread = threading.Thread(target=pair.vring.abandon)
    thread.start()
    assert pair.vring.drain(30)
    thread.join()
    request.complete()


def test_C053_a_start_with_requests_in_flight_forgets_them(make_pair: MakePair) -> None:
    pair = make_pair(in_order=True)
    old = [pair.serve([b"x"], [4]) for _ in range(3)]
    pair.vring.stop()
    pair.vring.start()
    assert not old[0].alive
    fresh = pair.serve([b"y"], [4])
    for request in old:
        request.complete()
    assert pair.vring.in_flight == 1
    fresh.complete()
    assert pair.vring.in_flight == 0


def test_C060_enabled_is_remembered_across_a_stop(make_pair: MakePair) -> None:
    pair = make_pair()
    pair.vring.stop()
    assert pair.vring.enabled
    pair.vring.set_enabled(False)
    pair.vring.start()
    assert not pair.runs()
    pair.vring.set_enabled(True)
    assert pair.runs()
    pair.vring.start()  # twice is fine
    assert pair.runs()


def test_C134_reset_is_the_state_of_creation(make_pair: MakePair) -> None:
    pair = make_pair()
    request = pair.serve([b"x"], [1])
    fds = [os.dup(pair.queue.call_fd) for _ in range(3)]
    pair.vring.set_kick(fds[0])
    pair.vring.set_call(fds[1])
    pair.vring.set_err(fds[2])
    pair.vring.reset()
    for fd in fds:
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(fd)
    vring = pair.vring
    assert (vring.started, vring.enabled, vring.suspended, vring.runnable, vring.mapped) == (False,) * 5
    assert (vring.size, vring.packed, vring.has_kick, vring.has_call, vring.kick) == (
        0,
        False,
        False,
        False,
        -1,
    )
    assert (vring.in_flight, vring.broken, vring.base()) == (0, None, 0)
    request.complete()
    assert pair.queue.poll() is None
    for call in (vring.stop, vring.abandon, vring.reset):
        call()
    assert vring.pop() is None
    assert not vring.enable_notification()
    vring.disable_notification()
    assert not vring.needs_notification()
    assert not vring.signal_used_queue()
    assert vring.process(lambda _request: None) == 0


def test_C134_a_thousand_sessions_leave_nothing(make_pair: MakePair) -> None:
    pair = make_pair()
    mappings = live_mappings()
    files = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(200):
        vring = Vring(0, 64)
        vring.set_features(packed=pair.packed, event_idx=True, in_order=False)
        vring.set_size(8)
        memory = mapped(pair.memory)
        vring.set_memory(memory)
        vring.set_addresses(
            descriptor=pair.queue.descriptor_address,
            driver=pair.queue.driver_address,
            device=pair.queue.device_address,
        )
        vring.set_kick(os.dup(pair.queue.kick_fd))
        vring.set_call(os.dup(pair.queue.call_fd))
        vring.start()
        vring.reset()
        memory.close()
    del vring, memory
    assert live_mappings() == mappings
    assert len(list(Path("/proc/self/fd").iterdir())) == files


def test_C134_closing_the_memory_under_a_running_ring_is_survived(make_pair: MakePair) -> None:
    """The wrong order of ending a session: nothing is served well then, but nothing crashes."""
    pair = make_pair()
    request = pair.serve([b"x"], [4])
    pair.add([b"next"])
    pair.guest.close()
    gc.collect()
    with pytest.raises(RequestError, match="C134"):
        request.read()
    request.complete()
    pair.vring.process(lambda request: request.read(), lambda _request, _error: None)
    pair.vring.set_memory(pair.guest)
    assert not pair.is_mapped()


def test_C134_a_request_of_an_earlier_table_whose_memory_was_closed(make_pair: MakePair) -> None:
    """A handler that looks at what it held before, from inside of a batch of the new table."""
    pair = make_pair()
    held: list[Request] = []

    def hold(request: Request) -> None:
        request.hold()
        held.append(request)

    pair.add([b"old"], [4])
    pair.vring.process(hold)
    old = pair.guest
    pair.guest = mapped(pair.memory)
    pair.vring.set_memory(pair.guest)
    old.close()
    gc.collect()
    outcome: list[str] = []

    def look(_request: Request) -> None:
        for access in (held[0].read, lambda: held[0].write(b"x"), held[0].writable_views):
            with pytest.raises(RequestError) as caught:
                access()
            outcome.append(caught.value.rule)
        held[0].complete()

    pair.add([b"new"])
    pair.vring.process(look)
    assert outcome == ["C134"] * 3
    assert len(pair.queue.poll_many()) == 2


def test_the_names_of_the_model_crate() -> None:
    assert VringMutex is Vring
    assert VringRwLock is Vring


@pytest.mark.parametrize("size", [0, -1, 32769])
def test_C070_a_maximum_size_that_no_ring_can_have(size: int) -> None:
    with pytest.raises(ValueError, match="C070"):
        Vring(0, size)


def test_C070_no_more_than_the_maximum() -> None:
    vring = Vring(0, 16)
    vring.set_size(16)
    with pytest.raises(ValueError, match="C070"):
        vring.set_size(32)
    assert (vring.size, vring.max_size) == (16, 16)
