"""Ring life cycle: C049 to C075, over a real socket."""

from __future__ import annotations

import select
import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.devices import Echo
from tests.support.front_end import OTHER_RINGS, until
from vhost_user import Device, Request, RequestRefused, VhostUserDaemon
from vhost_user.spec.features import VirtioFeature
from vhost_user.spec.requests import FrontendRequest as Ask
from vhost_user.spec.structs import U64, VringFd, VringState

if TYPE_CHECKING:
    from tests.backend.conftest import Stage
    from tests.support.front_end import FrontEnd


HIGH = 1 << 32


class Gate(Device):
    """Holds every request until the test opens the gate."""

    def __init__(self) -> None:
        self.held: list[Request] = []
        self.there = threading.Event()

    def handle(self, request: Request) -> None:
        request.hold()
        self.held.append(request)
        self.there.set()

    def open(self) -> None:
        for request in self.held:
            request.write(b"done")
            request.complete()
        self.held.clear()


def quiet(front: FrontEnd, index: int = 0, seconds: float = 0.05) -> bool:
    """Nothing comes back from the device for a while."""
    return not front.rings[index].wait(seconds)


def started(daemon: VhostUserDaemon) -> bool:
    return daemon.vrings[0].started


def test_C049_rings_start_stopped_and_disabled(stage: Stage) -> None:
    daemon, front = stage.serve(Echo())
    front.negotiate()
    front.share_memory()
    front.configure_ring()
    front.post(readable=b"abc", writable=3)
    assert quiet(front)
    assert not daemon.vrings[0].started
    assert not daemon.vrings[0].enabled


def test_C050_set_vring_kick_starts_the_ring(stage: Stage) -> None:
    daemon, front = stage.serve(Echo())
    front.negotiate()
    front.share_memory()
    front.configure_ring()
    front.enable()
    assert not started(daemon)
    front.kick()
    assert started(daemon)
    assert front.request(readable=b"abc", writable=3) == b"cba"


@pytest.mark.parametrize("enable_first", [True, False])
def test_C051_ring_is_looked_at_when_it_begins_to_run(stage: Stage, enable_first: bool) -> None:
    _, front = stage.serve(Echo())
    front.negotiate()
    front.share_memory()
    front.configure_ring()
    front.post(readable=b"abc", writable=3, kick=False)
    for step in (front.enable, front.kick) if enable_first else (front.kick, front.enable):
        step()
    assert front.collect()[1] == 3


def test_C051_kick_before_enable_is_not_lost(stage: Stage) -> None:
    _, front = stage.serve(Echo())
    front.negotiate()
    front.share_memory()
    ring = front.configure_ring()
    front.kick()
    front.post(readable=b"abc", writable=3, kick=False)
    ring.kick(force=True)
    assert quiet(front)
    front.enable()
    assert front.collect()[1] == 3


def test_C052_without_a_kick_fd_the_ring_is_polled(stage: Stage) -> None:
    _, front = stage.serve(Echo())
    front.negotiate()
    front.share_memory()
    front.configure_ring()
    front.call(Ask.SET_VRING_KICK, VringFd.of(0, no_fd=True))
    front.enable()
    for _ in range(3):
        front.post(readable=b"abc", writable=3, kick=False)
        assert front.collect()[1] == 3


def test_C052_without_a_call_fd_nothing_is_signalled(stage: Stage) -> None:
    _, front = stage.serve(Echo())
    front.negotiate()
    front.share_memory()
    ring = front.configure_ring()
    front.call(Ask.SET_VRING_CALL, VringFd.of(0, no_fd=True))
    ring.call_count()
    front.kick()
    front.enable()
    front.post(readable=b"abc", writable=3)
    until(ring.poll)
    assert ring.call_count() == 0


def test_C053_after_get_vring_base_nothing_is_touched_or_signalled(stage: Stage) -> None:
    daemon, front = stage.serve(Echo())
    front.bring_up()
    front.request(readable=b"abc", writable=3)
    assert front.stop_ring() == 1
    assert not daemon.vrings[0].has_kick
    assert not daemon.vrings[0].has_call
    ring = front.rings[0]
    ring.call_count()
    front.post(readable=b"abc", writable=3, kick=False)
    ring.kick(force=True)
    assert quiet(front)
    assert ring.used_index == 1
    assert ring.call_count() == 0


def test_C054_get_vring_base_waits_for_requests_in_flight(stage: Stage) -> None:
    device = Gate()
    _, front = stage.serve(device)
    front.bring_up()
    front.post(writable=4)
    assert device.there.wait(10)
    front.send(Ask.GET_VRING_BASE, VringState(0))
    assert not select.select([front.connection], [], [], 0.2)[0], "it answered while a request was in flight"
    device.open()
    assert front.receive().num == 1
    assert front.rings[0].used_index == 1


def test_C064_disabled_and_then_stopped_still_drains(stage: Stage) -> None:
    device = Gate()
    _, front = stage.serve(device)
    front.bring_up()
    front.post(writable=4)
    assert device.there.wait(10)
    front.enable(on=False)
    front.send(Ask.GET_VRING_BASE, VringState(0))
    assert not select.select([front.connection], [], [], 0.1)[0]
    device.open()
    assert front.receive().num == 1


def test_H92_a_request_that_never_ends_is_named_and_a_disconnect_gives_it_up(
    stage: Stage, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vhost_user.backend.draining.DRAIN_WARNING", 0.05)
    monkeypatch.setattr("vhost_user.backend.draining.RESET_DRAIN", 0.05)
    device = Gate()
    daemon, front = stage.serve(device)
    front.bring_up()
    front.post(writable=4)
    assert device.there.wait(10)
    front.send(Ask.GET_VRING_BASE, VringState(0))
    until(lambda: "[H92]" in caplog.text)
    assert "queue 0 cannot stop before its 1 requests end" in caplog.text
    front.close()
    assert daemon.wait(10)
    assert not device.held[0].alive
    device.held[0].complete()  # one after the session's end does nothing
    device.held.clear()


def test_H92_stop_ends_a_drain(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vhost_user.backend.draining.RESET_DRAIN", 0.05)
    device = Gate()
    daemon, front = stage.serve(device)
    front.bring_up()
    front.post(writable=4)
    assert device.there.wait(10)
    front.send(Ask.GET_VRING_BASE, VringState(0))
    daemon.stop()
    assert daemon.wait(10)
    device.held.clear()


@pytest.mark.parametrize("base", [0, 1, 0xFFFF])
def test_C058_base_round_trips_without_processing(stage: Stage, base: int) -> None:
    _, front = stage.serve(Echo())
    front.negotiate()
    front.call(Ask.SET_VRING_NUM, VringState(0, 16))
    front.call(Ask.SET_VRING_BASE, VringState(0, base))
    assert front.stop_ring() == base


def test_C056_base_is_free_running_16_bits(stage: Stage) -> None:
    _, front = stage.serve(Echo())
    front.negotiate()
    front.share_memory()
    front.make_ring()
    front.rings[0].reset(0xFFFE)
    front.configure_ring(base=0xFFFE)
    front.kick()
    front.enable()
    for _ in range(4):
        front.request(readable=b"abc", writable=3)
    assert front.stop_ring() == 2


def test_C056_a_base_above_16_bits_is_refused_for_a_split_ring(stage: Stage) -> None:
    _, front = stage.serve(Echo())
    front.negotiate()
    with pytest.raises(RequestRefused):
        front.call(Ask.SET_VRING_BASE, VringState(0, 1 << 16))


def test_C059_the_used_index_is_read_from_the_ring(stage: Stage) -> None:
    _, front = stage.serve(Echo())
    front.negotiate()
    front.share_memory()
    ring = front.make_ring()
    ring.reset(5)
    assert ring.used_index == 5
    front.configure_ring(base=5)
    front.kick()
    front.enable()
    assert front.request(readable=b"abc", writable=3) == b"cba"
    assert ring.used_index == 6


def test_C060_a_stopped_ring_starts_again_where_it_was_and_stays_enabled(stage: Stage) -> None:
    daemon, front = stage.serve(Echo())
    front.bring_up()
    front.request(readable=b"abc", writable=3)
    assert front.stop_ring() == 1
    assert daemon.vrings[0].enabled
    front.post(readable=b"xyz", writable=3, kick=False)
    front.call(Ask.SET_VRING_CALL, VringFd.of(0), [front.rings[0].call_fd])
    front.kick()
    assert front.collect()[1] == 3
    assert front.stop_ring() == 2


def test_C061_a_disabled_ring_is_not_consumed(stage: Stage) -> None:
    _, front = stage.serve(Echo())
    front.bring_up()
    front.enable(on=False)
    front.post(readable=b"abc", writable=3)
    assert quiet(front)
    front.enable()
    assert front.collect()[1] == 3


def test_C062_without_bit_30_all_rings_are_enabled_at_once(stage: Stage) -> None:
    device = Echo()
    device.queues = 2
    daemon, front = stage.serve(device)
    front.negotiate(features=~int(VirtioFeature.PROTOCOL_FEATURES | VirtioFeature.LOG_ALL))
    assert [vring.enabled for vring in daemon.vrings] == [True, True]
    front.share_memory()
    front.configure_ring()
    front.kick()
    assert front.request(readable=b"abc", writable=3) == b"cba"


def test_C062_with_bit_30_set_features_leaves_the_rings_as_they_are(stage: Stage) -> None:
    daemon, front = stage.serve(Echo())
    front.bring_up()
    acked = front.session.negotiation.acked_features
    front.call(Ask.SET_FEATURES, U64(acked))
    assert daemon.vrings[0].enabled
    front.enable(on=False)
    front.call(Ask.SET_FEATURES, U64(acked))
    assert not daemon.vrings[0].enabled


def test_C063_enable_needs_bit_30_and_is_idempotent(stage: Stage) -> None:
    daemon, front = stage.serve(Echo())
    front.negotiate()
    for on in (True, True, False, False):
        front.enable(on=on)
        assert daemon.vrings[0].enabled is on
    without = ~int(VirtioFeature.PROTOCOL_FEATURES | VirtioFeature.LOG_ALL)
    front.call(Ask.SET_FEATURES, U64(front.session.negotiation.acked_features & without))
    front.session.negotiation.acked_features |= VirtioFeature.PROTOCOL_FEATURES
    with pytest.raises(RequestRefused):
        front.enable(on=False)


@pytest.mark.parametrize("on", [True, False])
def test_C063_what_was_enabled_before_set_features_runs_when_it_starts(stage: Stage, on: bool) -> None:
    # QEMU's net: protocol features, SET_OWNER, SET_VRING_ENABLE, and only then SET_FEATURES and the rings.
    daemon, front = stage.serve(Echo())
    offered = front.call(Ask.GET_FEATURES).value
    front.call(Ask.SET_PROTOCOL_FEATURES, front.call(Ask.GET_PROTOCOL_FEATURES))
    front.call(Ask.SET_OWNER)
    front.enable(on=True)
    front.enable(on=on)
    front.call(Ask.SET_FEATURES, U64(offered & ~int(OTHER_RINGS | VirtioFeature.LOG_ALL)))
    front.share_memory()
    front.configure_ring()
    front.kick()
    assert daemon.vrings[0].started
    assert daemon.vrings[0].enabled is on
    if not on:
        front.post(readable=b"abc", writable=3)
        assert quiet(front)
        front.enable()
        front.collect()
    assert front.request(readable=b"abc", writable=3) == b"cba"


def test_C073_without_memory_the_refusal_says_how_it_is_shared(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    _, front = stage.serve(Echo())
    front.negotiate()
    front.make_ring()
    with pytest.raises(RequestRefused):
        front.kick()
    assert "share=on: -object memory-backend-memfd,id=mem,size=512M,share=on" in caplog.text
    front.share_memory()
    caplog.clear()
    with pytest.raises(RequestRefused):
        front.kick()
    assert "cannot start without size" in caplog.text
    assert "share=on" not in caplog.text
