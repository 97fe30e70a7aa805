"""What a device's methods return or raise: nonsense is named, and never ends the daemon."""

from __future__ import annotations

import socket
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.front_end import until
from tests.support.notebook import Notebook
from vhost_user import Device, Listener, Request, RequestRefused, ServedBy, VhostUserDaemon, queues_from_masks
from vhost_user.backend.backend import DEFAULT_FEATURES, DEFAULT_PROTOCOL_FEATURES
from vhost_user.protocol.errors import Disconnected
from vhost_user.protocol.listener import connect
from vhost_user.spec.requests import FrontendRequest as Ask
from vhost_user.spec.structs import Config

if TYPE_CHECKING:
    from tests.backend.conftest import Stage


def answering(method: str, answer: Any) -> Notebook:
    """A device one of whose methods returns ``answer``, or raises it."""

    def replaced(*_: Any) -> Any:
        if isinstance(answer, BaseException):
            # A new one: CPython 3.13 without the GIL keeps classes for ever, and all that this one refers to.
            raise type(answer)(*answer.args)
        return answer

    kind: type[Notebook] = type("Odd", (Notebook,), {method: replaced})
    return kind()


NUMBERS = ("num_queues", "max_queue_size", "features", "protocol_features")


@pytest.mark.parametrize("answer", [None, 1.0, True, "1", [1], b"\1"])
@pytest.mark.parametrize("method", NUMBERS)
def test_a_method_that_returns_no_number_is_named_when_the_daemon_is_made(method: str, answer: Any) -> None:
    with pytest.raises(TypeError, match=rf"Odd\.{method}\(\) returned .*an int"):
        VhostUserDaemon("test", answering(method, answer))


@pytest.mark.parametrize("answer", [-1, 1 << 64])
@pytest.mark.parametrize("method", ["features", "protocol_features"])
def test_feature_bits_are_64(method: str, answer: int) -> None:
    with pytest.raises(ValueError, match=rf"Odd\.{method}\(\) returned"):
        VhostUserDaemon("test", answering(method, answer))


@pytest.mark.parametrize("method", [*NUMBERS, "queues_per_thread", "exit_event", "attached"])
def test_what_a_method_raises_when_the_daemon_is_made_comes_out(method: str) -> None:
    with pytest.raises(ZeroDivisionError, match="it broke"):
        VhostUserDaemon("test", answering(method, ZeroDivisionError("it broke")))


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (None, "it must return a list"),
        (2, "it must return a list"),
        ("1", "it must return a list"),
        ({1}, "it must return a list"),
        ([1.0], "the entry of worker 0 is 1.0"),
        ([True], "the entry of worker 0 is True"),
        ([None], "the entry of worker 0 is None"),
        (["0"], "the entry of worker 0 is '0'"),
        ([{"0"}], "worker 0 has '0', which is not a queue index"),
        ([[False]], "worker 0 has False"),
    ],
)
def test_queues_per_thread_of_a_wrong_kind(answer: Any, problem: str) -> None:
    with pytest.raises(TypeError, match=problem):
        VhostUserDaemon("test", answering("queues_per_thread", answer))


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ([0xFFFF_FFFF], r"look like bit masks: return queues_from_masks\(\[0xffffffff\]\)"),
        ([10_000_000], r"for bit masks use queues_from_masks\(\)"),
        ([1 << 200], r"queues_from_masks\(\)"),
        ([range(1 << 40)], "queue 1 does not exist"),
        ([1] + [0] * 10_000_000, "256 are possible"),
        ([[0, 0]], "queue 0 is named twice for worker 0"),
    ],
)
def test_queues_per_thread_is_bounded_before_anything_is_allocated(answer: Any, problem: str) -> None:
    device = answering("queues_per_thread", answer)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=problem):
            VhostUserDaemon("test", device)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("masks", "queues", "assigned"),
    [
        ([0xFFFF_FFFF], 1, [[0]]),
        ([0xFFFF_FFFF], 40, None),
        ([0xFFFF_FFFF], 3, [[0, 1, 2]]),
        ([(1 << 64) - 1], 3, [[0, 1, 2]]),
        ([0b0101, 0xFFFF_FFFA], 5, [[0, 2], [1, 3, 4]]),
        ([0b011, 0b1000], 2, None),
        ([0b101], 1, None),
        ([0b1011], 2, None),
        ([0b01, 0b11], 2, None),
    ],
)
def test_surplus_bits_of_a_mask_are_ignored_where_they_mean_all_queues(
    masks: list[int], queues: int, assigned: list[list[int]] | None
) -> None:
    device = answering("queues_per_thread", queues_from_masks(masks))
    device.queues = queues
    if assigned is None:
        with pytest.raises(ValueError, match="queue"):
            VhostUserDaemon("test", device)
        return
    with VhostUserDaemon("test", device) as daemon:
        assert [[vring.index for vring in worker.vrings] for worker in daemon.workers] == assigned


def test_masks_of_a_wrong_kind_are_refused() -> None:
    for wrong in (True, 1.0, None, "1"):
        with pytest.raises(TypeError, match="of worker 0 is not an int"):
            queues_from_masks([wrong])  # type: ignore[list-item]  # that is the point
    with pytest.raises(ValueError, match="has 10000001 bits"):
        queues_from_masks([1 << 10_000_000])


def test_exit_event_of_a_wrong_kind_is_named(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as regular:
        for answer, kind, problem in (
            ("1", TypeError, "a file descriptor or an object"),
            (True, TypeError, "a file descriptor or an object"),
            ((regular, 1, 2), TypeError, "an eventfd and a token"),
            (1 << 40, ValueError, "not an open file descriptor"),
            (-1, ValueError, "not an open file descriptor"),
            (regular, ValueError, "cannot be waited for"),
        ):
            with pytest.raises(kind, match=rf"Odd\.exit_event\(0\) returned .*{problem}"):
                VhostUserDaemon("test", answering("exit_event", answer))


def test_what_is_not_a_back_end_is_told() -> None:
    with pytest.raises(TypeError, match=r"Notebook is a class; the daemon serves an object: Notebook\(\)"):
        VhostUserDaemon("test", Notebook)  # type: ignore[arg-type]  # that is the point
    with pytest.raises(TypeError, match="int is not a back-end"):
        VhostUserDaemon("test", 7)  # type: ignore[arg-type]  # that is the point


def test_coroutines_in_place_of_methods_are_refused() -> None:
    class Lazy(Notebook):
        async def acked_features(self, features: int) -> None:  # type: ignore[override]  # that is the point
            pass

    with pytest.raises(TypeError, match=r"Lazy\.acked_features is an async function"):
        VhostUserDaemon("test", Lazy())


@pytest.mark.parametrize("method", ["features", "protocol_features"])
@pytest.mark.parametrize("answer", [None, 1.5, -1, RuntimeError("unwell"), SystemExit(3)], ids=repr)
def test_a_session_is_refused_while_the_device_cannot_say_what_it_offers(
    stage: Stage, tmp_path: Path, caplog: pytest.LogCaptureFixture, method: str, answer: Any
) -> None:
    good = {"features": DEFAULT_FEATURES, "protocol_features": DEFAULT_PROTOCOL_FEATURES}[method]
    device = answering(method, good)
    daemon = stage.daemon(device)
    with Listener.bind(tmp_path / "s") as listener:
        daemon.start(listener)
        healthy = getattr(type(device), method)
        setattr(type(device), method, getattr(type(answering(method, answer)), method))
        front = stage.front_end(connect(tmp_path / "s"))
        with pytest.raises((Disconnected, OSError)):
            front.call(Ask.GET_FEATURES)
        until(lambda: daemon.session_end_reason, "the refusal")
        assert "it was refused" in str(daemon.session_end_reason)
        assert "a front-end is refused: the device cannot say what it offers" in caplog.text
        assert daemon.sessions == 0
        setattr(type(device), method, healthy)
        front = stage.front_end(connect(tmp_path / "s"))
        front.bring_up()
        assert front.request(readable=b"abc", writable=3) == b"cba"
        daemon.stop()
        assert daemon.wait(10)


@pytest.mark.parametrize(
    "answer", ["abcd", 4, None, [1, 2, 3, 4], SystemExit(3), KeyboardInterrupt()], ids=repr
)
def test_C093_a_configuration_that_is_not_bytes_is_an_error_reply(
    stage: Stage, caplog: pytest.LogCaptureFixture, answer: Any
) -> None:
    daemon, front = stage.serve(answering("get_config", answer))
    front.negotiate()
    with pytest.raises(RequestRefused):
        front.call(Ask.GET_CONFIG, Config(0, bytes(4)))
    assert "GET_CONFIG failed in the device" in caplog.text
    if not isinstance(answer, BaseException):
        assert "Odd.get_config() returned" in caplog.text
    assert front.call(Ask.GET_QUEUE_NUM).value == 1
    assert daemon.connected


@pytest.mark.parametrize("answer", [bytearray(b"abcd"), memoryview(b"abcd")], ids=["bytearray", "memoryview"])
def test_a_configuration_may_be_any_buffer(stage: Stage, answer: Any) -> None:
    _, front = stage.serve(answering("get_config", answer))
    front.negotiate()
    assert front.call(Ask.GET_CONFIG, Config(0, bytes(4))).data == b"abcd"


def test_C134_a_session_ends_in_order_when_the_device_exits(
    stage: Stage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Leaving(Notebook):
        def session_ended(self) -> None:
            raise SystemExit(3)

    daemon = stage.daemon(Leaving())
    with Listener.bind(tmp_path / "s") as listener:
        daemon.start(listener)
        for _ in range(2):
            front = stage.front_end(connect(tmp_path / "s"))
            front.bring_up()
            assert front.request(readable=b"abc", writable=3) == b"cba"
            front.close()
            until(lambda: not daemon.connected, "the end of the session")
        daemon.stop()
        assert daemon.wait(10)
    assert "the session could not be taken down in order" in caplog.text


def test_the_reason_of_a_session_s_end_is_there_when_the_device_is_told(stage: Stage) -> None:
    class Curious(Notebook):
        def attached(self, daemon: ServedBy) -> None:
            self.daemon = daemon

        def session_ended(self) -> None:
            self.calls.append(("ended", self.daemon.session_end_reason))

    device = Curious()
    daemon, front = stage.serve(device)
    before = daemon.session_end_reason
    assert before is None
    front.negotiate()
    front.connection.close()
    assert daemon.wait(10)
    assert device.called("ended") == [daemon.session_end_reason]
    assert "closed" in str(daemon.session_end_reason)
    ours, theirs = socket.socketpair()
    daemon.start_connection(theirs)
    ours.sendall(b"\xff" * 12)
    assert daemon.wait(10)
    assert "after an error: " in str(daemon.session_end_reason)
    ours.close()
    ours, theirs = socket.socketpair()
    daemon.start_connection(theirs)
    until(lambda: daemon.connected, "the connection")
    daemon.stop()
    assert daemon.wait(10)
    assert daemon.session_end_reason == "the back-end was stopped"
    ours.close()


class Plain(Device):
    def handle(self, request: Request) -> None: ...


@pytest.mark.parametrize("kind", [Plain, Notebook])
def test_a_device_has_one_daemon_at_a_time(stage: Stage, kind: type[Plain] | type[Notebook]) -> None:
    device = kind()
    with VhostUserDaemon("first", device) as first:
        with pytest.raises(ValueError, match=rf"second: this {kind.__name__} is served by daemon 'first'"):
            VhostUserDaemon("second", device)
        ours, theirs = socket.socketpair()
        first.start_connection(theirs)
        front = stage.front_end(ours)
        front.bring_up()
        front.request(readable=b"abc", writable=3)
    with VhostUserDaemon("second", device):
        pass


def test_a_daemon_that_could_not_be_made_does_not_keep_its_device() -> None:
    device = answering("attached", ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        VhostUserDaemon("first", device)
    type(device).attached = lambda *_: None  # type: ignore[method-assign]  # it is well again
    with VhostUserDaemon("second", device):
        pass


def test_close_is_called_once_and_what_it_raises_comes_out_after_all_is_released() -> None:
    closed = []

    class Closing(Notebook):
        def close(self) -> None:
            closed.append(self)
            raise OSError("a disk full of tears")

    device = Closing()
    daemon = VhostUserDaemon("test", device)
    with pytest.raises(OSError, match="tears"):
        daemon.close()
    daemon.close()
    assert closed == [device]
    assert daemon.workers == ()
