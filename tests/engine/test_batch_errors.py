"""What a request of a batch is refused for leaves the others alone: H75, H76, V011, V014."""

from __future__ import annotations

import logging

import pytest

from tests.engine.batches import DISK, HUGE, IN, header, lengths, offer, read_back, serve
from tests.engine.pair import WRITE, D, MakePair, Pair
from vhost_user.engine.device.batch import Batch
from vhost_user.engine.device.header import Header
from vhost_user.engine.device.request import Request
from vhost_user.engine.errors import MemoryFault, RequestError


@pytest.fixture
def pair(make_pair: MakePair) -> Pair:
    pair = make_pair(64)
    pair.vring.set_header(Header("<IIQ"))
    return pair


@pytest.mark.parametrize("by_offsets", [True, False])
@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (header(IN, 4), "outside of a buffer"),
        (header(IN, HUGE), "Error"),
        (header(IN, HUGE >> 1), "outside of a buffer"),
        (header(IN, (HUGE >> 9) + 1), "outside of a buffer"),
        (b"short", "V009"),
    ],
    ids=["past-the-end", "no-offset", "wraps-as-bytes", "wraps-to-zero", "no-header"],
)
def test_H75_H76_one_bad_request_does_not_spoil_the_others(
    pair: Pair, bad: bytes, word: str, by_offsets: bool
) -> None:
    made = [offer(pair, content, 513) for content in (header(IN, 0), bad, header(IN, 3))]
    left: list[int] = []

    def handler(requests: Batch) -> None:
        whole = list(requests)
        for group in requests.by_field(0).values():
            if by_offsets:
                group.write_from(DISK, group.field(2), unit=512, keep=1)
            else:
                group.write_from(DISK, at_field=2, unit=512, keep=1)
            left.append(len(group))
        requests.write_last(b"\0")
        left.append(len(requests))
        assert [request.error is None for request in whole] == [True, False, True]
        assert not reported

    reported: list[tuple[Request, str]] = []
    reported += serve(pair, handler)
    assert len(reported) == 1
    assert word in reported[0][1]
    assert left == [2, 2]
    assert lengths(pair) == [513, 0, 513]
    assert read_back(pair, made[0][1]) == DISK[:512] + b"\0"
    assert read_back(pair, made[1][1]) == b"\xee" * 513
    assert read_back(pair, made[2][1]) == DISK[1536:] + b"\0"


def test_V011_an_unmapped_buffer_is_that_requests_fault(pair: Pair) -> None:
    pair.offer(D(pair.buffer(b"x")[0], 1), D(0xDEAD_0000, 16, WRITE), head=0)
    good = pair.buffer(16)
    pair.offer(D(pair.buffer(b"y")[0], 1), D(good[0], 16, WRITE), head=4)
    reported = serve(pair, lambda requests: requests.fill(7))
    assert len(reported) == 1
    assert reported[0][1].startswith(MemoryFault.__name__)
    assert "0xdead0000" in reported[0][1]
    assert read_back(pair, good) == b"\7" * 16


def test_V014_what_does_not_fit_is_refused_whole(pair: Pair) -> None:
    made = [offer(pair, b"x", room) for room in (2, 8)]
    reported = serve(pair, lambda requests: requests.write([b"four", b"four"]))
    assert ["V014" in text for _, text in reported] == [True]
    assert [read_back(pair, answer) for _, answer in made] == [b"\xee" * 2, b"four" + b"\xee" * 4]

    offer(pair, b"x", 3)
    reported = serve(pair, lambda requests: requests.fill(0, keep=4))
    assert ["3 writable bytes are left, 4 were to be kept" in text for _, text in reported] == [True]


def test_arguments_must_be_one_for_each(pair: Pair) -> None:
    for _ in range(3):
        pair.add([b"x"], [4])

    def handler(requests: Batch) -> None:
        with pytest.raises(ValueError, match="2 offsets for 3 requests"):
            requests.write_from(DISK, [0, 0])
        with pytest.raises(ValueError, match="4 pieces of data for 3"):
            requests.write([b""] * 4)
        with pytest.raises(ValueError, match="unit of 0"):
            requests.read_to(bytearray(4), [0, 0, 0], unit=0)
        with pytest.raises(ValueError, match="-1 bytes to keep"):
            requests.fill(0, keep=-1)
        with pytest.raises(ValueError, match="256"):
            requests.fill(256)
        with pytest.raises(TypeError):
            requests.write_from(DISK, ["here", 0, 0])  # type: ignore[list-item]
        with pytest.raises(BufferError):
            requests.read_to(b"read-only", [0, 0, 0])
        assert len(requests) == 3
        assert requests.read() == [b"x"] * 3

    assert serve(pair, handler) == []
    assert lengths(pair) == [0, 0, 0]


def test_a_batch_of_something_else_is_refused() -> None:
    with pytest.raises(TypeError, match="a batch holds requests, not str"):
        Batch(["request"]).fill(0)  # type: ignore[list-item]


def test_H75_an_exception_is_for_those_that_have_no_error_of_their_own(pair: Pair) -> None:
    for room in (1, 8):
        pair.add([b"x"], [room])

    def handler(requests: Batch) -> None:
        requests.write([b"abc", b"abc"])
        raise KeyError("after all")

    reported = serve(pair, handler)
    assert [text.partition(":")[0] for _, text in reported] == ["RequestError", "KeyError"]


def test_H75_a_held_request_that_was_refused_is_reported_and_completed(pair: Pair) -> None:
    pair.add([b"x"], [1])
    held: list[Request] = []

    def handler(requests: Batch) -> None:
        held.extend(requests)
        requests[0].hold()
        requests.write([b"too long"])

    assert len(serve(pair, handler)) == 1
    assert held[0].completed
    with pytest.raises(RequestError):
        held[0].complete()


def test_recycled_requests_have_no_error(pair: Pair) -> None:
    pair.add([b"x"], [1])
    assert len(serve(pair, lambda requests: requests.write([b"ab"]))) == 1
    seen: list[object] = []
    pair.add([b"x"], [1])
    assert serve(pair, lambda requests: seen.extend(request.error for request in requests)) == []
    assert seen == [None]


def test_an_error_without_a_listener_is_logged(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    pair.add([b"x"], [1])
    with caplog.at_level(logging.ERROR):
        pair.vring.process_batch(lambda requests: requests.write([b"ab"]))
    assert "the handler failed" in caplog.text
    assert lengths(pair) == [0]
