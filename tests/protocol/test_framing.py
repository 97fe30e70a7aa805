"""Frames out of bytes: C001 to C021 as far as the decoder decides them."""

import os
import struct
from collections.abc import Callable

import pytest

from vhost_user.protocol.errors import Disconnected, ProtocolError
from vhost_user.protocol.framing import Frame, FrameDecoder, encode
from vhost_user.spec.requests import FRONTEND_REQUESTS, FrontendRequest
from vhost_user.spec.structs import U64, Header, HeaderFlag, VringState

MakeFds = Callable[[int], list[int]]
STATE = encode(FrontendRequest.SET_VRING_NUM, 0x9, VringState(1, 256).pack())


def decoder(**options: bool) -> FrameDecoder:
    return FrameDecoder(FRONTEND_REQUESTS, **options)


def feed(stream: FrameDecoder, data: bytes) -> list[Frame]:
    """Give all of ``data``, never more than wanted at a time."""
    frames = []
    while data:
        part, data = data[: stream.wanted], data[stream.wanted :]
        frame = stream.receive(part)
        if frame is not None:
            frames.append(frame)
    return frames


def test_C001_header_and_payload_make_a_frame() -> None:
    (frame,) = feed(decoder(), STATE)
    assert frame.header == Header(8, 0x9, 8)
    assert VringState.unpack(frame.payload) == VringState(1, 256)
    assert (frame.is_reply, frame.need_reply, len(frame.fds)) == (False, True, 0)


@pytest.mark.parametrize("split", range(1, len(STATE)))
def test_C001_H31_a_message_split_in_two_anywhere(split: int) -> None:
    stream = decoder()
    frames = feed(stream, STATE[:split]) + feed(stream, STATE[split:])
    assert [frame.payload for frame in frames] == [STATE[12:]]
    assert not stream.inside_message


def test_C001_every_byte_by_itself() -> None:
    stream = decoder()
    results = [stream.receive(bytes([byte])) for byte in STATE]
    assert results[:-1] == [None] * (len(STATE) - 1)
    assert results[-1] is not None


def test_C015_wanted_never_reaches_into_the_next_message() -> None:
    stream = decoder()
    assert stream.wanted == 12
    stream.receive(STATE[:5])
    assert stream.wanted == 7
    stream.receive(STATE[5:12])
    assert stream.wanted == 8
    stream.receive(STATE[12:15])
    assert stream.wanted == 5
    assert stream.inside_message
    assert stream.receive(STATE[15:]) is not None
    assert stream.wanted == 12


def test_C015_pipelined_messages_come_in_order() -> None:
    frames = feed(
        decoder(), b"".join(encode(FrontendRequest.SET_FEATURES, 1, U64(n).pack()) for n in range(50))
    )
    assert [U64.unpack(frame.payload).value for frame in frames] == list(range(50))


def test_C015_more_than_wanted_is_the_callers_mistake(new_fds: MakeFds) -> None:
    with pytest.raises(ValueError, match="20 bytes given, 12 wanted"):
        decoder().receive(STATE, new_fds(1))


def test_a_message_without_payload_is_complete_with_its_header() -> None:
    frame = decoder().receive(encode(FrontendRequest.GET_FEATURES, 1))
    assert frame is not None
    assert frame.payload == b""


@pytest.mark.parametrize("version", [0, 2, 3])
def test_C002_only_version_1(version: int, new_fds: MakeFds) -> None:
    with pytest.raises(ProtocolError, match=rf"GET_FEATURES: protocol version {version}.*C002") as caught:
        decoder().receive(encode(1, version), new_fds(2))
    assert (caught.value.rule, caught.value.message) == ("C002", "GET_FEATURES")


@pytest.mark.parametrize("bit", range(4, 32))
def test_C005_reserved_flags_are_refused_unless_allowed(bit: int, new_fds: MakeFds) -> None:
    data = encode(1, 1 | 1 << bit)
    with pytest.raises(ProtocolError, match="C005"):
        decoder().receive(data, new_fds(1))
    assert decoder(allow_reserved_flags=True).receive(data) is not None


@pytest.mark.parametrize("size", [4097, 1 << 20, 0xFFFFFFFF])
def test_C007_a_huge_size_is_refused_before_reading(size: int, new_fds: MakeFds) -> None:
    stream = decoder()
    with pytest.raises(ProtocolError, match="C007"):
        stream.receive(struct.pack("=III", 24, 1, size), new_fds(8))
    assert stream.wanted == 0


def test_C007_the_largest_legal_size_is_read() -> None:
    stream = decoder()
    stream.receive(struct.pack("=III", 24, 1, 4096))
    assert stream.wanted == 4096
    assert stream.receive(bytes(4096)) is not None


def test_C009_descriptors_come_with_the_first_byte(new_fds: MakeFds) -> None:
    stream = decoder()
    fds = new_fds(2)
    assert stream.receive(STATE[:1], fds) is None
    (frame,) = feed(stream, STATE[1:])
    assert frame.fds.take() == fds
    for fd in fds:
        os.close(fd)


@pytest.mark.parametrize("position", [1, 11, 12, 19])
def test_C009_descriptors_with_later_bytes_are_closed(position: int, new_fds: MakeFds) -> None:
    stream = decoder()
    feed(stream, STATE[:position])
    with pytest.raises(ProtocolError, match="C009"):
        stream.receive(STATE[position : position + 1], new_fds(1))


@pytest.mark.parametrize("count", [9, 16, 253])
def test_C010_H03_H83_more_than_8_descriptors_are_closed(count: int, new_fds: MakeFds) -> None:
    with pytest.raises(ProtocolError, match=f"{count} file descriptors.*C010"):
        decoder().receive(STATE[:12], new_fds(count))


def test_C010_8_descriptors_are_legal(new_fds: MakeFds) -> None:
    frame = decoder().receive(encode(1, 1), new_fds(8))
    assert frame is not None
    assert len(frame.fds) == 8
    frame.fds.close()


@pytest.mark.parametrize("count", [0, 1, 8])
def test_C011_H21_truncated_ancillary_data_is_an_error(count: int, new_fds: MakeFds) -> None:
    with pytest.raises(ProtocolError, match="C011"):
        decoder().receive(STATE[:12], new_fds(count), truncated=True)


def test_C016_H32_end_between_messages_is_clean() -> None:
    stream = decoder()
    feed(stream, STATE)
    with pytest.raises(Disconnected) as caught:
        stream.receive(b"")
    assert caught.value.clean


@pytest.mark.parametrize(
    ("length", "part"), [(1, "header"), (11, "header"), (12, "payload"), (19, "payload")]
)
def test_C016_end_inside_a_message_is_not_clean(length: int, part: str, new_fds: MakeFds) -> None:
    stream = decoder()
    stream.receive(STATE[:1], new_fds(3))
    feed(stream, STATE[1:length])
    name = "SET_VRING_NUM" if part == "payload" else "message"
    with pytest.raises(Disconnected, match=f"^{name}: the stream ended inside the {part}.*C016") as caught:
        stream.receive(b"")
    assert not caught.value.clean


def test_C019_after_an_error_nothing_is_taken(new_fds: MakeFds) -> None:
    stream = decoder()
    with pytest.raises(ProtocolError):
        stream.receive(encode(1, 0))
    with pytest.raises(ProtocolError, match="given up"):
        stream.receive(STATE[:12], new_fds(2))


def test_closing_closes_what_is_held(new_fds: MakeFds) -> None:
    stream = decoder()
    stream.receive(STATE[:4], new_fds(4))
    assert stream.inside_message
    stream.close()
    stream.close()
    assert stream.wanted == 0
    assert not stream.inside_message


def test_C020_an_unknown_message_is_named_by_its_number() -> None:
    with pytest.raises(ProtocolError, match="request 4711: payload"):
        decoder().receive(struct.pack("=III", 4711, 1, 5000))


def test_C021_the_header_is_native_endian() -> None:
    assert encode(1, 5 | HeaderFlag.NEED_REPLY, b"abc")[:12] == struct.pack("@III", 1, 13, 3)
