"""The entropy device over a real socket, fed from every kind of source."""

from __future__ import annotations

import io
import logging
import random
import socket
import threading
import time
from collections.abc import Callable
from itertools import cycle

import pytest

from tests.support.front_end import until
from vhost_user import VhostUserBackend, VhostUserDaemon
from vhost_user.devices import Rng
from vhost_user.devices.rng import MAX_REQUEST, ByteSource
from vhost_user.frontend import RngDriver

Serve = Callable[[VhostUserBackend], socket.socket]


def test_host_entropy_fills_the_buffer(serve_device: Serve) -> None:
    with RngDriver(serve_device(Rng())) as rng:
        first, second = rng.read(256), rng.read(256)
    assert len(first) == len(second) == 256
    assert first != second


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (random.Random(7).randbytes, random.Random(7).randbytes(64)),
        (io.BytesIO(bytes(range(200))), bytes(range(64))),
        (cycle([b"abc"]), (b"abc" * 22)[:64]),
        (cycle(range(5)), (bytes(range(5)) * 13)[:64]),
        (lambda length: b"x" * (length + 10), b"x" * 64),
    ],
    ids=["function", "file", "byte strings", "numbers", "too many bytes"],
)
def test_any_source_of_bytes(serve_device: Serve, source: ByteSource, expected: bytes) -> None:
    with RngDriver(serve_device(Rng(source))) as rng:
        assert rng.read(64) == expected


def test_a_source_may_give_fewer_bytes_than_asked(serve_device: Serve) -> None:
    with RngDriver(serve_device(Rng(lambda _length: b"abc"))) as rng:
        assert rng.queue(0).request(writable=64) == b"abc"


def _failing(_length: int) -> bytes:
    raise OSError("the noise diode is broken")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ([b"1234"], "come to its end"),
        (io.BytesIO(b"1234"), "come to its end"),
        (lambda _length: b"", "come to its end"),
        (_failing, "failed"),
    ],
    ids=["iterable", "file", "function", "exception"],
)
def test_never_answers_without_a_byte(
    serve_device: Serve, source: ByteSource, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR), RngDriver(serve_device(Rng(source))) as rng:
        for _ in range(3):
            assert rng.queue(0).request(writable=16)
    messages = [record.getMessage() for record in caplog.records if record.name == "vhost_user.devices.rng"]
    assert len(messages) == 1
    assert reason in messages[0]
    assert "os.urandom takes its place" in messages[0]


def test_H47_a_huge_buffer_gets_a_bounded_answer(serve_device: Serve) -> None:
    with RngDriver(serve_device(Rng(lambda length: b"x" * length))) as rng:
        assert len(rng.queue(0).request(writable=[1 << 20] * 4)) == MAX_REQUEST


def test_V009_buffers_of_one_byte(serve_device: Serve) -> None:
    with RngDriver(serve_device(Rng(random.Random(3).randbytes))) as rng:
        assert rng.queue(0).request(writable=[1] * 9) == random.Random(3).randbytes(9)


def test_a_request_without_a_writable_byte_is_given_back(serve_device: Serve) -> None:
    with RngDriver(serve_device(Rng())) as rng:
        assert rng.queue(0).request(b"nothing to write to") == b""
        assert len(rng.read(8)) == 8


def test_rate_limit_holds_requests_back_until_the_next_period(serve_device: Serve) -> None:
    period = 0.2
    with RngDriver(serve_device(Rng(max_bytes=10, period=period))) as rng:
        began = time.monotonic()
        queue = rng.queue(0)
        pending = [queue.submit(writable=8) for _ in range(4)]
        lengths = [len(one.wait(10.0)) for one in pending]
        passed = time.monotonic() - began
    # 8 and 2 bytes in the first period, 8 and 2 in the second
    assert lengths == [8, 2, 8, 2]
    assert period * 0.9 <= passed < 5


@pytest.mark.alone
@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_C054_a_stop_is_answered_at_once_and_what_waited_is_served_after_the_restart(
    serve_device: Serve, packed: bool
) -> None:
    device = Rng(lambda length: b"x" * length, max_bytes=4, period=3600.0)
    with RngDriver(serve_device(device), packed=packed) as rng:
        queue = rng.queue(0)
        pending = [queue.submit(writable=8) for _ in range(3)]
        assert pending[0].wait(10.0) == b"xxxx"
        for _ in range(3):
            until(lambda: len(device._waiting) >= 2)
            before = time.monotonic()
            rng.stop_queue(0)
            assert time.monotonic() - before < 0.5  # a period takes an hour, stop_patience 5 seconds
            assert not any(request.alive for request in device._waiting)
            rng.start_queue(0)
            rng.frontend.set_vring_enable(0, True)
        assert not any(one.done for one in pending[1:])
        device.post(_begin_a_period, device).result(10.0)
        assert pending[1].wait(10.0) == b"xxxx"
        assert not pending[2].done


def _begin_a_period(device: Rng) -> None:
    device._period_ends = 0.0
    device._next_period()


@pytest.mark.alone
def test_C134_a_disconnect_while_requests_wait_for_the_next_period_takes_no_time(
    serve_device: Serve,
) -> None:
    device = Rng(max_bytes=1, period=3600.0)
    with RngDriver(serve_device(device)) as rng:
        queue = rng.queue(0)
        pending = [queue.submit(writable=8) for _ in range(3)]
        pending[0].wait(10.0)
        daemon = device._daemon
        assert isinstance(daemon, VhostUserDaemon)
        before = time.monotonic()
        rng.frontend.close()
        assert daemon.wait(10.0)
    assert time.monotonic() - before < 0.9  # RESET_DRAIN is a second
    assert not device._waiting


def test_rate_limit_does_not_outlive_the_session(serve_device: Serve) -> None:
    device = Rng(max_bytes=1, period=3600.0)
    with RngDriver(serve_device(device)) as rng:
        assert len(rng.queue(0).request(writable=8)) == 1
    device.close()
    assert device._timer is None
    assert not device._waiting


def test_C134_a_source_that_does_not_answer_keeps_no_session_from_ending(serve_device: Serve) -> None:
    asked, answer = threading.Event(), threading.Event()

    def source(length: int) -> bytes:
        asked.set()
        answer.wait(20)
        return b"x" * length

    device = Rng(source, max_bytes=100, period=3600.0)
    try:
        with RngDriver(serve_device(device)) as rng:
            rng.queue(0).submit(writable=8)
            assert asked.wait(10.0)
            daemon = device._daemon
            assert isinstance(daemon, VhostUserDaemon)
            rng.frontend.close()
            assert daemon.wait(10.0)
            assert not answer.is_set()
    finally:
        answer.set()


@pytest.mark.parametrize("source", [3.5, "text", object()])
def test_what_is_no_source_is_refused(source: object) -> None:
    with pytest.raises(TypeError, match="not a source of bytes"):
        Rng(source)  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize("arguments", [{"max_bytes": 0}, {"max_bytes": 5, "period": 0.0}, {"period": -1.0}])
def test_limits_that_make_no_sense_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"max_bytes is 0|period is"):
        Rng(**arguments)  # type: ignore[arg-type]  # numbers of both kinds
