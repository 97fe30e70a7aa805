"""The format of a device's state, and what of it an attacker can send (C127); docs/state-format.md."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as some

from vhost_user.protocol.state_format import (
    DEEPEST,
    FORMAT,
    HEADER,
    LARGEST_BODY,
    MAGIC,
    MOST_PARTS,
    StateFormatError,
    decode_state,
    encode_state,
)

NAME = "Dice"
PLAIN = some.recursive(
    some.none()
    | some.booleans()
    | some.integers(-(1 << 63), (1 << 64) - 1)
    | some.floats(allow_nan=False)
    | some.text()
    | some.binary(),
    lambda inner: some.lists(inner) | some.dictionaries(some.text(), inner),
    max_leaves=40,
)


def blob(
    body: bytes, *, magic: bytes = MAGIC, form: int = FORMAT, name: bytes = b"Dice", version: int = 1
) -> bytes:
    return HEADER.pack(magic, form, len(name), version, len(body)) + name + body


def refused(data: bytes, words: str, *, newest: int = 1) -> None:
    with pytest.raises(StateFormatError, match=words):
        decode_state(data, NAME, newest)


@given(PLAIN)
def test_what_is_saved_is_loaded(value: Any) -> None:
    assert decode_state(encode_state(NAME, 3, value), NAME, 3) == (value, 3)


@pytest.mark.parametrize("length", [0, 1, 15, 16, 31, 32, 255, 256, 65535, 65536], ids=str)
def test_every_length_of_every_kind_is_read(length: int) -> None:
    """Each of them has several encodings, by its length."""
    for value in ("x" * length, b"x" * length, [None] * length, {str(number): 1 for number in range(length)}):
        assert decode_state(encode_state(NAME, 1, value), NAME, 1)[0] == value


def test_tuples_become_lists_and_buffers_bytes() -> None:
    value = {"a": (1, 2), "b": bytearray(b"x"), "c": memoryview(b"yz")}
    assert decode_state(encode_state(NAME, 1, value), NAME, 1)[0] == {"a": [1, 2], "b": b"x", "c": b"yz"}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": [1, {2, 3}]}, r"the state\['a'\]\[1\] is a set"),
        ([{1: 2}], r"the state\[0\] has the key 1"),
        ([1 << 64], "more than 64 bits"),
        (object(), "is a object"),
    ],
    ids=["set", "key", "number", "object"],
)
def test_what_cannot_be_saved_is_named_with_its_place(value: object, words: str) -> None:
    with pytest.raises(StateFormatError, match=words):
        encode_state(NAME, 1, value)


def test_what_is_too_much_is_not_saved_either() -> None:
    deep: list[Any] = []
    for _ in range(DEEPEST):
        deep = [deep]
    for value in (deep, [None] * MOST_PARTS, b"x" * (LARGEST_BODY + 1)):
        with pytest.raises(StateFormatError):
            encode_state(NAME, 1, value)


def test_C127_every_cut_of_a_state_is_refused() -> None:
    whole = encode_state(NAME, 1, {"numbers": [1, 300, 1 << 40, -7, 0.5], "text": "é", "bytes": b"abc"})
    for length in range(len(whole)):
        refused(whole[:length], "cut short|not a state")
    refused(whole + b"x", "followed by something else")


def test_C127_every_cut_of_a_body_is_refused() -> None:
    """Also where the lengths in the header are right."""
    body = msgpack.packb({"numbers": [1, 300, 1 << 40, -7, 0.5], "text": "é" * 40, "bytes": b"abc" * 100})
    for length in range(len(body)):
        refused(blob(body[:length]), "in the middle")
    refused(blob(body + b"\xc0"), "1 bytes follow")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (blob(b"\xc0", magic=b"QEVM\0\0\0\3"), "not a state of this format"),
        (blob(b"\xc0", form=2), "format 2"),
        (blob(b"\xc0", name=b"Coin"), "another device: 'Coin', not 'Dice'"),
        (blob(b"\xc0", name=b"\xff"), "another device"),
        (blob(b"\xc0", version=2), "version 2; this device knows versions up to 1"),
        (HEADER.pack(MAGIC, FORMAT, 4, 1, 1 << 40) + b"Dice", "claims"),
        (HEADER.pack(MAGIC, FORMAT, 256, 1, 0), "claims"),
        (blob(b""), "in the middle"),
    ],
    ids=["foreign", "format", "other device", "odd name", "newer", "large", "long name", "empty"],
)
def test_C127_foreign_states_are_refused_in_words(data: bytes, words: str) -> None:
    refused(data, words)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"\xc1", "something else than plain data"),
        (msgpack.packb(msgpack.ExtType(5, b"x")), "something else than plain data"),
        (msgpack.packb(msgpack.Timestamp(1, 2)), "something else than plain data"),
        (b"\x81\x01\xc0", "keys are not all text"),
        (b"\x81\x90\xc0", "keys are not all text"),
        (b"\x81\xc4\x01x\xc0", "keys are not all text"),
        (b"\xa1\xff", "cannot be read"),
        (b"\x91" * DEEPEST + b"\x90", "deeper than"),
        (b"\xdd\xff\xff\xff\xff", "in the middle"),
        (b"\xdf\xff\xff\xff\xff", "in the middle"),
        (b"\xc6\xff\xff\xff\xff", "in the middle"),
    ],
    ids=[
        "never", "extension", "timestamp", "number as key", "list as key", "bytes as key", "not UTF-8",
        "deep", "long list", "long map", "long bytes",
    ],
)  # fmt: skip
def test_C127_hostile_bodies_are_refused_in_words(body: bytes, words: str) -> None:
    refused(blob(body), words)


@pytest.fixture
def _never_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """msgpack is not to see it: it makes an object of each byte, and room for what a list claims to have."""

    def fail(*_arguments: object, **_options: object) -> None:
        pytest.fail("a state beyond the limits was unpacked")

    monkeypatch.setattr(msgpack, "unpackb", fail)


@pytest.mark.usefixtures("_never_unpacked")
@pytest.mark.parametrize("part", [b"\x90", b"\x80", b"\xc0", b"\xa0"], ids=["lists", "maps", "nil", "text"])
def test_C127_many_small_parts_are_counted_before_the_first_is_made(part: bytes) -> None:
    refused(blob(b"\xdd" + MOST_PARTS.to_bytes(4, "big") + part * MOST_PARTS), "more than")


@pytest.mark.usefixtures("_never_unpacked")
def test_C127_lists_that_claim_to_be_long_inside_each_other_are_counted_too() -> None:
    level = b"\xdd" + (MOST_PARTS - 100).to_bytes(4, "big")
    refused(blob(level * (DEEPEST - 1) + b"\xc4\x00" * MOST_PARTS), "more than")


@given(some.binary(max_size=200))
def test_C127_any_bytes_at_all_are_read_or_refused(body: bytes) -> None:
    try:
        value, _ = decode_state(blob(body), NAME, 1)
    except StateFormatError:
        return
    assert repr(msgpack.unpackb(body)) == repr(value)
