"""What handlers of the batch loop raise: H75."""

from __future__ import annotations

import logging
from contextlib import suppress

import pytest

from tests.engine.pair import WRITE, D, MakePair, fill_ring
from vhost_user.engine.device.request import Request
from vhost_user.engine.errors import RingError


@pytest.mark.parametrize("whole", [False, True])
def test_H75_an_exception_completes_the_request_and_the_loop_goes_on(
    make_pair: MakePair, caplog: pytest.LogCaptureFixture, whole: bool
) -> None:
    pair = make_pair()
    tokens = fill_ring(pair, 3)

    def handler(request: Request) -> None:
        request.write(b"part")
        if request.read() == b"0001":
            raise ValueError("no")

    def batch(requests: list[Request]) -> None:
        for request in requests:
            handler(request)

    with caplog.at_level(logging.ERROR, "vhost_user.engine"):
        assert (pair.vring.process_batch(batch) if whole else pair.vring.process(handler)) == 3
    # In a batch the third was not reached: it goes back with what was written, nothing.
    used = {tokens[0]: 4, tokens[1]: 4, tokens[2]: 0 if whole else 4}
    assert dict(pair.queue.poll_many()) == used
    assert "the handler failed" in caplog.text
    assert "queue 0, head" in caplog.text


@pytest.mark.parametrize("whole", [False, True])
def test_H75_on_error_may_answer(make_pair: MakePair, whole: bool) -> None:
    pair = make_pair()
    token = fill_ring(pair, 1)[0]
    seen: list[BaseException] = []

    def fail(_request: object) -> None:
        raise KeyError("gone")

    def on_error(request: Request, error: BaseException) -> None:
        seen.append(error)
        request.write(b"E")
        request.complete()

    if whole:
        pair.vring.process_batch(fail, on_error)
    else:
        pair.vring.process(fail, on_error)
    assert pair.queue.poll() == (token, 1)
    assert [type(error) for error in seen] == [KeyError]


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
def test_H75_on_error_that_fails_loses_nothing(
    make_pair: MakePair, caplog: pytest.LogCaptureFixture, kind: type[BaseException]
) -> None:
    pair = make_pair()
    tokens = fill_ring(pair, 3)

    def fail(_request: Request) -> None:
        raise kind

    def on_error(_request: Request, _error: BaseException) -> None:
        raise kind

    assert pair.vring.process(fail, on_error) == 3
    assert [token for token, _ in pair.queue.poll_many()] == tokens
    assert "reporting an error" in caplog.text


def test_H75_a_failed_request_that_is_held_stays_held(make_pair: MakePair) -> None:
    pair = make_pair()
    token = fill_ring(pair, 1)[0]
    held: list[Request] = []

    def handler(request: Request) -> None:
        request.hold()
        held.append(request)
        raise ValueError("after taking over")

    pair.vring.process(handler, lambda _request, _error: None)
    assert pair.queue.poll() is None
    held[0].complete()
    assert pair.queue.poll() == (token, 0)


def test_an_error_that_holds_a_request_may_be_dropped_by_the_ring(make_pair: MakePair) -> None:
    """A traceback keeps frames, frames keep requests, and those go back to the ring that drops the error."""
    pair = make_pair()
    pair.offer(D(*pair.buffer(1)), head=0)
    pair.offer(D(*pair.buffer(1), WRITE), D(*pair.buffer(1)), head=1)

    def serve() -> None:
        request = pair.vring.pop()
        assert request is not None
        request.hold()
        pair.vring.pop()

    with suppress(RingError):
        serve()
    pair.vring.stop()
    pair.vring.start()
    pair.vring.reset()
