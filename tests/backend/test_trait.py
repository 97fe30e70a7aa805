"""The trait, method by method, as its page says and design.md decides."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.front_end import until
from tests.support.notebook import Notebook
from vhost_user import (
    BackChannel,
    RequestRefused,
    VhostUserBackend,
    VhostUserBackendMut,
    VhostUserDaemon,
    Vring,
)
from vhost_user.backend.backend import DEFAULT_FEATURES, DEFAULT_PROTOCOL_FEATURES
from vhost_user.engine.driver.memory import DEFAULT_GUEST_ADDRESS
from vhost_user.spec.features import ProtocolFeature, VirtioFeature
from vhost_user.spec.requests import FrontendRequest as Ask
from vhost_user.spec.structs import U64, Config

if TYPE_CHECKING:
    from tests.backend.conftest import Stage


def test_num_queues_and_max_queue_size(stage: Stage) -> None:
    device = Notebook()
    device.queues = 3
    daemon, front = stage.serve(device)
    front.negotiate()
    assert front.call(Ask.GET_QUEUE_NUM).value == 3
    assert [vring.max_size for vring in daemon.vrings] == [128] * 3


def test_features_and_protocol_features_are_offered(stage: Stage) -> None:
    _, front = stage.serve(Notebook())
    assert front.call(Ask.GET_FEATURES).value == DEFAULT_FEATURES | 1 << 3
    assert (
        not DEFAULT_FEATURES & VirtioFeature.RING_RESET
    )  # V045: QEMU offers it to drivers and forwards nothing
    # The framework's own part of any device is added.
    assert front.call(Ask.GET_PROTOCOL_FEATURES).value == (
        DEFAULT_PROTOCOL_FEATURES | ProtocolFeature.PAGEFAULT
    )


def test_C030_acked_features_do_not_contain_the_bits_of_vhost_user(stage: Stage) -> None:
    device = Notebook()
    _, front = stage.serve(device)
    front.negotiate(features=-1)
    assert device.called("acked_features") == [
        (DEFAULT_FEATURES | 1 << 3) & ~(VirtioFeature.PROTOCOL_FEATURES | VirtioFeature.LOG_ALL)
    ]


@pytest.mark.parametrize("wanted", [True, False])
def test_set_event_idx(stage: Stage, wanted: bool) -> None:
    device = Notebook()
    _, front = stage.serve(device)
    front.negotiate(features=-1 if wanted else ~int(VirtioFeature.RING_EVENT_IDX))
    assert device.called("set_event_idx") == [wanted]
    front.share_memory()
    front.start_ring()
    assert front.request(readable=b"abc", writable=3) == b"cba"


def test_update_memory_for_each_change(stage: Stage) -> None:
    device = Notebook()
    _, front = stage.serve(device)
    front.negotiate()
    front.share_memory()
    assert device.called("update_memory") == [[DEFAULT_GUEST_ADDRESS]]


def test_handle_event_gets_the_position_in_the_vrings_of_its_worker(stage: Stage) -> None:
    class Two(Notebook):
        queues = 3
        seen: list[tuple[int, list[int], int]]

        def queues_per_thread(self) -> Sequence[int | Collection[int]]:
            return [{1}, {2, 0}]

        def handle_event(
            self, device_event: int, event_set: int, vrings: Sequence[Vring], thread_id: int
        ) -> bool | None:
            self.seen.append((device_event, [vring.index for vring in vrings], thread_id))
            return super().handle_event(device_event, event_set, vrings, thread_id)

    device = Two()
    device.seen = []
    daemon, front = stage.serve(device)
    assert [[vring.index for vring in worker.vrings] for worker in daemon.get_epoll_handlers()] == [
        [1],
        [0, 2],
    ]
    front.negotiate()
    front.share_memory()
    # An event of a ring may still come after its last answer; never with another position.
    known: set[str] = set()
    for index, expected in ((0, (0, [0, 2], 1)), (1, (0, [1], 0)), (2, (1, [0, 2], 1))):
        known.add(str(expected))
        front.start_ring(index)
        assert front.request(index, b"abc", 3) == b"cba"
        assert set(map(str, device.seen)) == known


def test_handle_event_returning_true_ends_that_worker(stage: Stage) -> None:
    class Quitter(Notebook):
        queues = 2

        def queues_per_thread(self) -> Sequence[int | Collection[int]]:
            return [1, 1]

        def handle_event(
            self, device_event: int, event_set: int, vrings: Sequence[Vring], thread_id: int
        ) -> bool | None:
            super().handle_event(device_event, event_set, vrings, thread_id)
            return thread_id == 0

    _, front = stage.serve(Quitter())
    front.bring_up(queues=2)
    until(lambda: "test-worker-0" not in {thread.name for thread in threading.enumerate()})
    assert front.request(1, b"abc", 3) == b"cba"
    front.post(0, b"abc", 3)
    assert not front.rings[0].wait(0.05)


def test_an_exception_out_of_handle_event_is_logged_and_the_worker_goes_on(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    class Clumsy(Notebook):
        failed = False

        def handle_event(
            self, device_event: int, event_set: int, vrings: Sequence[Vring], thread_id: int
        ) -> bool | None:
            if vrings[0].runnable and not self.failed:
                self.failed = True
                raise ValueError("dropped it")
            return super().handle_event(device_event, event_set, vrings, thread_id)

    _, front = stage.serve(Clumsy())
    front.bring_up()
    until(lambda: "handle_event failed for queue 0 in worker 0" in caplog.text)
    assert "dropped it" in caplog.text
    assert front.request(readable=b"abc", writable=3) == b"cba"


def test_C128_get_config_of_another_length_is_an_error_reply(stage: Stage) -> None:
    class Short(Notebook):
        def get_config(self, offset: int, size: int) -> bytes:
            return b"0123456789"[offset : offset + size]

    _, front = stage.serve(Short())
    front.negotiate()
    assert front.call(Ask.GET_CONFIG, Config(2, bytes(4), 0)) == Config(2, b"2345", 0)
    with pytest.raises(RequestRefused):
        front.call(Ask.GET_CONFIG, Config(8, bytes(4)))
    assert front.call(Ask.GET_QUEUE_NUM).value == 1


def test_set_config_gets_offset_and_bytes_and_may_refuse(stage: Stage) -> None:
    class Writable(Notebook):
        def set_config(self, offset: int, data: bytes) -> None:
            if offset:
                raise OSError("not there")
            self.calls.append(("set_config", data))

    device = Writable()
    _, front = stage.serve(device)
    front.negotiate()
    front.call(Ask.SET_CONFIG, Config(0, b"abc"))
    with pytest.raises(RequestRefused):
        front.call(Ask.SET_CONFIG, Config(1, b"x"))
    front.call(Ask.SET_CONFIG, Config(0, b"y"))
    assert device.called("set_config") == [b"abc", b"y"]


def test_set_config_is_refused_by_default(stage: Stage) -> None:
    _, front = stage.serve(Notebook())
    front.negotiate()
    with pytest.raises(RequestRefused):
        front.call(Ask.SET_CONFIG, Config(0, b"abc"))


def test_set_backend_req_fd_and_its_former_name_are_called(stage: Stage) -> None:
    import socket

    class Former(Notebook):
        def set_backend_req_fd(self, backend: BackChannel) -> None:
            self.calls.append(("set_backend_req_fd", backend))

        def set_slave_req_fd(self, backend: BackChannel) -> None:
            self.calls.append(("set_slave_req_fd", backend))

    device = Former()
    daemon, front = stage.serve(device)
    front.negotiate()
    ours, theirs = socket.socketpair()
    front.call(Ask.SET_BACKEND_REQ_FD, fds=[theirs.fileno()])
    theirs.close()
    (backend,) = device.called("set_backend_req_fd")
    assert device.called("set_slave_req_fd") == [backend]
    assert not backend.closed
    front.close()
    assert daemon.wait(10)
    assert backend.closed
    assert ours.recv(1) == b""
    ours.close()


@pytest.mark.parametrize("pair", [True, False])
def test_exit_event_ends_its_worker_and_no_other(stage: Stage, pair: bool) -> None:
    events = [os.eventfd(0), os.eventfd(0)]

    class Ending(Notebook):
        queues = 2

        def queues_per_thread(self) -> Sequence[int | Collection[int]]:
            return [1, 1]

        def exit_event(self, thread_index: int) -> Any:
            return (events[thread_index], 77) if pair else events[thread_index]

    device = Ending()
    _, front = stage.serve(device)
    front.bring_up(queues=2)
    os.eventfd_write(events[0], 1)
    until(lambda: "test-worker-0" not in {thread.name for thread in threading.enumerate()})
    assert front.request(1, b"abc", 3) == b"cba"
    assert all(event != 77 for event, _, _ in device.events)
    for event in events:
        os.fstat(event)  # it stays its owner's
        os.close(event)


def test_listeners_reach_handle_event_and_wrong_ids_are_refused(stage: Stage) -> None:
    device = Notebook()
    daemon, _ = stage.serve(device)
    (handler,) = daemon.get_epoll_handlers()
    event = os.eventfd(0, os.EFD_NONBLOCK)
    for reserved in (0, 1):
        with pytest.raises(ValueError, match="listener id"):
            handler.register_listener(event, select.EPOLLIN, reserved)
    handler.register_listener(event, select.EPOLLIN, 2)
    with pytest.raises(ValueError, match="in use"):
        handler.register_listener(event, select.EPOLLIN, 2)
    os.eventfd_write(event, 1)
    assert device.happened.wait(10)
    handler.unregister_listener(event, select.EPOLLIN, 2)
    assert (2, select.EPOLLIN, 0) in device.events
    with pytest.raises(ValueError, match="no listener"):
        handler.unregister_listener(event, select.EPOLLIN, 2)
    os.close(event)


def test_an_incomplete_back_end_is_named() -> None:
    class Nothing(VhostUserBackend):
        pass

    with pytest.raises(NotImplementedError, match=r"Nothing must define num_queues\(\)"):
        VhostUserDaemon("test", Nothing())


class Overlap:
    """Notices two threads in it at once."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0
        self.together = threading.Event()

    def __enter__(self) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        if self.inside > 1:
            self.together.set()

    def __exit__(self, *_: object) -> None:
        self.inside -= 1


def slow_class(base: type[VhostUserBackend], patience: float) -> type[Notebook]:
    class Slow(Notebook, base):  # type: ignore[misc, valid-type]  # the base is the test's parameter
        queues = 2

        def __init__(self) -> None:
            Notebook.__init__(self)
            self.overlap = Overlap()

        def queues_per_thread(self) -> Sequence[int | Collection[int]]:
            return [1, 1]

        def handle_event(
            self, device_event: int, event_set: int, vrings: Sequence[Vring], thread_id: int
        ) -> bool | None:
            with self.overlap:
                self.overlap.together.wait(patience)
                return super().handle_event(device_event, event_set, vrings, thread_id)

        def get_config(self, offset: int, size: int) -> bytes:
            with self.overlap:
                return bytes(range(offset, offset + size))

    return Slow


def test_VhostUserBackend_is_called_by_several_threads_at_once(stage: Stage) -> None:
    device = slow_class(VhostUserBackend, 10)()
    _, front = stage.serve(device)
    front.bring_up(queues=2)
    front.post(0, b"abc", 3)
    front.post(1, b"abc", 3)
    front.collect(0)
    front.collect(1)
    assert device.overlap.most == 2  # type: ignore[attr-defined]  # of Slow


def test_VhostUserBackendMut_is_called_by_one_thread_at_a_time(stage: Stage) -> None:
    device = slow_class(VhostUserBackendMut, 0.02)()
    _, front = stage.serve(device)
    front.bring_up(queues=2)
    for _ in range(3):
        front.post(0, b"abc", 3)
        front.post(1, b"abc", 3)
        front.call(Ask.GET_CONFIG, Config(0, bytes(4)))
        front.collect(0)
        front.collect(1)
    assert device.overlap.most == 1  # type: ignore[attr-defined]  # of Slow


def test_C093_whatever_the_device_raises_is_a_refusal_and_the_connection_lives(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Notebook):
        def acked_features(self, features: int) -> None:
            raise ZeroDivisionError(f"bug in {features:#x}")

    _, front = stage.serve(Broken())
    front.call(Ask.GET_FEATURES)
    offered = front.call(Ask.GET_PROTOCOL_FEATURES).value
    front.call(Ask.SET_PROTOCOL_FEATURES, U64(offered), need_reply=False)
    with pytest.raises(RequestRefused):
        front.call(Ask.SET_FEATURES, U64(VirtioFeature.VERSION_1))
    assert "ZeroDivisionError: bug in 0x1" in caplog.text
    assert front.call(Ask.GET_QUEUE_NUM).value == 1


def test_C026_C096_a_refusal_does_not_end_the_session(stage: Stage) -> None:
    _, front = stage.serve(Notebook())
    front.negotiate()
    front.session.negotiation.offered_features |= 1 << 60
    with pytest.raises(RequestRefused):
        front.call(Ask.SET_FEATURES, U64(1 << 60))
    front.share_memory()
    front.start_ring()
    assert front.request(readable=b"abc", writable=3) == b"cba"
