"""A session goes to another daemon between two requests, and stays where it is when anything goes wrong."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.backend.conftest import Stage
from tests.support.front_end import REQUEST as ASK
from tests.support.front_end import FrontEnd, until
from vhost_user import BufferQueue, Device, Queue, Request, VhostUserDaemon
from vhost_user.backend.handover import Handover, SuccessorLostError, UpgradeError
from vhost_user.backend.inheritance import Inheritance
from vhost_user.protocol.fds import OwnedFds
from vhost_user.protocol.state_format import decode_state, encode_state
from vhost_user.spec.features import ProtocolFeature, VirtioFeature
from vhost_user.spec.structs import U64, Inflight, Log, VringState


class Counter(Device, type="gpio", queues=2):
    requests = Queue(0)
    events = BufferQueue(1)
    stop_patience = None

    def __init__(self, version: int = 1) -> None:
        self.version = version
        self.count = 0
        self.held: list[Request] = []
        self.hold = False
        self.ready = 0
        self.calls: list[str] = []

    @requests.handler
    def request(self, request: Request) -> None:
        if self.hold:
            request.hold()
            self.held.append(request)
            return
        self.count += 1
        request.write(bytes([self.version, self.count]))

    def started(self) -> None:
        self.calls.append("started")

    def queue_stopping(self, queue: int) -> float | None:
        self.calls.append(f"stopping {queue}")
        return super().queue_stopping(queue)

    def queue_started(self, queue: int) -> None:
        self.calls.append(f"started {queue}")

    def save_state(self) -> object:
        return self.count

    def load_state(self, state: Any, version: int) -> None:
        assert version == 1
        self.count = int(state)


class Move:
    """A handover from one daemon to another of this process, with something going wrong on demand."""

    def __init__(self, successor: VhostUserDaemon, *, fail_at: str = "") -> None:
        self.successor = successor
        self.fail_at = fail_at
        self.arrived = threading.Event()
        self.ours = threading.Event()
        self.runs = threading.Event()
        self.loaded = threading.Event()
        self.error: BaseException | None = None
        self.record: Any = None
        self.fds: list[int] = []
        self.abandoned = 0
        self.over = False
        self.handover = Handover(self.give, self.commit, self.abandon, patience=0.5)
        successor.inherit(Inheritance(self.wait, self.wait_for_go, self.runs.set, self.failed))

    # the predecessor's side

    def give(self, record: Any, fds: Sequence[int]) -> None:
        self.fds = [os.dup(fd) for fd in fds]
        self.record = decode_state(encode_state("upgrade", 1, record), "upgrade", 1)[0]
        if self.fail_at == "give":
            raise UpgradeError("it fell")
        self.arrived.set()
        assert self.loaded.wait(10)
        if self.error is not None:
            raise UpgradeError(str(self.error))

    def commit(self) -> None:
        if self.fail_at == "commit":
            raise UpgradeError("it cannot be told")
        if self.fail_at == "lost":
            raise SuccessorLostError("it is gone")
        self.ours.set()
        assert self.runs.wait(10)

    def abandon(self) -> None:
        self.abandoned += 1
        self.over = True
        self.arrived.set()
        self.ours.set()
        for fd in self.fds if self.fail_at == "give" else ():
            os.close(fd)

    # the successor's

    def wait(self) -> tuple[Any, OwnedFds]:
        assert self.arrived.wait(10)
        if self.over:
            raise UpgradeError("it was called off")
        return self.record, OwnedFds(self.fds)

    def wait_for_go(self) -> None:
        self.loaded.set()
        assert self.ours.wait(10)
        if self.over:
            raise UpgradeError("it was called off")

    def failed(self, error: BaseException) -> None:
        self.error = error
        self.loaded.set()

    def go(self, predecessor: VhostUserDaemon) -> Handover:
        # Its own connections come later, and never.
        self.successor._begin(lambda: self.successor._wake.sleep(0.01), once=False)
        predecessor.hand_over(self.handover)
        assert self.handover.wait(10)
        return self.handover


Moved = Callable[..., Move]


def up(stage: Stage, device: Device, **options: Any) -> tuple[VhostUserDaemon, FrontEnd]:
    daemon, front = stage.serve(device)
    front.negotiate(**options)
    front.share_memory()
    front.start_ring(0)
    front.start_ring(1)
    return daemon, front


def test_the_next_request_is_served_by_the_successor(stage: Stage) -> None:
    one, two = Counter(1), Counter(2)
    daemon, front = up(stage, one)
    assert front.request(writable=2) == bytes([1, 1])
    successor = stage.daemon(two, "successor")
    handover = Move(successor).go(daemon)
    assert handover.failure is None
    assert daemon.wait(10)
    for number in range(2, 40):
        assert front.request(writable=2) == bytes([2, number])
    assert front.call(ASK.GET_FEATURES).value
    assert two.calls.count("started") == 1
    assert daemon.session_end_reason == "another process goes on with it"


def test_requests_that_wait_are_served_by_the_successor(stage: Stage) -> None:
    """The driver puts them into the ring while nobody looks at it."""
    one, two = Counter(1), Counter(2)
    daemon, front = up(stage, one)
    move = Move(stage.daemon(two, "successor"))
    give = move.handover._give
    posted: list[tuple[int, int]] = []

    def slowly(record: Any, fds: Sequence[int]) -> None:
        posted.extend(front.post(writable=2) for _ in range(3))
        give(record, fds)

    move.handover._give = slowly
    move.go(daemon)
    assert sorted(front.collect()[0] for _ in posted) == sorted(token for token, _ in posted)
    assert (one.count, two.count) == (0, 3)


def test_it_goes_on_and_on(stage: Stage) -> None:
    daemon, front = up(stage, Counter(0))
    for version in range(1, 6):
        successor = stage.daemon(Counter(version), f"v{version}")
        assert Move(successor).go(daemon).failure is None
        daemon = successor
        assert front.request(writable=2) == bytes([version, version])
    assert front.stop_ring() == 5
    front.start_ring(0, base=5)
    assert front.request(writable=2) == bytes([5, 6])


def test_buffers_that_wait_and_events_that_wait_go_along(stage: Stage) -> None:
    one, two = Counter(1), Counter(2)
    daemon, front = up(stage, one)
    one.events.post(b"kept")
    assert Move(stage.daemon(two, "successor")).go(daemon).failure is None
    token, address = front.post(1, writable=8)
    assert front.collect(1)[0] == token
    assert front.memory.read(address, 4) == b"kept"
    token, address = front.post(1, writable=8)
    until(lambda: two.events.has_buffer)
    three = Counter(3)
    assert Move(stage.daemon(three, "third")).go(two._daemon).failure is None  # type: ignore[arg-type]
    until(lambda: three.events.has_buffer)
    three.events.post(b"late")
    assert front.collect(1)[0] == token
    assert front.memory.read(address, 4) == b"late"


@pytest.mark.parametrize("fail_at", ["give", "commit"])
def test_until_it_is_committed_the_predecessor_goes_on(stage: Stage, fail_at: str) -> None:
    one, two = Counter(1), Counter(2)
    daemon, front = up(stage, one)
    front.request(writable=2)
    move = Move(stage.daemon(two, "successor"), fail_at=fail_at)
    assert isinstance(move.go(daemon).failure, UpgradeError)
    assert move.abandoned == 1
    assert front.request(writable=2) == bytes([1, 2])
    assert Move(stage.daemon(Counter(3), "third")).go(daemon).failure is None
    assert front.request(writable=2) == bytes([3, 3])


def test_afterwards_the_front_end_has_to_connect_again(stage: Stage) -> None:
    one, two = Counter(1), Counter(2)
    daemon, front = up(stage, one)
    move = Move(stage.daemon(two, "successor"), fail_at="lost")
    assert isinstance(move.go(daemon).failure, SuccessorLostError)
    until(lambda: not daemon.connected)
    assert daemon.session_end_reason == "it is gone"
    front.close()


def test_a_device_that_refuses_its_state_leaves_everything_as_it_was(stage: Stage) -> None:
    class Picky(Counter):
        state_name = "Counter"

        def load_state(self, state: Any, version: int) -> None:
            raise ValueError(f"not this one: {state}, {version}")

    one = Counter(1)
    daemon, front = up(stage, one)
    failure = Move(stage.daemon(Picky(2), "successor")).go(daemon).failure
    assert "not this one" in str(failure)
    assert front.request(writable=2) == bytes([1, 1])


def test_features_that_the_successor_lacks_are_named(stage: Stage) -> None:
    class Poor(Counter):
        state_name = "Counter"

        def features(self) -> int:
            return super().features() & ~int(VirtioFeature.RING_EVENT_IDX)

    daemon, front = up(stage, Counter(1))
    failure = Move(stage.daemon(Poor(2), "successor")).go(daemon).failure
    assert "RING_EVENT_IDX" in str(failure)
    assert front.request(writable=2) == bytes([1, 1])


def test_requests_that_do_not_end_keep_their_process(stage: Stage) -> None:
    one, two = Counter(1), Counter(2)
    daemon, front = up(stage, one)
    one.hold = True
    token, _ = front.post(writable=2)
    until(lambda: one.held)
    failure = Move(stage.daemon(two, "successor")).go(daemon).failure
    assert "1 requests of queue 0 did not end" in str(failure)
    one.hold = False
    one.held.pop().complete(0)
    assert front.collect()[0] == token
    assert front.request(writable=2) == bytes([1, 1])


def test_without_a_session_the_state_of_the_device_goes_along(stage: Stage) -> None:
    one, two = Counter(1), Counter(2)
    daemon = stage.daemon(one)
    one.count = 7
    daemon._begin(lambda: daemon._wake.sleep(10), once=False)
    assert Move(stage.daemon(two, "successor")).go(daemon).failure is None
    assert daemon.wait(10)
    assert two.count == 7


def test_the_dirty_log_goes_along(stage: Stage) -> None:
    daemon, front = stage.serve(Counter(1))
    front.negotiate(features=~0)
    front.share_memory()
    log = os.memfd_create("log")
    os.ftruncate(log, 1 << 16)
    bell = os.eventfd(0, os.EFD_NONBLOCK)
    front.call(ASK.SET_LOG_BASE, Log(1 << 16, 0), [log])
    front.call(ASK.SET_LOG_FD, None, [bell])
    front.start_ring(0)
    assert Move(stage.daemon(Counter(2), "successor")).go(daemon).failure is None
    os.pwrite(log, bytes(1 << 16), 0)
    assert front.request(writable=2) == bytes([2, 1])
    assert any(os.pread(log, 1 << 16, 0))
    until(lambda: os.eventfd_read(bell))
    os.close(log)
    os.close(bell)


def test_C116_the_in_flight_area_goes_along(stage: Stage) -> None:
    daemon, front = stage.serve(Counter(1))
    front.negotiate()
    front.share_memory()
    asked = front.connection.call(front.session, ASK.GET_INFLIGHT_FD, Inflight(0, 0, 2, 16), timeout=10)
    assert asked is not None
    with asked.fds as fds:
        area = fds.take_one()
    assert area is not None
    front.call(ASK.SET_INFLIGHT_FD, asked.payload, [area])
    os.close(area)
    front.start_ring(0)
    assert front.request(writable=2) == bytes([1, 1])
    one, two = stage.daemon(Counter(2), "second"), stage.daemon(Counter(3), "third")
    assert Move(one).go(daemon).failure is None
    assert one.vrings[0].recovery.tracked
    assert front.request(writable=2) == bytes([2, 2])
    assert Move(two).go(one).failure is None
    assert two.vrings[0].recovery.tracked
    assert front.request(writable=2) == bytes([3, 3])


def test_what_the_front_end_says_next_is_understood(stage: Stage) -> None:
    """Ring states, status and memory are those of before."""
    daemon, front = up(stage, Counter(1))
    front.call(ASK.SET_VRING_ENABLE, VringState(1, 0))
    front.call(ASK.SET_STATUS, U64(15))
    successor = stage.daemon(Counter(2), "successor")
    assert Move(successor).go(daemon).failure is None
    assert front.call(ASK.GET_STATUS).value == 15
    assert [vring.enabled for vring in successor.vrings] == [True, False]
    assert front.session.negotiation.has_protocol_feature(ProtocolFeature.STATUS)
    region = front.memory.regions[0]
    assert [each.guest_address for each in successor.memory.memory().regions] == [region.guest_address]
    front.call(ASK.RESET_DEVICE)


def test_a_daemon_that_serves_nobody_hands_nothing_over(stage: Stage) -> None:
    handover = Handover(lambda *_: None, lambda: None, lambda: None)
    stage.daemon(Counter()).hand_over(handover)
    assert handover.wait(0)
    assert isinstance(handover.failure, UpgradeError)
