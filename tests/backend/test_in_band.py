"""Kicks, calls and errors as messages: INBAND_NOTIFICATIONS, C133."""

from __future__ import annotations

import contextlib
import functools
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.descriptors import open_fds
from tests.support.devices import Echo
from tests.support.front_end import FrontEnd, until
from vhost_user import Device, Request, RequestRefused, VhostUserDaemon
from vhost_user.frontend.back_channel import BackChannel, BackChannelHandler
from vhost_user.spec.features import ProtocolFeature
from vhost_user.spec.requests import FrontendRequest as Ask
from vhost_user.spec.structs import VringFd, VringState

if TYPE_CHECKING:
    from tests.backend.conftest import Stage


class Recorder(BackChannelHandler):
    """Notes what comes; may keep the back-end waiting for its answer."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []
        self.errors: list[int] = []
        self.answer = threading.Event()
        self.answer.set()

    def vring_call(self, state: VringState) -> None:
        self.calls.append(state.index)
        self.answer.wait(20)

    def vring_err(self, state: VringState) -> None:
        self.errors.append(state.index)


class InBandFrontEnd:
    """A front-end without doorbells, as user-mode Linux is one."""

    def __init__(self, front: FrontEnd, *, channel: bool = True) -> None:
        self.front = front
        self.seen = Recorder()
        self.channel: BackChannel | None = None
        front.negotiate()
        if channel:
            self.channel = BackChannel(front.session.negotiation, self.seen)
            front.call(Ask.SET_BACKEND_REQ_FD, None, [self.channel.backend_socket.fileno()])
            self.channel.sent()
        front.share_memory()

    def start(self, index: int = 0) -> None:
        """As UML does: no SET_VRING_KICK, no SET_VRING_CALL; the ring is enabled, and a kick starts it."""
        self.configure(index)
        self.front.enable(index)
        self.kick(index)

    def configure(self, index: int = 0) -> None:
        ring = self.front.make_ring(index)
        self.front.call(Ask.SET_VRING_NUM, VringState(index, ring.size))
        self.front.call(Ask.SET_VRING_BASE, VringState(index, 0))
        self.front.call(Ask.SET_VRING_ADDR, self.front.addresses(index))

    def kick(self, index: int = 0) -> None:
        self.front.call(Ask.VRING_KICK, VringState(index), need_reply=True)

    def post(self, index: int = 0) -> None:
        # The driver has seen everything so far, and wants to hear of the next.
        ring = self.front.rings[index]
        ring.poll_many()
        ring.enable_notifications()
        self.front.post(index, readable=b"abc", writable=3, kick=False)

    def used(self, index: int = 0) -> int:
        return self.front.rings[index].used_index

    def close(self) -> None:
        self.seen.answer.set()
        if self.channel is not None:
            self.channel.close()


@contextlib.contextmanager
def sender_held(daemon: VhostUserDaemon) -> Iterator[None]:
    """Who sends the messages is between two looks at what was rung."""
    assert daemon.session is not None
    sender = daemon.session.in_band
    assert sender is not None
    with sender._lock:
        os.eventfd_write(sender._wake, 1)
        until(lambda: not select.select([sender._wake], [], [], 0)[0])
        yield


def reaches(counter: Callable[[], int], value: int) -> None:
    until(lambda: counter() == value, f"{value}")


class Two(Echo, queues=2):
    pass


@pytest.fixture
def begin(stage: Stage) -> Iterator[Callable[..., tuple[VhostUserDaemon, InBandFrontEnd]]]:
    with contextlib.ExitStack() as stack:

        def start(device: Device | None = None, **options: Any) -> tuple[VhostUserDaemon, InBandFrontEnd]:
            daemon = stack.enter_context(VhostUserDaemon("test", device or Two(), in_band_notifications=True))
            ours, theirs = socket.socketpair()
            daemon.start_connection(theirs)
            front = InBandFrontEnd(stage.front_end(ours), **options)
            stack.callback(front.close)
            return daemon, front

        yield start


Begin = Callable[..., tuple[VhostUserDaemon, InBandFrontEnd]]


def test_C133_a_ring_without_doorbells(begin: Begin) -> None:
    daemon, front = begin()
    front.start()
    assert front.seen.calls == []
    for number in range(1, 30):
        front.post()
        front.kick()
        reaches(lambda: len(front.seen.calls), number)
        assert front.used() == number
    assert front.seen.errors == []
    assert daemon.statistics()["queue 0"]["calls"] == 29


def test_C133_a_buffer_that_was_there_before_the_ring_started(begin: Begin) -> None:
    _, front = begin()
    front.configure()
    front.front.enable()
    front.post()
    front.kick()
    until(lambda: front.seen.calls == [0])
    assert front.used() == 1


def test_C076_C133_a_call_that_comes_before_the_start_is_over_is_not_lost(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker is done with what was in the ring before the thread that started it goes on."""
    daemon, front = begin()
    front.configure()
    front.front.enable()
    front.post()
    session = daemon.session
    assert session is not None
    decide = session.quiet_down_or_wake

    def late() -> None:
        until(lambda: front.used() == 1)
        # Long enough for the message, if it were sent now, or thrown away.
        time.sleep(0.1)
        decide()

    monkeypatch.setattr(session, "quiet_down_or_wake", late)
    front.kick()
    until(lambda: front.seen.calls == [0])


def test_C133_a_ring_without_doorbells_is_not_polled(begin: Begin) -> None:
    """Without the message nothing happens: in a simulation that decides when it does."""
    daemon, front = begin()
    front.start()
    front.start(1)
    until(lambda: daemon.statistics()["worker 0"]["wakeups"] > 0)
    time.sleep(0.05)
    before = daemon.statistics()["worker 0"]["wakeups"]
    time.sleep(0.2)
    # A worker that polls a ring wakes again and again.
    assert daemon.statistics()["worker 0"]["wakeups"] - before < 20
    front.post(1)
    front.kick(1)
    until(lambda: front.seen.calls == [1])


def test_C052_C133_a_kick_without_descriptor_is_still_polling(begin: Begin) -> None:
    _, front = begin()
    front.configure()
    front.front.enable()
    front.front.call(Ask.SET_VRING_KICK, VringFd.of(0, no_fd=True))
    front.post()
    until(lambda: front.used() == 1)
    front.kick()


def test_C052_C133_a_call_without_descriptor_is_silence(begin: Begin) -> None:
    _, front = begin()
    front.front.call(Ask.SET_VRING_CALL, VringFd.of(0, no_fd=True))
    front.start()
    front.start(1)
    front.post()
    front.kick()
    until(lambda: front.used() == 1)
    front.post(1)
    front.kick(1)
    until(lambda: front.seen.calls == [1])


@pytest.mark.parametrize("when", ["before the start", "while it runs"])
def test_C133_a_descriptor_is_preferred(begin: Begin, when: str) -> None:
    daemon, front = begin()
    front.configure()
    ring = front.front.rings[0]

    def give() -> None:
        front.front.call(Ask.SET_VRING_CALL, VringFd.of(0), [ring.call_fd])

    if when == "before the start":
        give()
    front.front.enable()
    front.front.kick()
    if when == "while it runs":
        give()
        ring.call_count()
    assert front.front.request(readable=b"abc", writable=3) == b"cba"
    assert front.front.request(readable=b"abc", writable=3) == b"cba"
    # A message as a kick does no harm either.
    front.post()
    front.kick()
    front.front.collect()
    assert front.seen.calls == []
    assert daemon.vrings[0].has_kick


def test_C102_C133_a_front_end_that_does_not_answer_delays_nobody(begin: Begin) -> None:
    daemon, front = begin()
    front.start()
    front.start(1)
    front.seen.answer.clear()
    front.post()
    front.kick()
    until(lambda: front.seen.calls == [0])
    for number in range(2, 12):
        front.post()
        front.kick()
        reaches(front.used, number)
        front.post(1)
        front.kick(1)
        reaches(lambda: front.used(1), number - 1)
    # Ten calls each while the answer was out: one message more of each.
    front.seen.answer.set()
    until(lambda: len(front.seen.calls) == 3)
    front.post()
    front.kick()
    until(lambda: len(front.seen.calls) == 4)
    assert sorted(front.seen.calls[1:3]) == [0, 1]
    front.seen.answer.clear()
    front.post()
    front.kick()
    until(lambda: len(front.seen.calls) == 5)
    # And the ring stops although that answer never came.
    assert front.front.stop_ring() == 13
    assert daemon.connected


def test_C053_C133_nothing_is_sent_for_a_ring_that_stopped(begin: Begin) -> None:
    daemon, front = begin()
    front.start()
    front.start(1)
    front.seen.answer.clear()
    with sender_held(daemon):  # both are rung before either is sent
        for index in (0, 1):
            front.post(index)
            front.kick(index)
        until(lambda: front.used(0) == front.used(1) == 1)
    until(lambda: front.seen.calls and front.used(0) == front.used(1) == 1)
    (first,) = front.seen.calls
    assert front.front.stop_ring(1 - first) == 1
    front.seen.answer.set()
    front.post(first)
    front.kick(first)
    until(lambda: len(front.seen.calls) == 2)
    assert front.seen.calls == [first, first]


def test_C060_C133_it_starts_again(begin: Begin) -> None:
    _, front = begin()
    front.start()
    for turn in range(1, 4):
        front.post()
        front.kick()
        reaches(lambda: len(front.seen.calls), turn)
        assert front.front.stop_ring() == turn


def test_C133_a_broken_ring_is_told(begin: Begin, caplog: pytest.LogCaptureFixture) -> None:
    _, front = begin()
    front.start()
    front.front.rings[0].set_avail_index(40000)
    front.kick()
    until(lambda: front.seen.errors == [0])
    # The front-end hears of it first.
    until(lambda: "V003" in caplog.text)


def test_C133_without_a_back_channel_the_log_says_what_is_missing(
    begin: Begin, caplog: pytest.LogCaptureFixture
) -> None:
    _, front = begin(channel=False)
    front.start()
    front.post()
    front.kick()
    until(lambda: "queue 0: VRING_CALL cannot be told: there is no back channel" in caplog.text)
    assert front.used() == 1


def test_C133_a_back_channel_that_comes_late(begin: Begin) -> None:
    _, front = begin(channel=False)
    front.start()
    front.channel = BackChannel(front.front.session.negotiation, front.seen)
    front.front.call(Ask.SET_BACKEND_REQ_FD, None, [front.channel.backend_socket.fileno()])
    front.channel.sent()
    front.post()
    front.kick()
    until(lambda: front.seen.calls == [0])


def test_C069_C073_C133_kicks_that_make_no_sense(begin: Begin) -> None:
    daemon, front = begin()
    with pytest.raises(RequestRefused):
        front.kick(7)
    with pytest.raises(RequestRefused):
        front.kick()  # no size, no addresses
    assert not daemon.vrings[0].started
    with pytest.raises(RequestRefused):
        front.front.call(Ask.VRING_KICK, VringState(0, 1), need_reply=True)
    front.start()
    front.post()
    front.kick()
    until(lambda: front.seen.calls == [0])


def test_C024_C133_it_is_not_offered_unasked(stage: Stage) -> None:
    _, front = stage.serve(Echo())
    front.bring_up()
    offered = front.session.negotiation.acked_protocol_features
    assert not offered & ProtocolFeature.INBAND_NOTIFICATIONS


def test_C133_a_flood_of_kicks_is_one_wake_up(begin: Begin) -> None:
    held: list[Request] = []

    class Holding(Device, queues=1):
        def handle(self, request: Request) -> None:
            request.hold()
            held.append(request)

    _, front = begin(Holding())
    front.start()
    for _ in range(3000):
        front.front.send(Ask.VRING_KICK, VringState(0))
        front.front.receive()
    front.post()
    front.kick()
    until(lambda: len(held) == 1)
    held[0].complete()
    until(lambda: front.seen.calls == [0])


@pytest.mark.parametrize("how", ["closed", "killed", "unanswered"])
def test_C134_C133_nothing_is_left_behind(stage: Stage, how: str) -> None:
    with VhostUserDaemon("test", Two(), in_band_notifications=True) as daemon:
        threads = threading.active_count()
        descriptors = len(open_fds())
        for _ in range(5):
            ours, theirs = socket.socketpair()
            daemon.start_connection(theirs)
            front = InBandFrontEnd(stage.front_end(ours))
            front.start()
            front.start(1)
            if how == "unanswered":
                front.seen.answer.clear()
            front.post()
            front.kick()
            reaches(functools.partial(len, front.seen.calls), 1)
            if how == "closed":
                front.front.stop_ring()
                front.front.stop_ring(1)
            front.front.close()
            assert daemon.wait(20)
            front.close()
        assert threading.active_count() <= threads + 2
        assert len(open_fds()) <= descriptors
