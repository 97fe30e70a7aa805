"""Request: streams, headers, writing, completion (request.pyi; V009, V014, V021, C134)."""

from __future__ import annotations

import gc
import os
import struct
from collections.abc import Callable

import pytest

from tests.engine.pair import WRITE, D, MakePair, Pair, used_length, written
from vhost_user.engine.device.header import Header
from vhost_user.engine.device.request import DescriptorChain, Request
from vhost_user.engine.errors import RequestError


@pytest.fixture
def pair(make_pair: MakePair) -> Pair:
    return make_pair(16)


# ---------------------------------------------------------------------- reading
def test_V009_the_readable_part_is_one_stream(pair: Pair) -> None:
    request = pair.serve([b"ab", b"cde", b"f", b"ghij"])
    assert (request.readable, request.readable_total, request.writable_total) == (10, 10, 0)
    assert [request.read(1), request.read(3), request.read(0), request.read(2)] == [b"a", b"bcd", b"", b"ef"]
    assert request.readable == 4
    assert request.read(100) == b"ghij"
    assert (request.read(), request.read(1), request.readable) == (b"", b"", 0)


def test_read_into_and_read_to(pair: Pair) -> None:
    request = pair.serve([b"abc", b"defgh"])
    buffer = bytearray(10)
    assert request.read_to(buffer, 2, 4) == 4
    assert bytes(buffer) == b"\0\0abcd\0\0\0\0"
    assert request.read_to(buffer, 9) == 1
    assert request.read_into(buffer) == 3
    assert bytes(buffer[:3]) == b"fgh"
    assert request.read_into(buffer) == 0
    for offset in (-1, 11):
        with pytest.raises(ValueError, match="offset"):
            request.read_to(buffer, offset)
    with pytest.raises((TypeError, BufferError)):
        request.read_into(b"constant")
    with pytest.raises(TypeError):
        request.read_into(7)  # type: ignore[arg-type] # that is the point


def test_V009_unpack_needs_every_byte(pair: Pair) -> None:
    request = pair.serve([b"\1\0\0", b"\0\2\0", b"\3"])
    assert request.unpack("<IH") == (1, 2)
    with pytest.raises(RequestError, match="V009"):
        request.unpack(struct.Struct("<H"))
    assert request.unpack("B") == (3,)


def test_skip_readable(pair: Pair) -> None:
    request = pair.serve([b"abc", b"def"])
    request.skip_readable(4)
    assert request.read() == b"ef"
    for length in (1, -1):
        with pytest.raises(RequestError):
            request.skip_readable(length)


def test_large_reads_and_writes(pair: Pair) -> None:
    content = os.urandom(200_000)
    request = pair.serve([content[:70_000], content[70_000:]], [150_000, 50_000])
    target = bytearray(200_000)
    assert request.read_to(target) == 200_000
    assert bytes(target) == content
    assert request.write_from(content) == 200_000
    request.complete()
    assert used_length(pair) == 200_000


# ---------------------------------------------------------------------- headers
def test_V009_V051_the_header_is_decoded_once(pair: Pair) -> None:
    pair.vring.set_header(Header("<IIQ"))
    request = pair.serve([struct.pack("<II", 1, 2), struct.pack("<Q", 1 << 60) + b"rest"])
    assert request.header == (1, 2, 1 << 60)
    assert request.readable == 4
    address = pair.memory.regions[0].guest_address
    pair.memory.fill(address + (1 << 20), 1 << 20, 0xFF)
    assert request.header == (1, 2, 1 << 60)
    assert request.read() == b"rest"


def test_the_header_is_the_first_bytes_whatever_was_read(pair: Pair) -> None:
    pair.vring.set_header(Header("<HB"))
    request = pair.serve([b"\1\0\2payload"])
    assert request.read(5) == b"\1\0\2pa"
    assert request.header == (1, 2)
    assert request.read() == b"yload"


def test_V009_H14_a_request_shorter_than_its_header(pair: Pair) -> None:
    pair.vring.set_header(Header("<IIQ"))
    request = pair.serve([b"short"])
    with pytest.raises(RequestError, match="V009"):
        _ = request.header
    assert request.read() == b"short"


def test_a_header_that_was_not_declared(pair: Pair) -> None:
    with pytest.raises(RequestError, match="declared"):
        _ = pair.serve([b"x"]).header


@pytest.mark.parametrize(
    ("layout", "values"),
    [
        ("<bBhHiIqQ", (-1, 255, -2, 65535, -3, 4294967295, -4, (1 << 64) - 1)),
        ("<B3xI", (7, 9)),
        ("<4H2x2B", (1, 2, 3, 4, 5, 6)),
        ("=lL", (-5, 5)),
        ("BQ", (1, 2)),
    ],
)
def test_headers_decode_as_struct_does(pair: Pair, layout: str, values: tuple[int, ...]) -> None:
    little = "<" + layout.lstrip("<=")
    header = Header(layout)
    assert (header.size, header.format) == (struct.calcsize(little), layout)
    pair.vring.set_header(header)
    assert pair.serve([struct.pack(little, *values)]).header == values


@pytest.mark.parametrize(
    "layout", ["", "<", ">I", "!I", "@I", "<s", "<4s", "<f", "<33B", "<257x", "<I?", "<I I", "<P"]
)
def test_headers_that_are_refused(layout: str) -> None:
    with pytest.raises(ValueError, match="header"):
        Header(layout)


# ---------------------------------------------------------------------- writing
def test_V009_the_writable_part_is_one_stream(pair: Pair) -> None:
    first, second = pair.buffer(3), pair.buffer(5)
    pair.queue.add([], [first, second])
    pair.queue.publish()
    request = pair.take()
    assert (request.write(b"ab"), request.pack("<HB", 0x6463, 0x65), request.fill(0x66, 2)) == (2, 3, 2)
    assert (request.writable, request.written) == (1, 7)
    assert request.write_from(bytearray(b"xyz"), 1, 1) == 1
    assert written(pair, *first) + written(pair, *second) == b"abcdeffy"
    assert request.write(b"") == 0


def test_V014_what_does_not_fit_is_refused_whole(pair: Pair) -> None:
    place = pair.buffer(4)
    pair.queue.add([], [place])
    pair.queue.publish()
    request = pair.take()
    for attempt in (
        lambda: request.write(b"12345"),
        lambda: request.fill(0, 5),
        lambda: request.write_last(b"12345"),
        lambda: request.pack("<Q", 1),
        lambda: request.skip_writable(5),
        lambda: request.advance_writable(5),
        lambda: request.skip_writable(-1),
        lambda: request.advance_writable(-1),
    ):
        with pytest.raises(RequestError, match="V014"):
            attempt()
    assert written(pair, *place) == b"\xee" * 4
    assert request.written == 0


def test_fill_takes_the_rest_and_a_byte(pair: Pair) -> None:
    request = pair.serve([], [9])
    assert request.fill(0x41) == 9
    for byte in (-1, 256):
        with pytest.raises(ValueError, match="byte"):
            request.fill(byte)


def test_keep_leaves_room_for_a_status(make_pair: MakePair) -> None:
    pair = make_pair()
    places = [pair.buffer(4), pair.buffer(5)]
    pair.queue.add([], places)
    pair.queue.publish()
    request = pair.take()
    assert request.write_from(b"0123456789", 2, keep=6) == 3
    assert request.fill(0x2A, keep=1) == 5
    request.write_last(b"!")
    assert b"".join(pair.memory.read(*place) for place in places) == b"234*****!"
    assert request.written == 9
    refused: list[Callable[[], object]] = [
        lambda: request.fill(0, keep=2),
        lambda: request.write_from(b"", 0, keep=2),
        lambda: request.write_from(b"x", 1, keep=0),
        lambda: request.fill(0, keep=-1),
    ]
    for write in refused:
        with pytest.raises((RequestError, ValueError)):
            write()
    assert request.written == 9


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, 6), (5, 1), (6, -1), (6, 0), (1 << 62, 1 << 62)])
def test_write_from_a_range_outside_of_the_source(pair: Pair, offset: int, length: int) -> None:
    request = pair.serve([], [100])
    with pytest.raises(ValueError, match="outside"):
        request.write_from(b"12345", offset, length)
    assert request.written == 0


def test_write_last_leaves_the_position(pair: Pair) -> None:
    place = pair.buffer(6)
    pair.queue.add([], [place])
    pair.queue.publish()
    request = pair.take()
    request.write(b"ab")
    request.write_last(b"YZ")
    request.write(b"cd")
    assert written(pair, *place) == b"abcdYZ"
    assert request.writable == 2


# ---------------------------------------------------------------------- completion
def test_V021_a_request_is_completed_once(pair: Pair) -> None:
    request = pair.serve([b"x"], [1])
    assert (request.completed, request.alive, request.held) == (False, True, False)
    request.hold()
    assert request.held
    request.complete()
    assert (request.completed, request.alive) == (True, False)
    with pytest.raises(RequestError, match="V021"):
        request.complete()
    assert pair.queue.poll() is not None
    assert pair.queue.poll() is None


def test_V036_a_completed_request_is_not_used_any_more(pair: Pair, file: int) -> None:
    request = pair.serve([b"x" * 4], [4])
    request.complete()
    for attempt in (
        request.read,
        lambda: request.read_into(bytearray(1)),
        lambda: request.unpack("B"),
        lambda: request.write(b"x"),
        lambda: request.fill(0),
        lambda: request.write_last(b"x"),
        lambda: request.write_from(b"x"),
        lambda: request.write_from_file(file, 0),
        lambda: request.read_to_file(file, 0),
        lambda: request.advance_writable(1),
        request.readable_views,
        request.writable_views,
    ):
        with pytest.raises(RequestError, match="V036"):
            attempt()


def test_C134_after_the_session_completing_does_nothing_and_access_raises(pair: Pair) -> None:
    request = pair.serve([b"x" * 4], [4])
    pair.vring.reset()
    pair.guest.close()
    assert not request.alive
    for attempt in (request.read, lambda: request.write(b"x"), request.writable_views):
        with pytest.raises(RequestError, match="C134"):
            attempt()
    request.complete()
    with pytest.raises(RequestError, match="V021"):
        request.complete()
    assert pair.queue.poll() is None


def test_describe_and_repr(pair: Pair) -> None:
    pair.offer(D(*pair.buffer(b"abc")), D(0xDEAD0000, 8, WRITE), head=3)
    request = pair.take()
    request.read(1)
    text = request.describe()
    assert "queue 0, head 3" in text
    assert "UNMAPPED" in text
    assert "3 bytes readable (1 read), 8 writable (0 written)" in text
    assert "in flight" in repr(request)
    request.complete()
    assert "completed" in repr(request)


def test_user_data_is_free(pair: Pair) -> None:
    request = pair.serve([b"x"])
    assert request.user_data is None
    request.user_data = {"a": 1}
    assert request.user_data == {"a": 1}


def test_the_name_of_the_model_crate() -> None:
    assert DescriptorChain is Request


def test_a_request_of_no_queue_does_nothing() -> None:
    request = Request()
    assert (request.queue, request.readable, request.alive, request.completed) == (-1, 0, False, False)
    for attempt in (request.read, request.complete, lambda: request.write(b"")):
        with pytest.raises(RequestError):
            attempt()
    assert "idle" in repr(request)


def test_V021_a_dropped_request_goes_back_to_the_driver(pair: Pair) -> None:
    request = pair.serve([b"x"], [4])
    request.hold()
    request.write(b"abcd")
    del request
    gc.collect()
    assert pair.queue.poll() is not None
    assert pair.vring.in_flight == 0
    assert pair.vring.statistics()["dropped"] == 1


def test_add_used_is_for_the_queues_own_requests(make_pair: MakePair) -> None:
    one, other = make_pair(), make_pair()
    request = one.serve([b"x"])
    with pytest.raises(ValueError, match="belongs to queue"):
        other.vring.add_used(request)
    one.vring.add_used(request)
    assert one.queue.poll() is not None
